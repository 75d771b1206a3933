"""Narrower variants of a task: which device trains which, and how their updates become one."""

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from edge_parts import TASK
from shoal_codecs.updates.base import EncodeContext
from shoal_codecs.updates.errors import SliceShapeError
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import encode_ring
from shoal_codecs.updates.slices import ModelLevels, ModelSlice
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import CodecPlan, Plan, PrivacyPlan, TrainingPlan
from shoal_codecs.wire.task import Parameter, TaskBundle, Variant, dimension
from shoal_codecs.wire.told import PlainShare
from shoal_coordinator.aggregation import (
    Server,
    aggregate_reports,
    aggregate_words,
    vector_bytes,
    vector_of,
)
from shoal_coordinator.algorithms.averaging import FedAvg
from shoal_coordinator.algorithms.choosing import chosen_algorithm
from shoal_coordinator.algorithms.registry import make_algorithm
from shoal_coordinator.algorithms.settings import AlgorithmSettings
from shoal_coordinator.algorithms.state import AlgorithmState, decode_state, encode_state
from shoal_coordinator.config import CoordinatorSettings, PrivacySettings, RoundSettings
from shoal_coordinator.level_desk import LevelDesk, level_desk
from shoal_coordinator.plain_reports import open_update
from shoal_coordinator.round_errors import IncompatibleVariantsError, InvalidReportError
from shoal_coordinator.selection import NotEnoughDevicesError, takes
from shoal_coordinator.service import plan_settings
from shoal_edge.errors import WiderModelError
from shoal_edge.probe import Probe
from shoal_edge.width import NONE, widest
from shoal_edge.worker_task import level_within, refuse_wider
from wire_parts import plan as wire_plan

FULL = (Parameter("w", (4, 3)), Parameter("b", (3,)))
HALF = (Parameter("w", (4, 2)), Parameter("b", (2,)))
SLIM = (Parameter("w", (4, 1)), Parameter("b", (1,)))
DEVICES = ("device-01", "device-02", "device-03")


def task(*shares: tuple[float, tuple[Parameter, ...]]) -> TaskBundle:
    """A task whose models are of these shapes; nothing here runs them."""
    variants = tuple(Variant(share, b"", parameters, TASK.reference) for share, parameters in shares)
    return msgspec.structs.replace(
        TASK, parameters=FULL, variants=variants, abilities=("mu", "correction"), local=()
    )


BUNDLE = task((0.5, HALF), (0.25, SLIM))
LEVELS = ModelLevels(BUNDLE)


@pytest.mark.parametrize(
    ("percent", "level"), [(100, 0), (99, 1), (50, 1), (49, 2), (25, 2), (24, None), (1, None), (0, 2)]
)
def test_a_device_gets_the_widest_model_it_takes(percent: int, level: int | None) -> None:
    assert LEVELS.level_for(percent) == level
    # Whatever their order in the task.
    mixed = ModelLevels(task((0.25, SLIM), (0.5, HALF)))
    found = mixed.level_for(percent)
    assert (found is None) == (level is None)
    assert level is None or mixed.percents[found or 0] == LEVELS.percents[level]


def test_a_level_says_which_part_of_the_model_it_is() -> None:
    assert LEVELS.slice_of(0) is None
    half = LEVELS.slice_of(1)
    assert half is not None
    assert_array_equal(half.positions, [0, 1, 3, 4, 6, 7, 9, 10, 12, 13])
    assert half.kept(15) == 10
    assert half.kept(3) == 2
    assert LEVELS.bundle_of(2).parameters == SLIM
    assert LEVELS.bundle_of(0) is BUNDLE
    for level in (-1, 3):
        with pytest.raises(SliceShapeError, match="plan anew"):
            LEVELS.slice_of(level)


