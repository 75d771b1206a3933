"""From sums and reports to the next version."""

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from shoal_codecs.secagg.additive import SeedSum, ShareSum, split
from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.security.errors import UnsealError
from shoal_codecs.security.identity import Identity, sealing_public_of
from shoal_codecs.security.sealing import seal
from shoal_codecs.updates.base import EncodeContext
from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.errors import PayloadLengthError, RingSumRangeError, UnledRoundError
from shoal_codecs.updates.levels import unpack_levels
from shoal_codecs.updates.model_step import largest_moves, step_selection
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import encode_ring, pack_ring, unpack_ring
from shoal_codecs.updates.step import Step, apply_step
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import HubOffer, Plan, coordinate_seed, encode_plan, plan_hash
from shoal_codecs.wire.step import decode_step
from shoal_coordinator.aggregation import (
    Candidate,
    Server,
    aggregate_reports,
    aggregate_sums,
    vector_bytes,
    vector_of,
)
from shoal_coordinator.algorithms.registry import make_algorithm
from shoal_coordinator.algorithms.schedules import ScheduleSettings
from shoal_coordinator.algorithms.settings import AlgorithmSettings
from shoal_coordinator.algorithms.state import AlgorithmState, decode_state, encode_state
from shoal_coordinator.plain_reports import open_update
from shoal_coordinator.planning import PlanSettings, make_plan
from shoal_coordinator.round_errors import AggregationError, InvalidReportError, NoUsableReportError

D = 2000
COHORT = [f"device-{n}" for n in range(5)]
SET = b"s" * 32
COORDINATOR = Identity("coordinator", b"c" * 32)
BASE = np.random.default_rng(5).normal(size=D).astype(np.float32)
Vector = npt.NDArray[np.float32]


def plan_of(mode: str, codec_name: str = "randk", source: bytes = b"", **changes: object) -> Plan:
    settings = PlanSettings(fleet="f", mode=mode, codec=codec_name, **changes)  # type: ignore[arg-type]
    hubs = ("hub-1", "hub-2") if mode == "hubs" else ("coordinator",)
    return make_plan(
        settings,
        number=1,
        task=b"t" * 32,
        base=digest_of(vector_bytes(BASE)),
        roster=b"r" * 32,
        dimension=D,
        cohort=COHORT,
        offers={hub: HubOffer(hub, b"k" * 32, hub.encode().ljust(32)) for hub in hubs},
        hubs=hubs,
        now_ms=10**12,
        source=source,
    )


def updates(scale: float = 0.02) -> dict[str, tuple[Vector, int]]:
    rng = np.random.default_rng(7)
    return {
        name: (rng.normal(scale=scale, size=D).astype(np.float32), 40 + 30 * index)
        for index, name in enumerate(COHORT)
    }


def hub_words(plan: Plan, given: dict[str, tuple[Vector, int]], source: bytes = b"") -> dict[str, bytes]:
    """What both hubs would release, made with the real sharing."""
    spec, m = ring_spec(plan, source), plan_hash(encode_plan(plan))
    first, second = ShareSum(spec.words, spec.ring_bits), SeedSum(spec.words, spec.ring_bits, m, 2)
    rng = np.random.default_rng(1)
    for index, (name, (update, examples)) in enumerate(given.items()):
        words = encode_ring(update, examples, spec, rng)
        seed = bytes([1 + index % 2]) + bytes([index + 1]) * 32
        first.add(split(words, spec.ring_bits, 2, [seed], m, name))
        second.add(name, seed)
    return {
        "hub-1": pack_ring(first.words, spec.ring_bits),
        "hub-2": pack_ring(second.words, spec.ring_bits),
    }


def sealed(plan: Plan, words: dict[str, bytes]) -> dict[str, bytes]:
    m, key = plan_hash(encode_plan(plan)), sealing_public_of(COORDINATOR.public)
    return {hub: seal(key, data, sum_context(m, SET, hub)) for hub, data in words.items()}


def sum_up(plan: Plan, sums: dict[str, bytes]) -> Candidate:
    m = plan_hash(encode_plan(plan))
    return aggregate_sums(plan, m, vector_bytes(BASE), SET, sums, COORDINATOR.sealing_private())


