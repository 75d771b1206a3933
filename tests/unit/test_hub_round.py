"""The hub's machine: every move of its table, and what must hold on every path through it."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.secagg.agreement import common_reports, set_digest, sum_context
from shoal_codecs.secagg.hub_errors import (
    HubRoundError,
    PeerContradictionError,
    SecondReportError,
    UninvitedReportError,
    UnknownPeerError,
    UnlistedEventError,
)
from shoal_codecs.secagg.hub_messages import (
    Aborted,
    Action,
    Committed,
    ComputeProjections,
    ComputeSum,
    DestroyKey,
    Event,
    JudgeNorms,
    LogAgreement,
    LogChallenged,
    LogChecking,
    LogClosed,
    LogEnding,
    LogSettled,
    LogSum,
    NormsJudged,
    PeerAbandoned,
    PeerAgreement,
    PeerChallenge,
    PeerProjections,
    PeerSet,
    Projected,
    PublishAbandoned,
    PublishAgreement,
    PublishChallenge,
    PublishProjections,
    PublishSet,
    PublishSigned,
    PublishSum,
    Reminded,
    ReportStored,
    RoundMemory,
    RoundTerms,
    State,
    SumSealed,
    Tick,
)
from shoal_codecs.secagg.hub_round import HubRound
from shoal_codecs.secagg.hub_table import TRANSITIONS
from shoal_codecs.wire.plan import MORE_TIME

CLOSES, LINGER, PATIENCE, SILENCE = 10_000, 500, 100, 10_000_000
DEVICES = ("a", "b", "c")
IDS = {device: device.encode() * 32 for device in DEVICES}
TERMS = RoundTerms(
    peers=frozenset({"hub-2"}),
    cohort=frozenset(DEVICES),
    floor=2,
    quorum=2,
    patience_ms=PATIENCE,
    closes_ms=CLOSES,
    linger_ms=LINGER,
    silence_ms=SILENCE,
)


def reports(*devices: str) -> dict[str, bytes]:
    return {device: IDS[device] for device in devices}


def stored(device: str, at_ms: int = 1000) -> ReportStored:
    return ReportStored(device, IDS[device], at_ms)


def agreement(*devices: str, at_ms: int = 5000) -> PeerAgreement:
    return PeerAgreement("hub-2", set_digest(reports(*devices)), devices, at_ms)


def fed(*events: Event, terms: RoundTerms = TERMS) -> HubRound:
    machine = HubRound(terms)
    for event in events:
        machine.handle(event)
    return machine


def clone(machine: HubRound) -> HubRound:
    other = copy.copy(machine)
    vars(other).update({key: dict(value) for key, value in vars(machine).items() if isinstance(value, dict)})
    check = vars(machine)["_check"]
    copied = {"_heard": dict(check._heard), "_projections": dict(check._projections)}
    vars(other)["_check"] = dataclasses.replace(check, **copied)
    return other


def kinds(actions: tuple[Action, ...]) -> list[type]:
    return [type(action) for action in actions]


ALL_IN = (stored("a"), stored("b"), stored("c"))
AGREED = (*ALL_IN, PeerSet("hub-2", reports(*DEVICES)))
SUMMED = (*AGREED, agreement(*DEVICES), SumSealed(b"sum"))


def test_a_whole_round() -> None:
    machine = HubRound(TERMS)
    assert machine.handle(stored("a")) == ()
    assert machine.handle(stored("b")) == ()
    own = reports(*DEVICES)
    digest = set_digest(own)
    assert machine.handle(stored("c")) == (LogClosed(own), PublishSet(own))
    assert machine.handle(PeerSet("hub-2", own)) == (
        LogAgreement(digest, DEVICES),
        PublishAgreement(digest, DEVICES),
    )
    assert machine.handle(agreement(*DEVICES)) == (ComputeSum(digest, DEVICES),)
    assert machine.handle(SumSealed(b"sum")) == (LogSum(b"sum"), PublishSum(digest, b"sum"))
    assert machine.handle(Committed()) == (LogEnding(State.COMMITTED), DestroyKey())
    assert machine.handle(Committed()) == ()
    assert machine.idle


def test_a_device_that_reached_one_hub_only_is_outside_the_set() -> None:
    machine = fed(*ALL_IN)
    actions = machine.handle(PeerSet("hub-2", reports("a", "c")))
    assert actions[0] == LogAgreement(set_digest(reports("a", "c")), ("a", "c"))


def test_a_device_with_two_reports_is_outside_the_set() -> None:
    machine = fed(*ALL_IN)
    actions = machine.handle(PeerSet("hub-2", {**reports("a", "c"), "b": b"other" * 6 + b"xx"}))
    assert actions[0] == LogAgreement(set_digest(reports("a", "c")), ("a", "c"))


def test_a_common_set_under_the_floor_is_abandoned() -> None:
    machine = fed(*ALL_IN)
    actions = machine.handle(PeerSet("hub-2", reports("a")))
    assert kinds(actions) == [LogEnding, DestroyKey, PublishAbandoned]
    assert machine.state is State.ABANDONED


def test_too_few_reports_at_the_close_are_abandoned() -> None:
    machine = fed(stored("a"))
    assert machine.handle(Tick(CLOSES - 1)) == ()
    actions = machine.handle(Tick(CLOSES))
    assert kinds(actions) == [LogEnding, DestroyKey, PublishAbandoned]
    assert actions[2] == PublishAbandoned(f"1 reports came in time, the floor is 2: {MORE_TIME}")


def test_patience_runs_from_the_quorum() -> None:
    machine = fed(stored("a", 1000), stored("b", 2000))
    assert machine.handle(Tick(2000 + PATIENCE - 1)) == ()
    assert kinds(machine.handle(Tick(2000 + PATIENCE))) == [LogClosed, PublishSet]


def test_a_silent_peer_is_given_up_after_the_linger() -> None:
    machine = fed(*ALL_IN, Tick(CLOSES + LINGER - 1))
    assert machine.state is State.CLOSED
    assert PublishAbandoned("no set of reports came from hub-2") in machine.handle(Tick(CLOSES + LINGER))


def test_a_bound_hub_does_not_give_up_by_clock_or_by_the_coordinators_word() -> None:
    machine = fed(*AGREED)
    assert LogEnding not in kinds(machine.handle(Tick(CLOSES + 100 * LINGER)))
    assert LogEnding not in kinds(machine.handle(Tick(CLOSES + SILENCE - 1)))
    assert machine.handle(Aborted("too slow", 5000)) == ()
    assert machine.handle(PeerAbandoned("hub-2"))[0] == LogEnding(
        State.ABANDONED, "hub-2 has abandoned the round"
    )


def test_a_sum_nobody_waits_for_is_released_once_and_spent() -> None:
    machine = fed(*AGREED, Aborted("too slow", 5000), agreement(*DEVICES))
    actions = machine.handle(SumSealed(b"sum"))
    assert kinds(actions) == [LogSum, PublishSum, LogEnding, DestroyKey]
    assert machine.state is State.SPENT


def test_an_abort_that_crossed_the_sum_is_answered_with_the_sum() -> None:
    machine = fed(*SUMMED)
    words = [PublishAgreement, PublishSum]
    assert kinds(machine.handle(Aborted("too slow", 5000))) == [LogEnding, DestroyKey, *words]
    assert machine.handle(Aborted("too slow", 5999)) == ()
    assert kinds(machine.handle(Aborted("too slow", 6000))) == words
    assert machine.handle(Aborted("too slow", 7999)) == ()
    assert machine.handle(Committed()) == (LogEnding(State.COMMITTED), DestroyKey())


def test_an_abandonment_is_said_until_the_coordinator_gave_up_too() -> None:
    machine = fed(*ALL_IN, PeerAbandoned("hub-2"), Tick(2000))
    assert machine.handle(Tick(3000)) == (
        DestroyKey(),
        PublishAbandoned("hub-2 has abandoned the round"),
    )
    idle = [machine.idle]
    said = PublishAbandoned("hub-2 has abandoned the round")
    assert machine.handle(Aborted("so be it", 5000)) == (said, LogSettled())
    assert machine.handle(Aborted("so be it", 5999)) == ()
    assert machine.handle(Aborted("so be it", 6000)) == (said,)
    assert machine.handle(Tick(9000)) == ()
    assert [*idle, machine.idle] == [False, True]
    # Yet a peer that still waits is told.
    assert kinds(machine.handle(PeerSet("hub-2", reports("a")))) == [PublishAbandoned]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (ALL_IN, [PublishSet]),
        (AGREED, [PublishSet, PublishAgreement]),
        (SUMMED, [PublishAgreement, PublishSum]),
    ],
)
def test_the_latest_word_is_repeated_each_second(events: tuple[Event, ...], words: list[type]) -> None:
    machine = fed(*events, Tick(2000))
    assert machine.handle(Tick(2999)) == ()
    assert kinds(machine.handle(Tick(3000))) == words
    assert machine.handle(Tick(3999)) == ()
    assert kinds(machine.handle(Tick(4000))) == words


def test_a_spent_hub_still_shows_its_agreement_to_a_peer_that_lacks_it() -> None:
    machine = fed(*SUMMED, Aborted("too slow", 5000))
    assert machine.handle(agreement(*DEVICES, at_ms=5999)) == ()
    assert kinds(machine.handle(agreement(*DEVICES, at_ms=6000))) == [PublishAgreement]


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (ReportStored("stranger", b"x" * 32, 1), UninvitedReportError),
        (ReportStored("a", b"x" * 32, 1), SecondReportError),
        (PeerSet("hub-3", {}), UnknownPeerError),
        (PeerAbandoned("hub-3"), UnknownPeerError),
        (PeerSet("hub-2", reports("a", "b")), PeerContradictionError),
        (agreement(*DEVICES), UnlistedEventError),
        (SumSealed(b""), UnlistedEventError),
        (Committed(), UnlistedEventError),
    ],
)
def test_words_that_cannot_be_true_change_nothing(event: Event, error: type[HubRoundError]) -> None:
    machine = fed(stored("a"), PeerSet("hub-2", reports("a")))
    before = copy.deepcopy(vars(machine))
    with pytest.raises(error):
        machine.handle(event)
    assert vars(machine) == before


def test_hubs_that_agree_to_different_sets_release_nothing() -> None:
    machine = fed(*AGREED)
    reason = "hub-2 agreed to another set of reports: nothing is released"
    assert machine.handle(agreement("a", "b")) == (
        LogEnding(State.ABANDONED, reason),
        DestroyKey(),
        PublishAbandoned(reason),
    )
    assert machine.handle(agreement(*DEVICES)) == ()
    assert machine.state is State.ABANDONED


def test_a_hub_that_knows_of_another_agreement_binds_itself_to_nothing() -> None:
    machine = fed(*ALL_IN, agreement("a", "b"))
    assert kinds(machine.handle(PeerSet("hub-2", reports(*DEVICES)))) == [
        LogEnding,
        DestroyKey,
        PublishAbandoned,
    ]


@pytest.mark.parametrize("events", [(*AGREED, agreement(*DEVICES)), SUMMED])
def test_once_all_have_agreed_a_second_word_changes_nothing(events: tuple[Event, ...]) -> None:
    machine = fed(*events)
    state = machine.state
    with pytest.raises(PeerContradictionError, match="first word stands"):
        machine.handle(agreement("a", "b"))
    assert machine.state is state


def test_a_hub_that_has_released_knows_after_a_restart_what_its_peers_agreed_to() -> None:
    said = agreement(*DEVICES)
    memory = RoundMemory(
        reports=tuple((device, name, 1) for device, name in IDS.items()),
        closed=True,
        agreement=(said.digest, said.members),
        sealed=b"sum",
    )
    machine = HubRound(TERMS, memory)
    with pytest.raises(PeerContradictionError):
        machine.handle(agreement(*DEVICES[:2]))
    assert machine.handle(said) == ()


def test_a_peer_that_never_agrees_is_given_up_and_a_restart_gives_it_its_time_anew() -> None:
    log = Log(TERMS)
    machine = HubRound(TERMS)
    for event in AGREED:
        if isinstance(event, ReportStored):
            log.store(event)
        log.perform(machine.handle(event))
    machine.handle(Tick(CLOSES - 100))
    assert LogEnding not in kinds(machine.handle(Tick(CLOSES + SILENCE - 1)))
    again = HubRound(TERMS, log.memory)
    reason = "hub-2 agreed to no set of reports in time"
    assert PublishAbandoned(reason) in machine.handle(Tick(CLOSES + SILENCE))
    late = CLOSES + 5 * SILENCE
    for moment in (late, late + SILENCE - 1):
        assert LogEnding not in kinds(again.handle(Tick(moment)))
    assert PublishAbandoned(reason) in again.handle(Tick(late + SILENCE))


def test_one_of_three_that_says_different_things_to_two_gets_no_sum_of_either() -> None:
    """Hub 3 agrees with each of the others on what it likes; they hear of each other."""
    terms = {
        hub: dataclasses.replace(TERMS, peers=frozenset({"hub-1", "hub-2", "hub-3"}) - {hub})
        for hub in ("hub-1", "hub-2")
    }
    machines = {hub: fed(*ALL_IN, terms=one) for hub, one in terms.items()}
    lies = {"hub-1": reports("a", "b"), "hub-2": reports("b", "c")}
    said: dict[str, tuple[Action, ...]] = {}
    for hub, other in (("hub-1", "hub-2"), ("hub-2", "hub-1")):
        machines[hub].handle(PeerSet(other, reports(*DEVICES)))
        said[hub] = machines[hub].handle(PeerSet("hub-3", lies[hub]))
        held = tuple(sorted(lies[hub]))
        assert machines[hub].handle(PeerAgreement("hub-3", set_digest(lies[hub]), held, 5000)) == ()
    for hub, other in (("hub-1", "hub-2"), ("hub-2", "hub-1")):
        (bond,) = [action for action in said[other] if isinstance(action, PublishAgreement)]
        machines[hub].handle(PeerAgreement(other, bond.digest, bond.members, 5000))
        assert machines[hub].state is State.ABANDONED


def test_agreements_of_all_three_hubs_are_needed() -> None:
    terms = dataclasses.replace(TERMS, peers=frozenset({"hub-2", "hub-3"}))
    own = reports(*DEVICES)
    machine = fed(*ALL_IN, PeerSet("hub-2", own), PeerSet("hub-3", own), terms=terms)
    digest = set_digest(own)
    assert machine.handle(PeerAgreement("hub-2", digest, DEVICES, 5000)) == ()
    assert kinds(machine.handle(PeerAgreement("hub-3", digest, DEVICES, 5000))) == [ComputeSum]


def test_set_digest_is_bound_to_names_and_ids() -> None:
    assert set_digest({"ab": b"c"}) != set_digest({"a": b"bc"})
    assert set_digest({"a": b"1", "b": b"2"}) == set_digest({"b": b"2", "a": b"1"})
    assert len({sum_context(b"m", b"d", "hub-1"), sum_context(b"m", b"d", "hub-2")}) == 2
    assert common_reports({"a": b"1", "b": b"2"}, [{"a": b"1", "b": b"3"}]) == {"a": b"1"}


# --- every move of the table ----------------------------------------------------------------------

POOL: tuple[Event, ...] = (
    *ALL_IN,
    Tick(1000 + PATIENCE),
    Tick(CLOSES),
    Tick(CLOSES + LINGER),
    Tick(CLOSES + SILENCE),
    PeerSet("hub-2", reports(*DEVICES)),
    PeerSet("hub-2", reports("a")),
    agreement("a", "b"),
    agreement(*DEVICES),
    PeerAbandoned("hub-2"),
    SumSealed(b"sum"),
    Committed(),
    Aborted("reason", 5000),
    Reminded(),
)


def walk(start: HubRound, pool: tuple[Event, ...]) -> set[tuple[State, type, State]]:
    """Return every move that can be made from ``start`` with the events of ``pool``."""
    made: set[tuple[State, type, State]] = set()
    seen, queue = {repr(vars(start))}, deque([start])
    while queue:
        machine = queue.popleft()
        before = repr(vars(machine))
        for event in pool:
            after = clone(machine)
            try:
                after.handle(event)
            except HubRoundError:
                assert repr(vars(after)) == before
                continue
            made.add((machine.state, type(event), after.state))
            if repr(vars(after)) not in seen:
                seen.add(repr(vars(after)))
                queue.append(after)
    return made


CHECKED = dataclasses.replace(TERMS, checked=True)
SECRET = b"\x05" * 32
ALL_DIGEST = set_digest(reports(*DEVICES))
CHECKED_POOL: tuple[Event, ...] = (
    PeerSet("hub-2", reports(*DEVICES)),
    PeerChallenge("hub-2", ALL_DIGEST, SECRET),
    PeerChallenge("hub-2", bytes(32), SECRET),
    PeerProjections("hub-2", b"theirs"),
    Projected(b"own"),
    NormsJudged(DEVICES),
    NormsJudged(("a",)),
    agreement(*DEVICES),
    PeerAbandoned("hub-2"),
    Tick(CLOSES + LINGER),
    Tick(CLOSES + 3 * SILENCE),
    Aborted("reason", 5000),
    Reminded(),
)
IN_CHECK = (*ALL_IN, PeerSet("hub-2", reports(*DEVICES)))


def test_a_round_with_a_norm_check_drops_who_is_too_long() -> None:
    machine = fed(*ALL_IN, terms=CHECKED)
    assert machine.handle(PeerSet("hub-2", reports(*DEVICES))) == (
        LogChallenged(ALL_DIGEST, DEVICES),
        PublishChallenge(ALL_DIGEST),
    )
    assert machine.handle(PeerChallenge("hub-2", ALL_DIGEST, SECRET)) == (
        LogChecking({"hub-2": SECRET}),
        ComputeProjections(ALL_DIGEST, DEVICES, {"hub-2": SECRET}),
    )
    assert machine.handle(PeerProjections("hub-2", b"theirs")) == ()
    assert machine.handle(Projected(b"own")) == (
        PublishProjections(ALL_DIGEST, b"own"),
        JudgeNorms(DEVICES, {"": b"own", "hub-2": b"theirs"}),
    )
    kept = set_digest(reports("a", "c")), ("a", "c")
    assert machine.handle(NormsJudged(("a", "c"))) == (LogAgreement(*kept), PublishAgreement(*kept))
    # A peer that lags gets everything again.
    machine.handle(Tick(5000))
    assert kinds(machine.handle(Tick(6000))) == [
        PublishSet,
        PublishChallenge,
        PublishProjections,
        PublishAgreement,
    ]


def test_too_few_short_updates_are_abandoned() -> None:
    machine = fed(*IN_CHECK, PeerChallenge("hub-2", ALL_DIGEST, SECRET), terms=CHECKED)
    actions = machine.handle(NormsJudged(("a",)))
    assert actions[-1] == PublishAbandoned("1 reports are short enough, the floor is 2")


def test_a_challenge_for_other_reports_ends_the_round_before_anything_is_projected() -> None:
    machine = fed(*IN_CHECK, terms=CHECKED)
    actions = machine.handle(PeerChallenge("hub-2", bytes(32), SECRET))
    assert kinds(actions) == [LogEnding, DestroyKey, PublishAbandoned]


def test_a_hub_restarted_in_the_check_makes_the_same_projections() -> None:
    log, machine = Log(CHECKED), HubRound(CHECKED)
    for event in (*IN_CHECK, PeerChallenge("hub-2", ALL_DIGEST, SECRET)):
        if isinstance(event, ReportStored):
            log.store(event)
        log.perform(machine.handle(event))
    again = HubRound(CHECKED, log.memory)
    assert again.state is State.CHECKING
    words = again.handle(Reminded())
    assert words[-1] == ComputeProjections(ALL_DIGEST, DEVICES, {"hub-2": SECRET})
    assert ComputeProjections not in kinds(again.handle(Reminded()))
    # Asked for another set, it stays with the one it has shown its challenge for.
    with pytest.raises(PeerContradictionError):
        machine.handle(PeerChallenge("hub-2", bytes(32), SECRET))


def test_a_check_that_does_not_end_is_given_up() -> None:
    for events in (IN_CHECK, (*IN_CHECK, PeerChallenge("hub-2", ALL_DIGEST, SECRET))):
        machine = fed(*events, terms=CHECKED)
        machine.handle(Tick(CLOSES))
        assert LogEnding not in kinds(machine.handle(Tick(CLOSES + SILENCE - 1)))
        reason = "the norm check did not come to an end in time"
        assert PublishAbandoned(reason) in machine.handle(Tick(CLOSES + SILENCE))


def test_every_move_of_the_table_is_made_and_no_other() -> None:
    three = dataclasses.replace(TERMS, peers=frozenset({"hub-2", "hub-3"}))
    digest = set_digest(reports(*DEVICES))
    words = [PeerSet(hub, reports(*DEVICES)) for hub in ("hub-2", "hub-3")]
    bonds = [PeerAgreement(hub, digest, DEVICES, 5000) for hub in ("hub-2", "hub-3")]
    made = walk(HubRound(TERMS), POOL) | walk(fed(*ALL_IN, terms=three), (*words, *bonds))
    late = (
        PeerChallenge("hub-2", ALL_DIGEST, SECRET),
        PeerProjections("hub-2", b"theirs"),
        Projected(b"own"),
    )
    made |= walk(fed(*ALL_IN, terms=CHECKED), CHECKED_POOL)
    made |= walk(fed(*ALL_IN, *words, terms=dataclasses.replace(three, checked=True)), late[:1])
    set_first = (PeerSet("hub-2", reports(*DEVICES)), Tick(CLOSES), *ALL_IN)
    made |= walk(fed(*ALL_IN[:1], terms=CHECKED), set_first)
    made |= walk(fed(*SUMMED), (*late, Committed(), Aborted("reason", 5000)))
    listed = {
        (state, kind, to)
        for state, row in TRANSITIONS.items()
        for kind, all_to in row.items()
        for to in all_to
    }
    assert made ^ listed == set()


# --- what must hold on every path -----------------------------------------------------------------


class Log:
    """A durable log that checks each action against what was made durable before it."""

    def __init__(self, terms: RoundTerms) -> None:
        self.terms = terms
        self.memory = RoundMemory()
        self.said: list[Action] = []

    def put(self, **changes: Any) -> None:
        self.memory = dataclasses.replace(self.memory, **changes)

    def store(self, event: ReportStored) -> None:
        if event.device not in {device for device, _, _ in self.memory.reports}:
            self.put(reports=(*self.memory.reports, (event.device, event.report_id, event.at_ms)))

    def perform(self, actions: tuple[Action, ...]) -> None:  # noqa: C901 - one case for each action
        for action in actions:
            memory = self.memory
            held = {device: name for device, name, _ in memory.reports}
            match action:
                case LogClosed(closed):
                    assert not memory.closed
                    assert closed == held
                    self.put(closed=True)
                case PublishSet(closed):
                    assert memory.closed
                    assert closed == held
                case LogAgreement(digest, members):
                    assert memory.closed
                    assert memory.agreement is None
                    assert memory.ending is None
                    assert len(members) >= self.terms.floor
                    assert digest == set_digest({device: held[device] for device in members})
                    self.put(agreement=(digest, members))
                case PublishAgreement(digest, members) | ComputeSum(digest, members):
                    assert memory.agreement == (digest, members)
                    assert memory.ending is not State.ABANDONED
                case LogSum(sealed):
                    assert memory.agreement is not None
                    assert memory.sealed is None
                    assert memory.ending is None
                    self.put(sealed=sealed)
                case PublishSum(digest, sealed):
                    assert memory.agreement is not None
                    assert (memory.sealed, memory.agreement[0]) == (sealed, digest)
                    assert memory.ending in {None, State.SPENT}
                case LogEnding(state, reason):
                    assert memory.ending is None or (memory.ending, state) == (State.SPENT, State.COMMITTED)
                    assert (memory.sealed is None) == (state is State.ABANDONED)
                    self.put(ending=state, reason=reason)
                case DestroyKey():
                    assert memory.ending is not None
                case PublishAbandoned(reason):
                    assert (memory.ending, memory.reason) == (State.ABANDONED, reason)
                    assert memory.sealed is None
                case LogSettled():
                    self.put(settled=True)
                case PublishSigned():
                    assert not memory.closed
            self.perform_check(action)
            self.said.append(action)

    def perform_check(self, action: Action) -> None:
        memory = self.memory
        match action:
            case LogChallenged(digest, members):
                assert memory.closed
                assert memory.challenged is None
                self.put(challenged=(digest, members))
            case PublishChallenge(digest):
                assert memory.challenged is not None
                assert memory.challenged[0] == digest
            case LogChecking(secrets):
                assert memory.secrets is None
                self.put(secrets=secrets)
            case ComputeProjections(digest, members, secrets):
                assert (memory.challenged, memory.secrets) == ((digest, members), secrets)


devices = st.sampled_from((*DEVICES, "stranger"))
times = st.integers(0, CLOSES + 3 * LINGER)
names = st.sampled_from([IDS["a"], IDS["b"], IDS["c"]])
peer_sets = (
    st.dictionaries(devices, names, max_size=4) | st.just(reports(*DEVICES)) | st.just(reports("a", "b"))
)
some_events: st.SearchStrategy[Event | None] = st.one_of(
    st.none(),
    st.builds(stored, st.sampled_from(DEVICES), times),
    st.builds(ReportStored, devices, names, times),
    st.builds(Tick, times),
    st.builds(PeerSet, st.sampled_from(["hub-2", "hub-3"]), peer_sets),
    st.builds(
        lambda hub, held: PeerAgreement(hub, set_digest(held), tuple(sorted(held)), 5000),
        st.sampled_from(["hub-2", "hub-3"]),
        peer_sets,
    ),
    st.builds(PeerAbandoned, st.just("hub-2")),
    st.builds(SumSealed, st.just(b"sum")),
    st.just(Committed()),
    st.just(Aborted("reason", 5000)),
    st.just(Reminded()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(some_events, max_size=25))
def test_whatever_comes_in_whatever_order(events: list[Event | None]) -> None:
    """None is a restart from the log."""
    log, machine = Log(TERMS), HubRound(TERMS)
    for event in events:
        if event is None:
            machine = HubRound(TERMS, log.memory)
            continue
        try:
            actions = machine.handle(event)
        except HubRoundError:
            continue
        if isinstance(event, ReportStored):
            log.store(event)
        log.perform(actions)
        if ComputeSum in kinds(actions):
            log.perform(machine.handle(SumSealed(b"sum")))


liar_words = st.one_of(
    st.builds(PeerSet, st.just("hub-3"), peer_sets),
    st.builds(lambda held: PeerAgreement("hub-3", set_digest(held), tuple(sorted(held)), 5000), peer_sets),
    st.builds(PeerAbandoned, st.just("hub-3")),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["honest", "honest", "lie"]), st.integers(0, 2), st.integers(0, 300), liar_words
        ),
        max_size=60,
    ),
    st.sampled_from([300, SILENCE]),
)
def test_no_words_of_one_hub_make_two_honest_ones_release_over_different_sets(
    choices: list[tuple[str, int, int, Event]], silence_ms: int
) -> None:
    """Hub 3 says to each what it likes; whoever released knows that the other honest one is bound alike."""
    fleet = Fleet(3, silence_ms)
    fleet.forgiven = (*fleet.forgiven, PeerContradictionError)
    for kind, n, m, word in choices:
        honest = ("hub-1", "hub-2")[n % 2]
        if kind == "lie":
            fleet.feed(honest, word)
            continue
        verb = ("report", "report", "deliver", "deliver", "time", "restart")[m % 6]
        if verb == "deliver" and fleet.network:
            to, event = fleet.network.pop(m % len(fleet.network))
            if to != "hub-3":
                fleet.feed(to, event)
        else:
            fleet.step((verb, n % 2, m))
    memories = [fleet.logs[hub].memory for hub in ("hub-1", "hub-2")]
    released = [memory for memory in memories if memory.sealed is not None]
    bonds = {memory.agreement for memory in memories if memory.agreement}
    assert all(memory.ending is not State.ABANDONED for memory in released)
    if released:
        assert len(bonds) == 1
        assert all(memory.agreement for memory in memories)


class Fleet:
    """Hubs that hear each other over a network which delays, repeats and loses."""

    def __init__(self, size: int, silence_ms: int = SILENCE, *, checked: bool = False) -> None:
        names = [f"hub-{n + 1}" for n in range(size)]
        terms = dataclasses.replace(TERMS, silence_ms=silence_ms, checked=checked)
        self.drops = checked
        self.terms = {hub: dataclasses.replace(terms, peers=frozenset(names) - {hub}) for hub in names}
        self.machines = {hub: HubRound(terms) for hub, terms in self.terms.items()}
        self.logs = {hub: Log(terms) for hub, terms in self.terms.items()}
        self.network: list[tuple[str, Event]] = []
        self.now = 1000
        self.over = False
        self.forgiven: tuple[type[Exception], ...] = (UnlistedEventError, SecondReportError)

    def feed(self, hub: str, event: Event) -> None:
        machine, log = self.machines[hub], self.logs[hub]
        try:
            actions = machine.handle(event)
        except self.forgiven:
            return
        if isinstance(event, ReportStored):
            log.store(event)
        log.perform(actions)
        for action in actions:
            self._send(hub, action)

    def _send(self, hub: str, action: Action) -> None:
        word: Event
        if self.over and isinstance(action, PublishAgreement | PublishSum | PublishAbandoned):
            # A coordinator that has given up says so to whoever still speaks of the round.
            self.network.append((hub, Aborted("it is over", self.now)))
        match action:
            case PublishSet(held):
                word = PeerSet(hub, held)
            case PublishAgreement(digest, members):
                word = PeerAgreement(hub, digest, members, self.now)
            case PublishAbandoned():
                word = PeerAbandoned(hub)
            case PublishChallenge(digest):
                word = PeerChallenge(hub, digest, hub.encode())
            case PublishProjections(_, data):
                word = PeerProjections(hub, data)
            case ComputeProjections(_, _, secrets):
                everybody = {**secrets, hub: hub.encode()}
                assert everybody == {name: name.encode() for name in self.terms}
                self.feed(hub, Projected(hub.encode()))
                return
            case JudgeNorms(members):
                self.feed(hub, NormsJudged(members[:2] if self.drops else members))
                return
            case ComputeSum():
                self.feed(hub, SumSealed(b"sum of " + hub.encode()))
                return
            case _:
                return
        self.network += [(peer, word) for peer in self.terms[hub].peers]

    def restart(self, hub: str) -> None:
        self.machines[hub] = HubRound(self.terms[hub], self.logs[hub].memory)
        self.feed(hub, Reminded())

    def step(self, choice: tuple[str, int, int]) -> None:
        kind, n, m = choice
        hub = sorted(self.machines)[n % len(self.machines)]
        match kind:
            case "report":
                self.feed(hub, stored(DEVICES[m % 3], self.now))
            case "deliver" if self.network:
                self.feed(*self.network.pop(m % len(self.network)))
            case "repeat" if self.network:
                self.feed(*self.network[m % len(self.network)])
            case "lose" if self.network:
                self.network.pop(m % len(self.network))
            case "time":
                self.now += m * 7
                self.feed(hub, Tick(self.now))
            case "restart":
                self.restart(hub)
            case "abort":
                self.feed(hub, Aborted("gave up", self.now))
            case _:
                pass


steps = st.tuples(
    st.sampled_from(["report"] * 4 + ["deliver"] * 6 + ["repeat", "lose", "time", "restart", "abort"]),
    st.integers(0, 2),
    st.integers(0, 300),
)


fleets = st.builds(Fleet, st.integers(2, 3), checked=st.booleans())


@settings(max_examples=300, deadline=None)
@given(fleets, st.lists(steps, max_size=60))
def test_hubs_never_part_in_what_they_released(fleet: Fleet, choices: list[tuple[str, int, int]]) -> None:
    for choice in choices:
        fleet.step(choice)
    memories = [log.memory for log in fleet.logs.values()]
    released = [memory for memory in memories if memory.sealed is not None]
    assert len({memory.agreement for memory in memories if memory.agreement}) <= 1
    assert not (released and any(memory.ending is State.ABANDONED for memory in memories))
    assert not released or all(memory.agreement for memory in memories)


@settings(max_examples=150, deadline=None)
@given(fleets, st.lists(steps, max_size=40))
def test_hubs_that_hear_each_other_again_always_come_to_an_end(
    fleet: Fleet, choices: list[tuple[str, int, int]]
) -> None:
    for choice in choices:
        fleet.step(choice)
    for _ in range(40):
        fleet.now += CLOSES
        for hub in fleet.machines:
            fleet.feed(hub, Tick(fleet.now))
        while fleet.network:
            fleet.feed(*fleet.network.pop(0))
    ends = {machine.state for machine in fleet.machines.values()}
    assert ends == {State.ABANDONED} or ends <= {State.SUMMED, State.SPENT}


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 3), st.lists(steps, max_size=60))
def test_words_about_a_round_that_is_over_die_down(size: int, choices: list[tuple[str, int, int]]) -> None:
    fleet = Fleet(size)
    for choice in choices:
        fleet.step(choice)
    fleet.over = True
    delivered = 0
    for _ in range(20):
        fleet.now += CLOSES
        for hub in fleet.machines:
            fleet.feed(hub, Tick(fleet.now))
        while fleet.network:
            fleet.feed(*fleet.network.pop(0))
            delivered += 1
            assert delivered < 2000
    said = sum(len(log.said) for log in fleet.logs.values())
    for hub in fleet.machines:
        fleet.feed(hub, Tick(fleet.now + CLOSES))
    assert not fleet.network
    assert said == sum(len(log.said) for log in fleet.logs.values())