def test_a_device_refuses_more_than_it_takes() -> None:
    for level, percent in ((0, 100), (1, 50), (2, 50), (2, 0), (2, 25)):
        refuse_wider(BUNDLE, level, percent)
    for level, percent in ((0, 50), (1, 49), (1, 0), (2, 10)):
        with pytest.raises(WiderModelError, match="raise `width`"):
            refuse_wider(BUNDLE, level, percent)
    with pytest.raises(WiderModelError):
        refuse_wider(task(), 0, 50)
    refuse_wider(task(), 0, 0)
    assert [level_within(BUNDLE, percent) for percent in (100, 50, 30, 0)] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("fit_s", "memory", "percent"),
    [(10, 0, 100), (5, 0, 50), (1, 0, 25), (0.5, 0, NONE), (10, 20, 50), (10, 5, NONE)],
)
def test_the_widest_that_fits_is_what_a_device_takes(fit_s: float, memory: int, percent: int) -> None:
    probes = [Probe(25, 1, 10), Probe(50, 3, 20), Probe(100, 10, 40)]
    assert widest(probes, fit_s, memory) == percent


def test_who_says_nothing_takes_everything() -> None:
    assert takes(None, 100)
    assert takes("much", 100)
    assert takes(True, 100)  # noqa: FBT003 - a reading, as a stranger might send it
    assert takes(50, 50)
    assert takes(0, 50)
    assert not takes(49, 50)


# --- plans ----------------------------------------------------------------------------------------


def plain_plan(variants: bytes = b"", name: str = "dense", **changes: Any) -> Plan:
    about = CodecPlan(name, 15, 15 if name == "dense" else 8, 100.0, 127, 0, 100)
    hubs = wire_plan().hubs[:1]
    fields: dict[str, Any] = {"mode": "plain", "codec": about, "hubs": hubs, "variants": variants}
    return wire_plan(**(fields | changes))


def test_a_plan_says_what_everybody_trains() -> None:
    plan = plain_plan(bytes([0, 1, 2]))
    assert [plan.level_of(device) for device in DEVICES] == [0, 1, 2]
    assert plan.sliced
    assert plain_plan().level_of("device-02") == 0
    assert not plain_plan().sliced


def noise() -> PrivacyPlan:
    return PrivacyPlan("central", 1.0, 0, 1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"variants": bytes([0, 1])},
        {"variants": bytes([0, 1, 2]), "mode": "hubs", "hubs": wire_plan().hubs, "codec": wire_plan().codec},
        {"variants": bytes([0, 1, 2]), "privacy": noise()},
        {"variants": bytes([0, 1, 2]), "name": "randk"},
        {"variants": bytes([1, 1, 1]), "training": TrainingPlan(1, 0.1, 1, local=("b",))},
        {"variants": bytes([1, 1, 1]), "training": TrainingPlan(1, 0.1, 1, ditto=0.1)},
    ],
)
def test_plans_that_would_show_few_or_mix_shapes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidPlanError, match="variant"):
        plain_plan(**changes)


def test_one_variant_for_all_is_allowed_everywhere() -> None:
    same = bytes([1, 1, 1])
    shared = wire_plan(variants=same)
    assert not shared.sliced
    assert not plain_plan(same, privacy=noise()).sliced
    assert not plain_plan(same, "randk").sliced
    assert plain_plan(same).sliced


# --- averaging ------------------------------------------------------------------------------------


