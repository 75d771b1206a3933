"""What private rounds tell: kept over restarts, and the clip norm that follows from it."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.updates.ring_extras import NOTHING_TOLD, Estimate, RoundTold
from shoal_codecs.wire.packing import pack
from shoal_coordinator.store import Store
from shoal_coordinator.store.errors import DamagedStoreError
from shoal_coordinator.told import LEAST_CLIP, MOST_CLIP, ClipRule, ToldBook


def told(clipped: float) -> RoundTold:
    return RoundTold(Estimate(clipped, 0.02), Estimate(1.5, 0.1), Estimate(0.7, 0.03))


async def opened(folder: Path, rule: ClipRule | None = None) -> tuple[Store, ToldBook]:
    store = await Store.open(folder)
    book = ToldBook(store, rule or ClipRule(), 4.0)
    await book.load()
    return store, book


async def test_a_restart_goes_on_with_the_clip_norm_of_the_version(tmp_path: Path) -> None:
    store, book = await opened(tmp_path)
    assert book.clip_norm(0) == 4.0
    following = await book.learn(1, 4.0, told(1.0))
    assert following == pytest.approx(4.0 * math.exp(0.2 * 0.5))
    await store.close()
    store, book = await opened(tmp_path)
    assert book.clip_norm(1) == following
    assert book.told(1) == told(1.0)
    # A round on version 0, were there one again, would begin as the first one did.
    assert book.clip_norm(0) == 4.0
    assert book.clip_norm(5) == following
    await store.close()


async def test_a_round_that_is_done_again_moves_the_norm_once(tmp_path: Path) -> None:
    store, book = await opened(tmp_path)
    first = await book.learn(1, 4.0, told(1.0))
    again = await book.learn(1, 4.0, told(1.0))
    assert first == again == book.clip_norm(1)
    for version in range(2, 6):
        await book.learn(version, book.clip_norm(version - 1), told(0.0))
    assert book.told(1) == NOTHING_TOLD
    assert book.told(5) == told(0.0)
    assert book.clip_norm(5) == pytest.approx(4.0 * math.exp(0.1 - 4 * 0.1))
    await store.close()


async def test_a_round_whose_version_never_came_leaves_the_norm_of_its_base(tmp_path: Path) -> None:
    store, book = await opened(tmp_path)
    first = await book.learn(1, 4.0, told(1.0))
    assert await book.learn(2, first, told(1.0)) > first
    await store.close()
    store, book = await opened(tmp_path)
    # The process ended before version 2 was committed: its round begins with version 1 again.
    assert book.clip_norm(1) == first
    await store.close()


async def test_rounds_that_tell_nothing_leave_everything(tmp_path: Path) -> None:
    store, book = await opened(tmp_path)
    assert await book.learn(1, 4.0, NOTHING_TOLD) == 4.0
    only_metrics = RoundTold(loss=Estimate(1.0, 0.1), accuracy=Estimate(0.5, 0.1))
    assert await book.learn(2, 4.0, only_metrics) == 4.0
    assert book.told(2) == only_metrics
    await store.close()


@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_the_norm_finds_the_quantile(quantile: float) -> None:
    """Updates of changing length, a noisy bit: Andrew et al. 2021, figure 1."""
    rng, rule, clip = np.random.default_rng(3), ClipRule(quantile=quantile), 100.0
    lengths = rng.lognormal(mean=1.0, sigma=0.5, size=2000)
    for _ in range(120):
        clip = rule.next(clip, float(np.clip((lengths > clip).mean() + rng.normal(scale=0.02), 0, 1)))
    assert clip == pytest.approx(float(np.quantile(lengths, quantile)), rel=0.1)


@given(st.floats(1e-9, 1e9), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 2))
def test_the_norm_stays_a_norm(clip: float, clipped: float, quantile: float, rate: float) -> None:
    assert LEAST_CLIP <= ClipRule(quantile=quantile, rate=rate).next(clip, clipped) <= MOST_CLIP


async def test_a_value_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Whatever lies in the file: a named error with what to do, and never a traceback."""
    store, book = await opened(tmp_path)
    for content in (b"\xc1", b"\x93\x01\x02\x03", pack({"one": 2}), pack({1: {"told": 3}})):
        await store.set_value("told", content)
        with pytest.raises(DamagedStoreError, match=r"value 'told'.*put a backup in its place"):
            await book.load()
    await store.close()