def applied(base: bytes, encoded: bytes) -> bytes:
    """What a device makes of ``base`` by an encoded step."""
    step, start = decode_step(encoded), vector_of(base)
    assert step.parent == digest_of(base)
    levels = Step(unpack_levels(step.payload, step.kept), step.scale)
    chosen = step_selection(step, D).indices if step.kind == "randk" else None
    child = vector_bytes(apply_step(start, chosen, levels))
    assert step.child == digest_of(child)
    return child


def test_two_hubs_sums_become_the_weighted_mean_on_the_rounds_coordinates() -> None:
    plan, given = plan_of("hubs"), updates(0.005)
    candidate = sum_up(plan, sealed(plan, hub_words(plan, given)))
    chosen = rand_coordinates(coordinate_seed(plan), D, plan.codec.kept)
    weights = np.array([min(n, plan.codec.weight_cap) for _, n in given.values()], dtype=np.float64)
    mean = np.average([u for u, _ in given.values()], axis=0, weights=weights) * D / plan.codec.kept
    moved = vector_of(candidate.data) - BASE
    assert np.flatnonzero(moved).size <= chosen.size
    assert set(np.flatnonzero(moved)) <= set(chosen)
    spec = ring_spec(plan)
    rounding = len(given) * plan.codec.weight_cap / (spec.levels_per_unit * weights.sum())
    assert np.abs(moved[chosen] - mean[chosen]).max() <= rounding + 1e-5


def test_a_device_that_applies_the_step_holds_the_same_bits() -> None:
    plan = plan_of("hubs")
    candidate = sum_up(plan, sealed(plan, hub_words(plan, updates())))
    assert applied(vector_bytes(BASE), candidate.step) == candidate.data
    assert decode_step(candidate.step).kind == "randk"
    assert candidate.digest == digest_of(candidate.data)
    assert not candidate.bounded


def test_a_led_round_steps_on_its_own_coordinates_and_leads_the_next() -> None:
    earlier = plan_of("hubs", kept_share=0.1)
    first = sum_up(earlier, sealed(earlier, hub_words(earlier, updates())))
    base, source = vector_of(first.data), first.step
    plan = msgspec.structs.replace(
        plan_of("hubs", "global_topk", source=digest_of(source), kept_share=0.1), base=first.digest
    )
    m = plan_hash(encode_plan(plan))
    sums = sealed(plan, hub_words(plan, updates(0.004), source))
    private = COORDINATOR.sealing_private()
    candidate = aggregate_sums(plan, m, first.data, SET, sums, private, source=source)
    chosen = ring_spec(plan, source).selection
    moved = vector_of(candidate.data) - base
    assert set(np.flatnonzero(moved)) <= set(chosen.indices)
    assert chosen.leading.size == 100
    mean = np.average(
        [u for u, _ in updates(0.004).values()],
        axis=0,
        weights=[min(n, plan.codec.weight_cap) for _, n in updates(0.004).values()],
    )
    level = 5 * plan.codec.weight_cap / (ring_spec(plan).levels_per_unit * 450)
    assert np.abs(moved[chosen.leading] - mean[chosen.leading]).max() <= level
    explored = np.setdiff1d(chosen.indices, chosen.leading)
    assert np.abs(moved[explored] - 19 * mean[explored]).max() <= level
    step = decode_step(candidate.step)
    assert applied(first.data, candidate.step) == candidate.data
    assert largest_moves(step, D, 100).size == 100
    with pytest.raises(UnledRoundError):
        aggregate_sums(plan, m, first.data, SET, sums, private)


def test_a_finer_level_takes_more_bytes_and_never_more_than_the_sum_itself_needs() -> None:
    plan = plan_of("hubs")
    sums = sealed(plan, hub_words(plan, updates()))
    m, key = plan_hash(encode_plan(plan)), COORDINATOR.sealing_private()
    made = [
        aggregate_sums(plan, m, vector_bytes(BASE), SET, sums, key, Server(level_rms=level))
        for level in (1.0, 0.25, 1e-3, 1e-6)
    ]
    sizes = [len(one.step) for one in made]
    assert sizes == sorted(sizes)
    assert made[-1].data == made[-2].data
    exact = vector_of(made[-1].data) - BASE
    for one, level in zip(made, (1.0, 0.25), strict=False):
        rms = np.sqrt(np.mean(exact[exact != 0] ** 2))
        assert np.abs(vector_of(one.data) - BASE - exact).max() <= 0.51 * level * rms


