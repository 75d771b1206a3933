"""Noise as it is drawn: against independent distributions, whole and in its tails."""

import json
import math
from collections.abc import Callable
from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.privacy.errors import NoiseSizeError
from shoal_codecs.privacy.noise_table import (
    NoiseTable,
    discrete_gaussian_table,
    rounded_laplace_table,
    skellam_table,
)
from shoal_codecs.privacy.samplers import PIECE, draw, noise_pieces

KEY = bytes(range(32))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "noise.json").read_text(encoding="utf-8"))
DRAWS = 400_000
# A fit this bad comes once in a million runs; keys are fixed, so that a test fails always or never.
LEAST_P = 1e-6


def skellam_mass(variance: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda k: scipy.stats.skellam.pmf(k, variance / 2, variance / 2)


def gaussian_mass(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    reach = math.ceil(12 * sigma) + 2
    whole = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2)).sum()
    return lambda k: np.exp(-(k.astype(float) ** 2) / (2 * sigma**2)) / whole


def laplace_mass(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    law = scipy.stats.laplace(scale=scale)
    return lambda k: law.cdf(k + 0.5) - law.cdf(k - 0.5)


CASES = [
    *((skellam_table, v, skellam_mass(v)) for v in (2.0**-10, 0.3, 1.0, 40.0, 5e4)),
    *((discrete_gaussian_table, s, gaussian_mass(s)) for s in (0.4, 1.0, 7.5, 300.0)),
    *((rounded_laplace_table, b, laplace_mass(b)) for b in (0.4, 1.0, 7.5, 300.0)),
]


def masses_of(table: NoiseTable) -> list[int]:
    """Return 2**(64 + bits) times the probability of each magnitude, read from the table itself."""
    masses = [0] * (1 << table.bits)
    for column, (threshold, alias) in enumerate(
        zip(table.threshold.tolist(), table.alias.tolist(), strict=True)
    ):
        masses[column] += threshold
        masses[alias] += (1 << 64) - threshold
    return masses


@pytest.mark.parametrize(("make", "size", "mass"), CASES)
def test_draws_follow_their_distribution(
    make: Callable[[float], NoiseTable], size: float, mass: Callable[[np.ndarray], np.ndarray]
) -> None:
    numbers = draw(make(size), DRAWS, KEY)
    edge = int(np.abs(numbers).max()) + 1
    values = np.arange(-edge, edge + 1)
    expected = mass(values) * DRAWS
    # Cells that hold few are put together, from both ends.
    step = max(1, len(values) // 200)
    cells = np.add.reduceat(expected, np.arange(0, len(values), step))
    found = np.add.reduceat(
        np.bincount(numbers + edge, minlength=len(values)), np.arange(0, len(values), step)
    )
    full = cells >= 10
    observed = np.append(found[full], found[~full].sum())
    wanted = np.append(cells[full], DRAWS - cells[full].sum())
    keep = wanted > 1e-3
    result = scipy.stats.chisquare(observed[keep], wanted[keep] * observed[keep].sum() / wanted[keep].sum())
    assert result.pvalue > LEAST_P
    variance = float((mass(values) * values.astype(float) ** 2).sum())
    fourth = float((mass(values) * values.astype(float) ** 4).sum())
    assert abs(numbers.mean()) < 6 * math.sqrt(variance / DRAWS)
    assert abs((numbers.astype(float) ** 2).mean() - variance) < 6 * math.sqrt((fourth - variance**2) / DRAWS)


@pytest.mark.parametrize("variance", [1e-3, 0.7, 12.0])
def test_a_table_is_exact_to_far_below_two_to_the_minus_fifty(variance: float) -> None:
    """Against the power series of the Bessel function in 60 digits, tails included."""
    getcontext().prec = 60
    half, table = Decimal(variance) / 2, skellam_table(variance)

    def mass(k: int) -> Decimal:
        series = sum(half ** (2 * j + k) / (math.factorial(j) * math.factorial(j + k)) for j in range(60))
        return series * (-Decimal(variance)).exp() * (2 if k else 1)

    unit = Decimal(2) ** (64 + table.bits)
    found = masses_of(table)
    assert sum(found) == 1 << (64 + table.bits)
    distance = sum(abs(Decimal(found[k]) / unit - mass(k)) for k in range(table.reach + 1)) / 2
    assert distance < Decimal(2) ** -60
    assert sum(mass(k) for k in range(table.reach + 1, table.reach + 40)) < Decimal(2) ** -100


@pytest.mark.parametrize("variance", [5e4, 1e6, 1e9])
def test_large_tables_have_the_moments_of_what_they_stand_for(variance: float) -> None:
    table = skellam_table(variance)
    masses = np.array(masses_of(table), dtype=np.float64) / 2.0 ** (64 + table.bits)
    k = np.arange(masses.size, dtype=np.float64)
    assert masses.sum() == pytest.approx(1, abs=1e-12)
    assert (masses * k**2).sum() == pytest.approx(variance, rel=1e-9)
    # The fourth cumulant of Skellam noise is its variance.
    assert (masses * k**4).sum() == pytest.approx(3 * variance**2 + variance, rel=1e-9)


def test_a_wide_draw_keeps_its_deviation_and_its_tails() -> None:
    variance = 1e9
    numbers = draw(skellam_table(variance), 1_000_000, KEY)
    spread = math.sqrt(variance)
    assert numbers.std() == pytest.approx(spread, rel=0.005)
    beyond = (np.abs(numbers) > 3 * spread).mean()
    assert beyond == pytest.approx(math.erfc(3 / math.sqrt(2)), rel=0.1)


def test_pieces_make_what_a_whole_draw_makes() -> None:
    table, count = skellam_table(9.0), 2 * PIECE + 777
    pieces = [(start, numbers.copy()) for start, numbers in noise_pieces(table, count, KEY)]
    assert [start for start, _ in pieces] == [0, PIECE, 2 * PIECE]
    assert np.array_equal(np.concatenate([numbers for _, numbers in pieces]), draw(table, count, KEY))
    assert np.array_equal(draw(table, 5, KEY), draw(table, count, KEY)[:5])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: f"{one['distribution']} {one['size']:g}")
def test_committed_vectors(vector: dict[str, Any]) -> None:
    """A key draws the same numbers for years, on every platform."""
    makers = {
        "skellam": skellam_table,
        "discrete gaussian": discrete_gaussian_table,
        "rounded laplace": rounded_laplace_table,
    }
    table = makers[vector["distribution"]](vector["size"])
    assert draw(table, len(vector["draws"]), bytes.fromhex(vector["key"])).tolist() == vector["draws"]


def test_every_draw_has_a_key_of_its_own_from_the_system() -> None:
    table = skellam_table(1e4)
    assert not np.array_equal(draw(table, 100), draw(table, 100))
    with mock.patch("shoal_codecs.privacy.samplers.os.urandom", return_value=KEY) as source:
        assert np.array_equal(draw(table, 100), draw(table, 100, KEY))
    source.assert_called_once_with(32)


@given(st.floats(2.0**-10, 2000.0))
def test_any_variance_makes_a_whole_table(variance: float) -> None:
    table = skellam_table(variance)
    masses = np.array(masses_of(table), dtype=np.float64) / 2.0 ** (64 + table.bits)
    assert (masses * np.arange(masses.size) ** 2.0).sum() == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("variance", [0.0, -1.0, 1e-4, 1e10, math.inf, math.nan])
def test_noise_that_no_table_holds_is_named(variance: float) -> None:
    with pytest.raises(NoiseSizeError, match="change the clamp"):
        skellam_table(variance)


def test_long_tails_are_named_too() -> None:
    with pytest.raises(NoiseSizeError):
        rounded_laplace_table(40_000.0)
    with pytest.raises(NoiseSizeError):
        discrete_gaussian_table(1e6)


def test_sums_of_devices_noise_are_noise_of_the_sum() -> None:
    """Skellam noise adds up to Skellam noise: what each of 80 devices adds is what the plan promises."""
    whole, devices = 640.0, 80
    table = skellam_table(whole / devices)
    total = sum(draw(table, DRAWS // 8, bytes([n]) * 32) for n in range(devices))
    assert isinstance(total, np.ndarray)
    edge = 60
    values = np.arange(-edge, edge + 1)
    expected = skellam_mass(whole)(values)
    found = np.bincount(np.clip(total, -edge, edge) + edge, minlength=2 * edge + 1)
    inner = slice(1, -1)
    result = scipy.stats.chisquare(found[inner], expected[inner] / expected[inner].sum() * found[inner].sum())
    assert result.pvalue > LEAST_P
