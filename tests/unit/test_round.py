"""The round machine: every transition, and what must hold in any order of events."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.plan import MORE_TIME, HubOffer, decode_plan, encode_plan
from shoal_coordinator import round_steps as on
from shoal_coordinator.planning import PlanSettings, make_plan
from shoal_coordinator.round import RoundMachine
from shoal_coordinator.round_errors import (
    ConflictingAgreementError,
    RoundError,
    StrangerToRoundError,
    UnexpectedRoundEventError,
)
from shoal_coordinator.round_steps import RoundState
from shoal_coordinator.round_table import TRANSITIONS

NOW = 1_700_000_000_000
HUBS = ("hub-1", "hub-2")
COHORT = tuple(f"device-{n}" for n in range(5))
TIMINGS = on.RoundTimings()
SET = b"s" * 32
NONCE, CHALLENGE = b"n" * 32, b"c" * 32
PROMISES = tuple(HubPromise(hub, b"k" * 32, b"p" * 32, b"s" * 64) for hub in HUBS)
EVALUATION = on.Evaluation(10, 9, 1.5)
EVENTS: tuple[Any, ...] = on.RoundEvent.__args__


def plan_bytes(mode: str = "hubs") -> bytes:
    hubs = HUBS if mode == "hubs" else ("coordinator",)
    plan = make_plan(
        PlanSettings(fleet="f", mode=mode, codec="randk" if mode == "hubs" else "dense"),  # type: ignore[arg-type]
        number=4,
        task=b"t" * 32,
        base=b"b" * 32,
        roster=b"r" * 32,
        dimension=100,
        cohort=COHORT,
        offers={hub: HubOffer(hub, b"k" * 32, b"n" * 32) for hub in hubs},
        hubs=hubs,
        now_ms=NOW,
    )
    return encode_plan(plan)


def reason_of(action: Any) -> str:
    assert isinstance(action, on.Abort | on.Withdraw)
    return action.reason


def new_machine(mode: str = "hubs") -> RoundMachine:
    return RoundMachine(plan_bytes(mode), TIMINGS, promises=PROMISES if mode == "hubs" else ())


def kinds(actions: list[Any]) -> list[str]:
    return [type(action).__name__ for action in actions]


def agreed(hub: str, members: tuple[str, ...] = COHORT, digest: bytes = SET) -> on.HubAgreed:
    return on.HubAgreed(hub, digest, members)


def machine_in(state: RoundState, mode: str = "hubs") -> RoundMachine:
    machine = new_machine(mode)
    path: list[Any] = [on.Begun()]
    if mode == "hubs":
        path += [on.HubRevealed(hub, NONCE, CHALLENGE) for hub in HUBS]
        path += [on.HubSigned(hub, b"s" * 64) for hub in HUBS]
        path += [agreed(hub) for hub in HUBS] + [on.HubSummed(hub, SET, hub.encode()) for hub in HUBS]
    else:
        path += [on.ReportStored(device) for device in COHORT]
    path += [on.Aggregated()] + [on.DeviceEvaluated(device, EVALUATION) for device in COHORT]
    if state is RoundState.WITHDRAWING:
        path = [*path[:5], on.GivenUp("for the test")]
    if state is RoundState.ABORTED:
        path = [path[0], on.HubRefused("hub-1", "no") if mode == "hubs" else on.GivenUp("no")]
    for event in path:
        if machine.state is state:
            return machine
        machine.handle(event, NOW)
    assert machine.state is state
    return machine


def test_a_round_from_plan_to_version() -> None:
    machine = new_machine()
    draft = machine.facts.plan
    assert machine.handle(on.Begun(), NOW)[1:] == [on.AskReveal(HUBS)]
    assert machine.handle(on.HubRevealed("hub-2", NONCE, CHALLENGE), NOW) == []
    assert machine.handle(on.HubRevealed("hub-2", NONCE, CHALLENGE), NOW) == []
    persist, propose = machine.handle(on.HubRevealed("hub-1", b"m" * 32, CHALLENGE), NOW)
    assert propose == on.ProposePlan(HUBS)
    assert isinstance(persist, on.Persist)
    assert decode_plan(persist.snapshot.plan) == machine.facts.plan
    assert machine.facts.plan.hubs == (
        HubOffer("hub-1", b"k" * 32, b"m" * 32, CHALLENGE),
        HubOffer("hub-2", b"k" * 32, NONCE, CHALLENGE),
    )
    assert replace(machine.facts.plan, hubs=draft.hubs) == draft
    assert machine.handle(on.HubRevealed("hub-1", NONCE, CHALLENGE), NOW) == []
    assert machine.handle(on.HubSigned("hub-1", b"1" * 64), NOW) == []
    actions = machine.handle(on.HubSigned("hub-2", b"2" * 64), NOW)
    assert kinds(actions) == ["Persist", "PublishPlan", "Invite"]
    assert actions[1] == on.PublishPlan({"hub-1": b"1" * 64, "hub-2": b"2" * 64})
    for device in COHORT:
        assert machine.handle(on.DeviceReplied(device, accepted=True), NOW) == []
    members = COHORT[:4]
    assert machine.handle(agreed("hub-1", members), NOW) == []
    assert machine.handle(on.HubSummed("hub-1", SET, b"one"), NOW) == []
    assert machine.handle(agreed("hub-2", members), NOW) == []
    (aggregate,) = machine.handle(on.HubSummed("hub-2", SET, b"two"), NOW)
    assert aggregate == on.Aggregate(members, SET, {"hub-1": b"one", "hub-2": b"two"})
    assert kinds(machine.handle(on.Aggregated(), NOW)) == ["Persist", "AskEvaluation"]
    for device in members[:-1]:
        assert machine.handle(on.DeviceEvaluated(device, EVALUATION), NOW) == []
    (commit,) = machine.handle(on.DeviceEvaluated(members[-1], EVALUATION), NOW)
    assert commit == on.Commit(members, dict.fromkeys(members, EVALUATION))
    assert machine.finished


@pytest.mark.parametrize("mode", ["hubs", "plain"])
def test_a_candidate_that_does_badly_is_not_kept(mode: str) -> None:
    judged: list[int] = []

    def judge(evaluations: Mapping[str, on.Evaluation]) -> str:
        judged.append(len(evaluations))
        return "the loss is out of bounds"

    machine = machine_in(RoundState.EVALUATING, mode)
    machine._judge = judge
    for device in COHORT[:-1]:
        assert machine.handle(on.DeviceEvaluated(device, EVALUATION), NOW) == []
    actions = machine.handle(on.DeviceEvaluated(COHORT[-1], EVALUATION), NOW)
    if mode == "plain":
        assert actions == [on.Abort("unstable: the loss is out of bounds", COHORT)]
    else:
        # Hubs never sum twice on one base: the round has to lead to another version.
        assert actions == [on.Commit(COHORT, {}, "the loss is out of bounds")]
    assert judged == [len(COHORT)]
    assert machine.finished


def collecting() -> RoundMachine:
    """An asynchronous round, in which three reports make a version."""
    plan = replace(decode_plan(plan_bytes("plain")), n_min=3, quorum=3, patience_ms=0)
    machine = RoundMachine(encode_plan(plan), on.RoundTimings())
    machine.handle(on.Begun(), NOW)
    return machine


def test_reports_to_earlier_rounds_count_and_are_evaluated_by_nobody() -> None:
    machine = collecting()
    assert machine.handle(on.ReportStored(COHORT[0]), NOW) == []
    assert machine.handle(on.LateStored("stranger", 2), NOW) == []
    assert machine.handle(on.LateStored("stranger", 2), NOW) == []
    (aggregate,) = machine.handle(on.LateStored("another", 1), NOW)
    late = (("another", 1), ("stranger", 2))
    assert aggregate == on.Aggregate(COHORT[:1], b"", {}, late)
    persist, ask = machine.handle(on.Aggregated(), NOW)
    assert isinstance(persist, on.Persist)
    assert persist.snapshot.late == late
    assert ask == on.AskEvaluation(COHORT[:1])
    (commit,) = machine.handle(on.DeviceEvaluated(COHORT[0], EVALUATION), NOW)
    assert commit == on.Commit(("another", COHORT[0], "stranger"), {COHORT[0]: EVALUATION})
    again = RoundMachine(persist.snapshot.plan, on.RoundTimings(), persist.snapshot)
    assert again.handle(on.Restored(), NOW) == [on.AskEvaluation(COHORT[:1])]
    assert again.handle(on.DeviceEvaluated(COHORT[0], EVALUATION), NOW) == [commit]


def test_a_version_of_late_reports_alone_waits_for_no_evaluation() -> None:
    machine = collecting()
    actions: list[Any] = []
    for number in (1, 2, 3):
        actions += machine.handle(on.LateStored("slow", number), NOW)
    assert kinds(actions) == ["Aggregate"]
    assert machine.handle(on.Aggregated(), NOW) == [on.Commit(("slow",), {})]


def test_the_first_reports_of_an_asynchronous_round_end_it() -> None:
    machine = collecting()
    for device in COHORT[:3]:
        assert machine.handle(on.ReportStored(device), NOW) == []
    assert machine.wake_ms == NOW
    (aggregate,) = machine.handle(on.Tick(), NOW)
    assert aggregate == on.Aggregate(COHORT[:3], b"", {})


def test_without_time_for_evaluations_none_are_asked_for() -> None:
    machine = RoundMachine(plan_bytes("plain"), on.RoundTimings(evaluate_ms=0))
    path: list[Any] = [on.Begun(), *map(on.ReportStored, COHORT)]
    for event in path:
        machine.handle(event, NOW)
    assert kinds(machine.handle(on.Aggregated(), NOW)) == ["Commit"]


def test_a_plain_round_has_no_hubs_to_ask() -> None:
    machine = new_machine("plain")
    assert kinds(machine.handle(on.Begun(), NOW)) == ["Persist", "PublishPlan", "Invite"]
    for device in COHORT[:-1]:
        assert machine.handle(on.ReportStored(device), NOW) == []
    assert machine.handle(on.ReportStored(COHORT[-1]), NOW) == [on.Aggregate(COHORT, b"", {})]


def test_every_step_of_the_table_exists() -> None:
    for row in TRANSITIONS.values():
        for name in row.values():
            assert callable(getattr(RoundMachine, f"_{name}"))


ARGUMENTS: dict[str, Any] = {
    "hub": "hub-1",
    "nonce": NONCE,
    "challenge": CHALLENGE,
    "device": COHORT[0],
    "reason": "why",
    "signature": b"s" * 64,
    "set_digest": SET,
    "members": COHORT,
    "sealed": b"x",
    "accepted": True,
    "evaluation": EVALUATION,
    "sender": COHORT[0],
    "round": 3,
}


@pytest.mark.parametrize(
    ("state", "kind"),
    list(itertools.product(RoundState, EVENTS)),
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_an_event_is_listed_or_an_error_of_its_own(state: RoundState, kind: Any) -> None:
    machine = machine_in(state)
    event = kind(**{name: ARGUMENTS[name] for name in kind.__dataclass_fields__})
    if kind in TRANSITIONS[state]:
        assert isinstance(machine.handle(event, NOW), list)
    else:
        with pytest.raises(UnexpectedRoundEventError, match=kind.__name__):
            machine.handle(event, NOW)
        assert machine.state is state


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (RoundState.PROPOSING, on.HubSigned("hub-9", b"s")),
        (RoundState.COLLECTING, on.DeviceReplied("device-99", accepted=True)),
        (RoundState.EVALUATING, on.DeviceEvaluated("device-99", EVALUATION)),
        (RoundState.COLLECTING, agreed("coordinator")),
    ],
)
def test_strangers_are_refused(state: RoundState, event: Any) -> None:
    with pytest.raises(StrangerToRoundError):
        machine_in(state).handle(event, NOW)


def test_a_refused_plan_ends_the_round_and_names_the_hub() -> None:
    (abort,) = machine_in(RoundState.PROPOSING).handle(on.HubRefused("hub-2", "floor"), NOW)
    assert abort == on.Abort("hub-2 refused the plan: floor", COHORT, refused=True)


def test_silent_hubs_are_asked_again_and_then_given_up() -> None:
    machine = machine_in(RoundState.PROPOSING)
    machine.handle(on.HubSigned("hub-1", b"1"), NOW)
    later = NOW + TIMINGS.resend_ms
    assert machine.wake_ms == later
    assert machine.handle(on.Tick(), later) == [on.ProposePlan(("hub-2",))]
    (abort,) = machine.handle(on.Tick(), NOW + TIMINGS.sign_ms)
    assert isinstance(abort, on.Abort)
    assert "hub-2 did not sign" in reason_of(abort)


def test_hubs_that_show_no_nonce_are_asked_again_and_then_given_up() -> None:
    machine = machine_in(RoundState.REVEALING)
    machine.handle(on.HubRevealed("hub-1", NONCE, CHALLENGE), NOW)
    assert machine.handle(on.Tick(), NOW + TIMINGS.resend_ms) == [on.AskReveal(("hub-2",))]
    (abort,) = machine.handle(on.Tick(), NOW + TIMINGS.sign_ms)
    assert "hub-2 did not show a nonce" in reason_of(abort)


def test_only_devices_that_show_nothing_are_invited_again() -> None:
    machine = machine_in(RoundState.COLLECTING)
    machine.handle(on.DeviceReplied(COHORT[0], accepted=True), NOW)
    machine.handle(on.DeviceShows(COHORT[1]), NOW)
    assert machine.handle(on.Tick(), NOW + 1) == []
    assert machine.handle(on.Tick(), NOW + TIMINGS.resend_ms) == [on.Invite(COHORT[2:])]


def test_a_device_that_started_again_is_invited_again() -> None:
    machine = machine_in(RoundState.COLLECTING)
    for device in COHORT:
        machine.handle(on.DeviceReplied(device, accepted=True), NOW)
    machine.handle(on.DeviceBack(COHORT[3]), NOW)
    assert machine.handle(on.Tick(), NOW + TIMINGS.resend_ms) == [on.Invite((COHORT[3],))]


def test_a_round_under_its_floor_is_given_up_at_once() -> None:
    machine = machine_in(RoundState.COLLECTING)
    assert machine.handle(on.DeviceReplied(COHORT[0], accepted=False, reason="busy"), NOW) == []
    actions = machine.handle(on.DeviceReplied(COHORT[1], accepted=False, reason="hot"), NOW)
    assert kinds(actions) == ["Persist", "Withdraw"]
    assert "only 3 of 5 devices are left, the floor is 4" in reason_of(actions[1])
    assert machine.handle(on.HubAbandoned("hub-1", "told"), NOW) == []
    assert kinds(machine.handle(on.HubAbandoned("hub-2", "told"), NOW)) == ["Abort"]


def test_a_plan_nobody_agreed_on_is_withdrawn_after_its_window() -> None:
    machine = machine_in(RoundState.COLLECTING)
    closes = machine.facts.plan.closes_ms
    assert kinds(machine.handle(on.Tick(), closes)) == ["Invite"]
    actions = machine.handle(on.Tick(), closes + TIMINGS.linger_ms)
    assert kinds(actions) == ["Persist", "Withdraw"]
    assert machine.handle(on.HubAbandoned("hub-1", ""), NOW) == []
    again = machine.handle(on.Tick(), closes + TIMINGS.linger_ms + TIMINGS.resend_ms)
    assert again == [on.Withdraw(("hub-2",), "the hubs agreed on no set of reports in time")]
    end = machine.handle(on.Tick(), closes + TIMINGS.linger_ms + TIMINGS.let_go_ms)
    assert kinds(end) == ["Abort"]


def test_a_hub_that_had_agreed_brings_a_withdrawn_round_back() -> None:
    machine = machine_in(RoundState.WITHDRAWING)
    assert machine.handle(agreed("hub-1"), NOW) == []
    assert machine.state.value == "summing"
    assert machine.wake_ms is None
    machine.handle(on.HubSummed("hub-1", SET, b"1"), NOW)
    machine.handle(on.HubSummed("hub-2", SET, b"2"), NOW)
    assert kinds(machine.handle(agreed("hub-2"), NOW)) == ["Aggregate"]


def test_an_abandoned_round_never_waits_for_a_sum_again() -> None:
    machine = machine_in(RoundState.SUMMING)
    assert kinds(machine.handle(on.HubAbandoned("hub-2", "under the floor"), NOW)) == ["Persist", "Withdraw"]
    assert machine.handle(agreed("hub-1"), NOW) == []
    (abort,) = machine.handle(on.HubAbandoned("hub-1", "peer abandoned"), NOW)
    assert reason_of(abort) == "hub-2 abandoned it: under the floor"


def test_no_clock_ends_a_round_whose_hubs_agreed() -> None:
    machine = machine_in(RoundState.SUMMING)
    assert machine.handle(on.Tick(), NOW * 2) == []
    assert machine.state is RoundState.SUMMING


@pytest.mark.parametrize("event", [agreed("hub-1", COHORT[:3]), agreed("hub-1", (*COHORT[:4], "device-99"))])
def test_an_agreement_the_plan_does_not_allow_is_refused(event: on.HubAgreed) -> None:
    with pytest.raises(ConflictingAgreementError):
        machine_in(RoundState.COLLECTING).handle(event, NOW)


def test_a_hub_binds_itself_once() -> None:
    machine = machine_in(RoundState.SUMMING)
    assert machine.handle(agreed("hub-1"), NOW) == []
    with pytest.raises(ConflictingAgreementError):
        machine.handle(agreed("hub-1", COHORT[1:], b"other" * 6), NOW)


def test_sums_of_different_sets_are_never_added() -> None:
    machine = machine_in(RoundState.SUMMING)
    machine.handle(agreed("hub-2", COHORT[1:], b"o" * 32), NOW)
    machine.handle(on.HubSummed("hub-1", SET, b"1"), NOW)
    assert machine.handle(on.HubSummed("hub-2", b"o" * 32, b"2"), NOW) == []
    assert machine.state is RoundState.SUMMING


def test_evaluation_ends_with_its_floor_and_some_patience() -> None:
    machine = machine_in(RoundState.EVALUATING)
    for device in COHORT[:4]:
        machine.handle(on.DeviceEvaluated(device, EVALUATION), NOW)
    assert machine.wake_ms == NOW + TIMINGS.evaluate_patience_ms
    (commit,) = machine.handle(on.Tick(), NOW + TIMINGS.evaluate_patience_ms)
    assert set(commit.evaluations) == set(COHORT[:4])  # type: ignore[union-attr]


def test_evaluation_does_not_wait_for_those_who_are_gone() -> None:
    machine = machine_in(RoundState.EVALUATING)
    for device in COHORT[:3]:
        machine.handle(on.DeviceEvaluated(device, EVALUATION), NOW)
    machine.handle(on.DeviceGone(COHORT[3]), NOW)
    assert kinds(machine.handle(on.DeviceGone(COHORT[4]), NOW)) == ["Commit"]


def test_evaluation_is_asked_again_and_ends_with_nobody() -> None:
    machine = machine_in(RoundState.EVALUATING)
    assert machine.handle(on.Tick(), NOW + TIMINGS.resend_ms) == [on.AskEvaluation(COHORT)]
    (commit,) = machine.handle(on.Tick(), NOW + TIMINGS.evaluate_ms)
    assert commit == on.Commit(COHORT, {})


def test_what_cannot_be_aggregated_ends_the_round() -> None:
    (abort,) = machine_in(RoundState.AGGREGATING).handle(on.AggregationFailed("too short"), NOW)
    assert "too short" in reason_of(abort)


def test_plain_rounds_close_by_quorum_patience_and_clock() -> None:
    machine = machine_in(RoundState.COLLECTING, "plain")
    for device in COHORT[:4]:
        machine.handle(on.ReportStored(device), NOW)
    due = NOW + machine.facts.plan.patience_ms
    assert machine.handle(on.Tick(), due - 1) == []
    assert machine.handle(on.Tick(), due) == [on.Aggregate(COHORT[:4], b"", {})]
    machine = machine_in(RoundState.COLLECTING, "plain")
    machine.handle(on.ReportStored(COHORT[0]), NOW)
    (abort,) = machine.handle(on.Tick(), machine.facts.plan.closes_ms)
    assert reason_of(abort) == f"1 reports in time, the floor is 4: {MORE_TIME}"


def test_plain_rounds_do_not_wait_for_those_who_declined() -> None:
    machine = machine_in(RoundState.COLLECTING, "plain")
    for device in COHORT[:4]:
        machine.handle(on.ReportStored(device), NOW)
    assert kinds(machine.handle(on.DeviceReplied(COHORT[4], accepted=False), NOW)) == ["Aggregate"]


@pytest.mark.parametrize(
    ("state", "first"),
    [
        (RoundState.REVEALING, ["AskReveal"]),
        (RoundState.PROPOSING, ["ProposePlan"]),
        (RoundState.COLLECTING, ["PublishPlan", "Invite"]),
        (RoundState.EVALUATING, ["AskEvaluation"]),
        (RoundState.WITHDRAWING, ["Persist", "Withdraw"]),
        (RoundState.IDLE, ["Abort"]),
    ],
)
def test_a_restart_goes_on_in_every_state_that_is_stored(state: RoundState, first: list[str]) -> None:
    before = machine_in(state)
    snapshot = before.facts.snapshot(state)
    machine = RoundMachine(snapshot.plan, TIMINGS, snapshot)
    assert kinds(machine.handle(on.Restored(), NOW + 1000)) == first
    if state is RoundState.IDLE:
        return
    assert machine.state is state
    assert machine.facts.members == before.facts.members
    assert (machine.facts.plan, machine.facts.promises) == (before.facts.plan, before.facts.promises)


def test_a_restart_long_after_the_window_withdraws() -> None:
    snapshot = machine_in(RoundState.COLLECTING).facts.snapshot(RoundState.COLLECTING)
    machine = RoundMachine(snapshot.plan, TIMINGS, snapshot)
    late = NOW + 10_000_000
    machine.handle(on.Restored(), late)
    assert machine.wake_ms is not None
    assert machine.wake_ms <= late
    assert kinds(machine.handle(on.Tick(), late)) == ["Persist", "Withdraw"]


HUB = st.sampled_from(HUBS)
DEVICE = st.sampled_from((*COHORT, "device-99"))
MEMBERS = st.sampled_from([COHORT, COHORT[1:], COHORT[:2]])
DIGEST = st.sampled_from([SET, b"o" * 32])
ANY = st.one_of(
    st.just(on.Begun()),
    st.builds(on.HubRevealed, HUB, st.just(NONCE), st.just(CHALLENGE)),
    st.builds(on.HubSigned, HUB, st.just(b"s" * 64)),
    st.builds(on.HubRefused, HUB, st.just("no")),
    st.builds(on.HubAbandoned, HUB, st.just("gone")),
    st.builds(on.HubAgreed, HUB, DIGEST, MEMBERS),
    st.builds(on.HubSummed, HUB, DIGEST, st.just(b"x")),
    st.builds(on.DeviceReplied, DEVICE, st.booleans()),
    st.builds(on.DeviceGone, DEVICE),
    st.builds(on.DeviceBack, DEVICE),
    st.builds(on.ReportStored, DEVICE),
    st.just(on.Aggregated()),
    st.just(on.AggregationFailed("bad")),
    st.builds(on.DeviceEvaluated, DEVICE, st.just(EVALUATION)),
    st.just(on.GivenUp("stop")),
    st.just(on.Tick()),
)


@settings(max_examples=300)
@given(st.sampled_from(["hubs", "plain"]), st.lists(st.tuples(ANY, st.integers(0, 20_000)), max_size=60))
def test_in_any_order_a_round_ends_at_most_once_and_never_without_every_sum(
    mode: str, events: list[tuple[Any, int]]
) -> None:
    machine, now = new_machine(mode), NOW
    seen: list[Any] = []
    heard_sums: set[str] = set()
    reports: set[str] = set()
    for event, passed in [(on.Begun(), 0), *events]:
        now += passed
        try:
            actions = machine.handle(event, now)
        except RoundError:
            continue
        heard_sums |= {event.hub} if isinstance(event, on.HubSummed) else set()
        reports |= {event.device} if isinstance(event, on.ReportStored) else set()
        for action in actions:
            if isinstance(action, on.Aggregate):
                floor = machine.facts.plan.n_min
                assert len(action.members) >= floor
                assert heard_sums == set(HUBS) if mode == "hubs" else reports >= set(action.members)
                assert not machine.facts.abandoned
            if isinstance(action, on.Commit):
                assert any(isinstance(earlier, on.Aggregate) for earlier in seen)
            if isinstance(action, on.Abort):
                assert action.reason
            seen.append(action)
    ends = [action for action in seen if isinstance(action, on.Commit | on.Abort)]
    assert len(ends) <= 1
    assert machine.finished == bool(ends)
    if not machine.finished and machine.state not in {RoundState.SUMMING, RoundState.AGGREGATING}:
        assert machine.wake_ms is not None