def test_a_device_that_lies_about_its_levels_cannot_move_the_model_far() -> None:
    plan = plan_of("hubs")
    spec, m = ring_spec(plan), plan_hash(encode_plan(plan))
    words = np.full(spec.words, plan.codec.clamp, dtype=np.uint16)
    words[spec.kept :] = 1
    first, second = ShareSum(spec.words, spec.ring_bits), SeedSum(spec.words, spec.ring_bits, m, 2)
    for index, name in enumerate(COHORT):
        seed = bytes([1 + index % 2]) + bytes([index + 1]) * 32
        first.add(split(words, spec.ring_bits, 2, [seed], m, name))
        second.add(name, seed)
    sums = {
        "hub-1": pack_ring(first.words, spec.ring_bits),
        "hub-2": pack_ring(second.words, spec.ring_bits),
    }
    candidate = sum_up(plan, sealed(plan, sums))
    assert candidate.bounded
    weight = sum(5 * spec.limb_base**place for place in range(spec.limbs))
    honest = 5 * (spec.clip_norm + np.sqrt(spec.kept) / spec.levels_per_unit) * spec.weight_cap / weight
    assert candidate.norm <= honest * 1.0001


def test_a_device_that_takes_the_others_weight_away_cannot_multiply_the_mean() -> None:
    plan, given = plan_of("hubs"), updates(0.5)
    spec = ring_spec(plan)
    words = hub_words(plan, given)
    first = unpack_ring(words["hub-1"], spec.words, spec.ring_bits)
    whole = sum(min(n, spec.weight_cap) for _, n in given.values())
    assert spec.limbs == 1
    first[spec.kept] = (int(first[spec.kept]) - whole + 1) % (1 << spec.ring_bits)
    words["hub-1"] = pack_ring(first, spec.ring_bits)
    honest, candidate = sum_up(plan, sealed(plan, hub_words(plan, given))), sum_up(plan, sealed(plan, words))
    assert not honest.bounded
    assert candidate.bounded
    assert (
        candidate.norm <= plan.n_max * (spec.clip_norm + np.sqrt(spec.kept) / spec.levels_per_unit) * 1.0001
    )


def test_a_sum_under_another_set_does_not_open() -> None:
    plan = plan_of("hubs")
    sums = sealed(plan, hub_words(plan, updates()))
    m = plan_hash(encode_plan(plan))
    with pytest.raises(UnsealError):
        aggregate_sums(plan, m, vector_bytes(BASE), b"x" * 32, sums, COORDINATOR.sealing_private())


def test_a_sum_of_the_wrong_length_is_refused() -> None:
    plan = plan_of("hubs")
    words = hub_words(plan, updates())
    words["hub-2"] = words["hub-2"][:-3]
    with pytest.raises(PayloadLengthError):
        sum_up(plan, sealed(plan, words))


def test_a_sum_that_no_devices_add_up_to_is_refused() -> None:
    plan = plan_of("hubs")
    words = hub_words(plan, updates())
    words["hub-2"] = words["hub-1"]
    with pytest.raises(RingSumRangeError):
        sum_up(plan, sealed(plan, words))


@pytest.mark.parametrize("weight", [0.0, 1.0, -1.0, 1e-38, 3e38, -3e38])
def test_updates_that_add_up_to_nothing_still_make_another_version(weight: float) -> None:
    base = vector_bytes(np.full(D, weight, np.float32))
    plan = msgspec.structs.replace(plan_of("hubs"), base=digest_of(base))
    m, still = plan_hash(encode_plan(plan)), (np.zeros(D, np.float32), 50)
    sums = sealed(plan, hub_words(plan, dict.fromkeys(COHORT, still)))
    candidate = aggregate_sums(plan, m, base, SET, sums, COORDINATOR.sealing_private())
    assert candidate.digest != plan.base
    assert candidate.fault
    moved = vector_of(candidate.data)
    assert np.count_nonzero(moved != np.float32(weight)) == 1
    np.testing.assert_allclose(moved, weight, rtol=2e-7, atol=2e-30)
    assert applied(base, candidate.step) == candidate.data