def share_of(plan: Plan, device: str, update: np.ndarray[Any, Any], examples: int = 10) -> bytes:
    cut = LEVELS.slice_of(plan.level_of(device))
    kept = plan.codec.kept if cut is None else cut.kept(plan.codec.kept)
    context = EncodeContext(dimension=update.size, kept=kept, rng=np.random.default_rng(0))
    payload = codec(plan.codec.name).encode(update.astype(np.float32), context).payload
    return pack(PlainShare(examples, payload))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 200)), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_a_coordinate_is_the_mean_over_those_that_have_it(trained: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = plain_plan(bytes(level for level, _ in trained))
    shares, total, mass = {}, np.zeros(15), np.zeros(15)
    for device, (level, examples) in zip(DEVICES, trained, strict=True):
        cut = LEVELS.slice_of(level)
        update = rng.normal(size=15 if cut is None else cut.dimension).astype(np.float32)
        shares[device] = share_of(plan, device, update, examples)
        # As the definition says, one coordinate after the other.
        for place in range(15):
            where = {int(p): n for n, p in enumerate(cut.positions)} if cut else {n: n for n in range(15)}
            if place in where:
                total[place] += min(examples, 100) * float(update[where[place]])
                mass[place] += min(examples, 100)
    base = np.zeros(15, np.float32)
    if len(set(plan.variants)) == 1 and plan.variants[0] == 0:
        plan = plain_plan()
    found = vector_of(aggregate_reports(plan, vector_bytes(base), shares, levels=LEVELS).data)
    wanted = np.divide(total, mass, out=np.zeros(15), where=mass > 0)
    # The step down is coded in levels of half the root mean square of the move.
    level = 0.5 * np.sqrt(np.mean(np.square(wanted[wanted != 0])))
    assert_allclose(found, wanted, rtol=0, atol=level / 2 + 1e-6)
    assert not found[mass == 0].any()


UNSEEN = np.setdiff1d(np.arange(15), (HALF_CUT := ModelSlice(FULL, HALF)).positions)
"""What no device on a variant of BUNDLE has."""


def stepped(name: str, mean: Any, old: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """How the server moves at a rate of 1 by the papers' formulas, one coordinate like another."""
    if name == "fedavgm":
        velocity = 0.9 * old["velocity"] + mean
        return velocity, {"velocity": velocity}
    first = 0.9 * old["first"] + 0.1 * mean
    square = mean**2
    second = {
        "fedadam": 0.99 * old["second"] + 0.01 * square,
        "fedyogi": old["second"] - 0.01 * square * np.sign(old["second"] - square),
        "fedadagrad": old["second"] + square,
    }[name]
    return first / (np.sqrt(second) + 1e-3), {"first": first, "second": second}


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_momentum_moves_nothing_that_nobody_of_the_round_has(name: str) -> None:
    """A full round gives every coordinate moments; in the next the widest model is half as wide."""
    rng, base = np.random.default_rng(3), np.linspace(-1, 1, 15, dtype=np.float32)
    server = Server(1.0, level_rms=0.01, algorithm=make_algorithm(name))
    rounds = [plain_plan(), plain_plan(bytes([1, 2, 1])), plain_plan(bytes([0, 2, 1]))]
    for plan, untouched in zip(rounds, (UNSEEN[:0], UNSEEN, UNSEEN[:0]), strict=True):
        before = server.state(15).vectors
        start = {key: before[key].astype(np.float64) for key in before} or {
            "velocity": np.zeros(15),
            "first": np.zeros(15),
            "second": np.full(15, 1e-6),
        }
        shares, total, mass = {}, np.zeros(15), np.zeros(15)
        for device in DEVICES:
            cut = LEVELS.slice_of(plan.level_of(device))
            places = np.arange(15) if cut is None else cut.positions
            update = rng.normal(size=places.size).astype(np.float32)
            shares[device] = share_of(plan, device, update)
            total[places] += update
            mass[places] += 1
        made = aggregate_reports(plan, vector_bytes(base), shares, server, levels=LEVELS)
        after = decode_state(made.state, name, 15).vectors
        moved = vector_of(made.data).astype(np.float64) - base
        wanted, moments = stepped(name, np.divide(total, mass, out=np.zeros(15), where=mass > 0), start)
        seen = np.setdiff1d(np.arange(15), untouched)
        assert_allclose(moved[seen], wanted[seen], rtol=0, atol=0.02 * np.abs(wanted).max())
        for key, vector in after.items():
            assert_allclose(vector[seen], moments[key][seen], rtol=1e-5, atol=1e-7)
        if len(untouched):
            assert_array_equal(vector_of(made.data)[untouched], base[untouched])
            assert all((vector[untouched] == before[key][untouched]).all() for key, vector in after.items())
            assert np.abs(wanted[untouched]).min() > 0
        base, server = vector_of(made.data), replace(server, memory=made.state)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm"])
@pytest.mark.parametrize("skellam", [0.0, 30.0])
def test_what_a_narrow_round_of_unseen_updates_lacks_is_moved_by_neither_momentum_nor_noise(
    name: str, skellam: float
) -> None:
    """Nor by a device that puts more into the sum than its variant has."""
    about = CodecPlan("randk", 15, 12, 4.0, 127, 16, 100)
    noised = PrivacyPlan("skellam", skellam, 0, 1e-5) if skellam else None
    plan = wire_plan(variants=bytes([1, 1, 1]), codec=about, privacy=noised)
    spec, rng = ring_spec(plan), np.random.default_rng(5)
    words = np.zeros(spec.words, np.uint32)
    for number in range(len(DEVICES)):
        update = HALF_CUT.spread(rng.normal(scale=0.3, size=10).astype(np.float32))
        update[UNSEEN] = 0.2 * (number == 0)
        words += encode_ring(update, 50, spec, rng)
    words = (words & np.uint32(0xFFFF)).astype(np.uint16)
    velocity = AlgorithmState("fedavgm", {"velocity": np.ones(15, np.float32)})
    server = Server(0.5, algorithm=make_algorithm(name), memory=encode_state(velocity))
    base = np.linspace(-1, 1, 15, dtype=np.float32)
    made = aggregate_words(plan, vector_bytes(base), words.copy(), server, levels=LEVELS)
    found = vector_of(made.data)
    assert_array_equal(found[UNSEEN], base[UNSEEN])
    drawn = np.intersect1d(spec.coordinates, HALF_CUT.positions)
    assert (found[drawn] != base[drawn]).sum() > drawn.size // 2
    if name == "fedavgm":
        after = decode_state(made.state, name, 15).vectors["velocity"]
        assert_array_equal(after[UNSEEN], 1)
        assert (after[drawn] != 1).all()
    # The test would not notice otherwise: all of that is in the sum.
    wide = aggregate_words(plan, vector_bytes(base), words, server)
    assert (vector_of(wide.data)[UNSEEN] != base[UNSEEN]).any()


def test_noise_of_the_coordinator_s_own_moves_nothing_that_nobody_has() -> None:
    plan = plain_plan(bytes([1, 1, 1]), privacy=noise())
    base = np.linspace(-1, 1, 15, dtype=np.float32)
    context = EncodeContext(dimension=15, kept=15, rng=np.random.default_rng(0))
    update = HALF_CUT.spread(np.full(10, 0.5, np.float32))
    shares = {name: pack(PlainShare(10, codec("dense").encode(update, context).payload)) for name in DEVICES}
    found = vector_of(aggregate_reports(plan, vector_bytes(base), shares, levels=LEVELS).data)
    assert_array_equal(found[UNSEEN], base[UNSEEN])
    assert (found[HALF_CUT.positions] != base[HALF_CUT.positions]).any()


def test_a_payload_has_the_length_of_its_device_s_variant() -> None:
    plan = plain_plan(bytes([0, 1, 2]))
    wide, slim = (
        share_of(plan, device, np.ones(size)) for device, size in (("device-01", 15), ("device-03", 5))
    )
    assert len(wide) - len(slim) == 4 * 10
    opened = open_update(plan, slim, "device-03", levels=LEVELS)
    assert opened.covered is not None
    assert_array_equal(np.flatnonzero(opened.update), opened.covered)
    with pytest.raises(InvalidReportError, match="update the device"):
        open_update(plan, wide, "device-03", levels=LEVELS)
    half = share_of(plain_plan(bytes([1, 1, 1]), "topk"), "device-01", np.arange(10.0))
    found = open_update(plain_plan(bytes([1, 1, 1]), "topk"), half, "device-01", levels=LEVELS)
    assert np.count_nonzero(found.update) == 5


# --- who is invited to what -----------------------------------------------------------------------


class Herd:
    """Devices and the per cent they take; at least ``minimum`` make a round."""

    def __init__(self, minimum: int, **percents: int) -> None:
        self.minimum = minimum
        self.percents = percents

    def choose(self, least: int) -> tuple[str, ...]:
        names = tuple(name for name, percent in self.percents.items() if takes(percent, least))
        if len(names) < self.minimum:
            raise NotEnoughDevicesError(len(names), self.minimum, {})
        return names

    def variants(self, desk: LevelDesk, number: int, name: str = "dense") -> tuple[tuple[str, ...], bytes]:
        cohort, level = desk.cohort(self.choose, number)
        return cohort, desk.variants(cohort, level, self.percents.__getitem__, name)


def test_where_updates_are_seen_each_trains_its_own() -> None:
    herd = Herd(2, c=25, a=100, b=60, d=10, e=0)
    cohort, variants = herd.variants(LevelDesk(LEVELS, used=True, mixed=True), 5)
    assert cohort == ("c", "a", "b", "e")
    # By name: a, b, c, e.
    assert variants == bytes([0, 1, 2, 2])
    assert Herd(2, a=100, b=100).variants(LevelDesk(LEVELS, used=True, mixed=True), 5)[1] == b""
    # A day's bytes can ask for a codec that has one width for all.
    assert herd.variants(LevelDesk(LEVELS, used=True, mixed=True), 5, "randk")[1] == bytes([2, 2, 2, 2])


def test_where_they_are_not_a_round_has_one_width_in_turn() -> None:
    desk = LevelDesk(LEVELS, used=True, mixed=False)
    herd = Herd(2, a=100, b=100, c=50, d=25)
    assert [herd.variants(desk, number) for number in (3, 4, 5)] == [
        (("a", "b"), b""),
        (("a", "b", "c"), bytes([1, 1, 1])),
        (("a", "b", "c", "d"), bytes([2, 2, 2, 2])),
    ]
    # Where too few take the width whose turn it is, the next narrower has its.
    few = Herd(2, a=100, c=50, d=25)
    assert [few.variants(desk, number)[1] for number in (3, 4, 5)] == [
        bytes([1, 1]),
        bytes([1, 1]),
        bytes(3 * [2]),
    ]
    with pytest.raises(NotEnoughDevicesError) as caught:
        Herd(5, a=100, c=50, d=25).variants(desk, 3)
    assert caught.value.fit == 3


def test_without_variants_small_devices_stay_away() -> None:
    desk = LevelDesk(ModelLevels(task()), used=False, mixed=True)
    assert Herd(1, a=100, c=50).variants(desk, 3) == (("a",), b"")


def desk_of(bundle: TaskBundle, **rounds: Any) -> tuple[LevelDesk, str]:
    settings = RoundSettings(**({"mode": "plain", "codec": "dense"} | rounds))
    plans = plan_settings(CoordinatorSettings(rounds=settings), bundle, 10)
    return level_desk(settings, plans, bundle, chosen_algorithm(settings, bundle))


@pytest.mark.parametrize(
    ("rounds", "mixed"),
    [
        ({}, True),
        ({"codec": "topk"}, True),
        ({"codec": "randk"}, False),
        ({"mode": "hubs", "codec": "randk"}, False),
        ({"privacy": PrivacySettings(mechanism="central", allow_small_fleet=True)}, False),
    ],
)
def test_widths_are_mixed_where_single_updates_are_averaged(rounds: dict[str, Any], mixed: bool) -> None:  # noqa: FBT001
    desk, unused = desk_of(BUNDLE, **rounds)
    assert unused == ""
    assert (desk._used, desk._mixed) == (True, mixed)


@pytest.mark.parametrize(
    ("rounds", "word"),
    [
        ({"local": ("b",)}, "local"),
        ({"ditto": 0.1}, "ditto"),
        ({"algorithm": AlgorithmSettings(name="fedbuff")}, "fedbuff"),
    ],
)
def test_what_does_not_go_with_variants_is_said(rounds: dict[str, Any], word: str) -> None:
    desk, unused = desk_of(BUNDLE, **rounds)
    assert not desk._used
    assert word in unused
    with pytest.raises(IncompatibleVariantsError, match="widths to off"):
        desk_of(BUNDLE, widths="on", **rounds)
    assert desk_of(BUNDLE, widths="off", **rounds)[1] == ""
    assert desk_of(task())[1] == ""
    with pytest.raises(IncompatibleVariantsError, match="author it with widths"):
        desk_of(task(), widths="on")


def test_the_full_model_of_these_tests_is_no_other() -> None:
    assert dimension(FULL) == 15


def test_an_algorithm_with_a_way_of_its_own_gets_one_width_a_round() -> None:
    class Median(FedAvg):
        def combine(self, reports: Any, state: Any) -> Any:
            raise NotImplementedError

    settings = RoundSettings(mode="plain", codec="dense")
    plans = plan_settings(CoordinatorSettings(rounds=settings), BUNDLE, 10)
    assert FedAvg().averages
    assert not level_desk(settings, plans, BUNDLE, Median())[0]._mixed