def share(plan: Plan, update: Vector, examples: int) -> bytes:
    context = EncodeContext(
        dimension=D, kept=plan.codec.kept, seed=coordinate_seed(plan), rng=np.random.default_rng(2)
    )
    return pack([examples, codec(plan.codec.name).encode(update, context).payload])


@pytest.mark.parametrize("name", ["dense", "int8", "int4", "topk", "topk4", "randk", "randk4"])
def test_reports_make_a_step_that_meets_their_mean_to_half_a_level(name: str) -> None:
    plan, given = plan_of("plain", name), updates()
    shares = {device: share(plan, update, n) for device, (update, n) in given.items()}
    opened = [open_update(plan, one) for one in shares.values()]
    mean = np.average([one.update for one in opened], axis=0, weights=[one.weight for one in opened])
    candidate = aggregate_reports(plan, vector_bytes(BASE), shares, Server(level_rms=0.25))
    assert applied(vector_bytes(BASE), candidate.step) == candidate.data
    assert digest_of(candidate.data) == candidate.digest
    assert 4 * len(candidate.step) < len(candidate.data)
    scale = decode_step(candidate.step).scale
    assert scale == pytest.approx(0.25 * np.sqrt(np.mean(mean[mean != 0] ** 2)), rel=1e-3)
    moved = vector_of(candidate.data) - BASE
    assert np.abs(moved - mean).max() <= 0.5 * scale + 1e-6
    assert candidate.norm == pytest.approx(float(np.linalg.norm(moved)), rel=1e-5)


def test_the_fewer_coordinates_devices_send_the_shorter_the_step() -> None:
    sizes = []
    for kept in (0.01, 0.1, 1.0):
        plan = plan_of("plain", "topk", kept_share=kept)
        shares = {device: share(plan, update, n) for device, (update, n) in updates().items()}
        sizes.append(len(aggregate_reports(plan, vector_bytes(BASE), shares).step))
    assert sizes[0] * 3 < sizes[2]
    assert sizes == sorted(sizes)


def test_updates_that_add_up_to_nothing_leave_the_version() -> None:
    plan = plan_of("plain", "dense")
    for still in (np.zeros(D, np.float32), np.full(D, 1e-25, np.float32)):
        with pytest.raises(NoUsableReportError, match="nothing"):
            aggregate_reports(plan, vector_bytes(BASE), {"device-0": share(plan, still, 10)})


def test_a_step_that_leaves_the_floats_leaves_the_version() -> None:
    far = vector_bytes(np.full(D, 3.4e38, np.float32))
    plan = msgspec.structs.replace(plan_of("plain", "dense", clip_norm=1e38), base=digest_of(far))
    shares = {"device-0": share(plan, np.full(D, 2e36, np.float32), 10)}
    with pytest.raises(AggregationError, match="out of float32"):
        aggregate_reports(plan, far, shares)


def test_one_loud_device_is_clipped() -> None:
    plan = plan_of("plain", "dense")
    quiet = share(plan, np.full(D, 1e-4, np.float32), 100)
    loud = share(plan, np.full(D, 1e6, np.float32), 100)
    candidate = aggregate_reports(plan, vector_bytes(BASE), {"device-0": quiet, "device-1": loud})
    assert candidate.norm <= plan.codec.clip_norm


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_with_nan_or_infinity_is_refused(value: float) -> None:
    plan = plan_of("plain", "dense")
    update = np.zeros(D, np.float32)
    update[17] = value
    with pytest.raises(InvalidReportError):
        open_update(plan, pack([10, update.tobytes()]))


@pytest.mark.parametrize(
    "bad",
    [b"", b"\xc1", pack([1]), pack([10, b"short"]), pack([0, bytes(4 * D)]), pack(["x", bytes(4 * D)])],
)
def test_what_is_no_update_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidReportError):
        open_update(plan_of("plain", "dense"), bad)


def test_no_report_at_all_leaves_the_version() -> None:
    with pytest.raises(NoUsableReportError):
        aggregate_reports(plan_of("plain", "dense"), vector_bytes(BASE), {})


def test_a_stored_model_that_is_no_vector_is_named() -> None:
    with pytest.raises(AggregationError, match="restore"):
        vector_of(b"abc")


# --- algorithms ------------------------------------------------------------------------------------


def test_the_server_s_optimiser_follows_the_decoded_sum_on_the_drawn_coordinates_alone() -> None:
    plan, given = plan_of("hubs"), updates(0.005)
    server = Server(0.02, level_rms=0.01, algorithm=make_algorithm("fedadam"))
    m = plan_hash(encode_plan(plan))
    sums = sealed(plan, hub_words(plan, given))
    private = COORDINATOR.sealing_private()
    candidate = aggregate_sums(plan, m, vector_bytes(BASE), SET, sums, private, server)
    exact = aggregate_sums(plan, m, vector_bytes(BASE), SET, sums, private, Server(level_rms=1e-3))
    chosen = rand_coordinates(coordinate_seed(plan), D, plan.codec.kept)
    mean = (vector_of(exact.data).astype(np.float64) - BASE)[chosen]
    moment, square = 0.1 * mean, 0.99 * 1e-6 + 0.01 * mean**2
    wanted = 0.02 * moment / (np.sqrt(square) + 1e-3)
    moved = vector_of(candidate.data).astype(np.float64) - BASE
    assert set(np.flatnonzero(moved)) <= set(chosen)
    level = decode_step(candidate.step).scale
    np.testing.assert_allclose(moved[chosen], wanted, atol=0.51 * level + 1e-6)
    state = decode_state(candidate.state, "fedadam", D)
    assert set(np.flatnonzero(state.vectors["first"])) <= set(chosen)
    unseen = np.setdiff1d(np.arange(D), chosen)
    np.testing.assert_array_equal(state.vectors["second"][unseen], np.float32(1e-6))
    assert applied(vector_bytes(BASE), candidate.step) == candidate.data
    assert candidate.update_norm == pytest.approx(np.linalg.norm(mean), rel=1e-4)


def test_a_round_that_moves_nothing_keeps_the_algorithm_s_state() -> None:
    plan = plan_of("hubs")
    state = AlgorithmState("fedavgm")
    state.vector("velocity", D)[:] = 0.5
    server = Server(algorithm=make_algorithm("fedavgm"), memory=encode_state(state))
    nothing = {name: (np.zeros(D, np.float32), 40) for name in COHORT}
    m, private = plan_hash(encode_plan(plan)), COORDINATOR.sealing_private()
    sums = sealed(plan, hub_words(plan, nothing))
    candidate = aggregate_sums(plan, m, vector_bytes(BASE), SET, sums, private, server)
    assert candidate.fault
    assert candidate.state == server.memory


@pytest.mark.parametrize("mode", ["plain", "hubs"])
def test_fedavgm_without_momentum_moves_as_fedavg_does(mode: str) -> None:
    still = Server(0.5, algorithm=make_algorithm("fedavgm", AlgorithmSettings(momentum=0.0)))
    given = updates(0.005)
    plan = plan_of(mode)
    if mode == "plain":
        shares = {name: share(plan, update, count) for name, (update, count) in given.items()}
        made = [aggregate_reports(plan, vector_bytes(BASE), shares, one) for one in (Server(0.5), still)]
    else:
        m, private = plan_hash(encode_plan(plan)), COORDINATOR.sealing_private()
        sums = sealed(plan, hub_words(plan, given))
        made = [
            aggregate_sums(plan, m, vector_bytes(BASE), SET, sums, private, one)
            for one in (Server(0.5), still)
        ]
    assert made[0].data == made[1].data


def test_a_state_that_cannot_be_used_begins_anew_and_ends_no_round() -> None:
    plan = plan_of("plain", "dense")
    shares = {name: share(plan, update, count) for name, (update, count) in updates().items()}
    lost = Server(algorithm=make_algorithm("fedadam"), memory=b"\xc1")
    fresh = Server(algorithm=make_algorithm("fedadam"))
    first, second = (aggregate_reports(plan, vector_bytes(BASE), shares, one) for one in (lost, fresh))
    assert first.data == second.data


def test_a_server_s_rate_follows_its_schedule() -> None:
    server = Server(0.5, schedule=ScheduleSettings(kind="sqrt"))
    assert server.at(3, b"m").learning_rate == 0.25
    assert server.at(3, b"m").memory == b"m"
