"""The updater's decisions: every row of its table, and what holds whatever happens."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.ota.health import Verdict
from shoal_codecs.wire.packing import pack, unpack
from shoal_edge.release_errors import UnexpectedUpdaterEventError
from shoal_edge.updater import (
    MAX_TESTS,
    WORKING,
    Action,
    Broken,
    Event,
    Fetched,
    Judged,
    Ordered,
    Rejected,
    Restored,
    Updater,
    UpdaterRecord,
    UpdaterState,
    Withdrawn,
    Written,
)

S = UpdaterState
KINDS: tuple[type, ...] = (Ordered, Rejected, Fetched, Written, Judged, Broken, Withdrawn, Restored)


def ordered(release: str = "r1", version: int = 1) -> Ordered:
    return Ordered(release, version, release.encode(), b"signature", "B", "A")


def judged(verdict: Verdict, release: str = "r1") -> Judged:
    return Judged(release, verdict, "as counted", (40, 30), (40, 31))


def at(state: UpdaterState, **changes: Any) -> Updater:
    """Return an updater that is in ``state`` with release r1."""
    record = UpdaterRecord(state, "r1", 1, b"r1", b"signature", "B", "A", tests=1)
    return Updater(msgspec.structs.replace(record, **changes))


def event_of(kind: type, release: str = "r1") -> Event:
    made: dict[type, Event] = {
        Ordered: ordered(release),
        Rejected: Rejected(release, 1, "no"),
        Fetched: Fetched(release),
        Written: Written(release),
        Judged: judged(Verdict.PASSED, release),
        Broken: Broken(release, "broke"),
        Withdrawn: Withdrawn(release, "stop"),
        Restored: Restored(),
    }
    return made[kind]


PERSIST, REPORT = Action.PERSIST, Action.REPORT
BEGUN = (S.FETCHING, [PERSIST, REPORT, Action.FETCH])
BACK = (S.ROLLED_BACK, [PERSIST, Action.GO_BACK, REPORT])
TABLE: list[tuple[UpdaterState, Event, UpdaterState, list[Action]]] = [
    (S.IDLE, ordered(), *BEGUN),
    (S.IDLE, Rejected("r1", 1, "no"), S.REFUSED, [PERSIST, REPORT]),
    (S.IDLE, Withdrawn("r1", "stop"), S.IDLE, []),
    (S.IDLE, Restored(), S.IDLE, []),
    (S.FETCHING, ordered(), S.FETCHING, [REPORT]),
    (S.FETCHING, ordered("r2"), S.FETCHING, [Action.STOP_WORK, *BEGUN[1]]),
    (S.FETCHING, Rejected("r2", 1, "no"), S.FETCHING, []),
    (S.FETCHING, Fetched("r1"), S.WRITING, [PERSIST, REPORT, Action.WRITE]),
    (S.FETCHING, Fetched("r0"), S.FETCHING, []),
    (S.FETCHING, Broken("r1", "broke"), S.FAILED, [PERSIST, REPORT]),
    (S.FETCHING, Withdrawn("r1", "stop"), S.IDLE, [Action.STOP_WORK, PERSIST]),
    (S.FETCHING, Withdrawn("r2", "stop"), S.FETCHING, []),
    (S.FETCHING, Restored(), *BEGUN),
    (S.WRITING, ordered(), S.WRITING, [REPORT]),
    (S.WRITING, ordered("r2"), S.WRITING, []),
    (S.WRITING, Rejected("r2", 1, "no"), S.WRITING, []),
    (S.WRITING, Written("r1"), S.TESTING, [PERSIST, REPORT, Action.SWITCH_AND_TEST]),
    (S.WRITING, Broken("r1", "broke"), S.FAILED, [PERSIST, REPORT]),
    (S.WRITING, Withdrawn("r1", "stop"), S.IDLE, [Action.STOP_WORK, PERSIST]),
    (S.WRITING, Restored(), *BEGUN),
    (S.TESTING, ordered(), S.TESTING, [REPORT]),
    (S.TESTING, ordered("r2"), S.TESTING, []),
    (S.TESTING, Rejected("r2", 1, "no"), S.TESTING, []),
    (S.TESTING, judged(Verdict.PASSED), S.CONFIRMED, [PERSIST, REPORT]),
    (S.TESTING, judged(Verdict.UNJUDGED), S.CONFIRMED, [PERSIST, REPORT]),
    (S.TESTING, judged(Verdict.WORSE), *BACK),
    (S.TESTING, Broken("r1", "broke"), *BACK),
    (
        S.TESTING,
        Withdrawn("r1", "stop"),
        S.ROLLED_BACK,
        [Action.STOP_WORK, PERSIST, Action.GO_BACK, REPORT],
    ),
    (S.TESTING, Restored(), S.TESTING, [PERSIST, REPORT, Action.SWITCH_AND_TEST]),
    (S.CONFIRMED, ordered(), S.CONFIRMED, [REPORT]),
    (S.CONFIRMED, ordered("r2"), *BEGUN),
    (S.CONFIRMED, Rejected("r1", 1, "expired since"), S.CONFIRMED, [REPORT]),
    (S.CONFIRMED, Rejected("r2", 1, "no"), S.REFUSED, [PERSIST, REPORT]),
    (S.CONFIRMED, Withdrawn("r1", "stop"), S.CONFIRMED, []),
    (S.CONFIRMED, Restored(), S.CONFIRMED, [REPORT]),
    (S.ROLLED_BACK, ordered("r2"), *BEGUN),
    (S.ROLLED_BACK, Rejected("r1", 1, "left before"), S.ROLLED_BACK, [REPORT]),
    (S.ROLLED_BACK, Rejected("r2", 1, "no"), S.REFUSED, [PERSIST, REPORT]),
    (S.ROLLED_BACK, Withdrawn("r1", "stop"), S.ROLLED_BACK, []),
    (S.ROLLED_BACK, Restored(), S.ROLLED_BACK, [Action.GO_BACK, REPORT]),
    (S.REFUSED, ordered(), *BEGUN),
    (S.REFUSED, Rejected("r1", 1, "no"), S.REFUSED, [PERSIST, REPORT]),
    (S.REFUSED, Withdrawn("r1", "stop"), S.REFUSED, []),
    (S.REFUSED, Restored(), S.REFUSED, [REPORT]),
    (S.FAILED, ordered(), *BEGUN),
    (S.FAILED, Rejected("r1", 1, "no"), S.REFUSED, [PERSIST, REPORT]),
    (S.FAILED, Withdrawn("r1", "stop"), S.FAILED, []),
    (S.FAILED, Restored(), S.FAILED, [REPORT]),
]


@pytest.mark.parametrize(("state", "event", "after", "actions"), TABLE)
def test_each_row_of_the_table(
    state: UpdaterState, event: Event, after: UpdaterState, actions: list[Action]
) -> None:
    machine = at(state)
    assert machine.handle(event) == actions
    assert machine.state is after


def test_the_rows_above_are_the_whole_table() -> None:
    shown = {(state, type(event)) for state, event, _, _ in TABLE}
    assert shown == {(state, kind) for state in S for kind in Updater.expected(state)}


@pytest.mark.parametrize("state", list(S))
def test_what_the_table_does_not_list_raises_or_is_late(state: UpdaterState) -> None:
    for kind in set(KINDS) - Updater.expected(state):
        machine = at(state)
        if state in WORKING:
            with pytest.raises(UnexpectedUpdaterEventError):
                machine.handle(event_of(kind))
        else:
            assert machine.handle(event_of(kind)) == []


def test_a_release_left_once_is_remembered_over_the_next() -> None:
    machine = at(S.TESTING)
    machine.handle(judged(Verdict.WORSE))
    machine.handle(ordered("r2", 2))
    machine.handle(Fetched("r2"))
    machine.handle(Written("r2"))
    machine.handle(judged(Verdict.PASSED, "r2"))
    machine.handle(Rejected("r1", 1, "left before"))
    assert machine.record.rolled_back == ("r1",)


def test_a_withdrawn_test_is_not_held_against_the_release() -> None:
    machine = at(S.TESTING)
    machine.handle(Withdrawn("r1", "stop"))
    assert machine.record.rolled_back == ()


def test_a_model_that_takes_the_board_down_is_given_up() -> None:
    machine = at(S.TESTING)
    for _ in range(MAX_TESTS - 1):
        assert Action.SWITCH_AND_TEST in machine.handle(Restored())
        machine = Updater(machine.record)
    assert machine.handle(Restored()) == BACK[1]
    assert machine.record.rolled_back == ("r1",)


def test_the_scores_are_kept_for_the_report() -> None:
    machine = at(S.TESTING)
    machine.handle(judged(Verdict.WORSE))
    assert (machine.record.candidate, machine.record.replaced) == ((40, 30), (40, 31))
    machine = at(S.REFUSED, candidate=(40, 1))
    machine.handle(ordered("r2"))
    assert machine.record.candidate == (0, 0)


events = st.one_of(
    st.builds(ordered, st.sampled_from(["r1", "r2"])),
    st.builds(Rejected, st.sampled_from(["r1", "r2"]), st.just(1), st.just("no")),
    st.builds(Fetched, st.sampled_from(["r1", "r2"])),
    st.builds(Written, st.sampled_from(["r1", "r2"])),
    st.builds(judged, st.sampled_from(Verdict), st.sampled_from(["r1", "r2"])),
    st.builds(Broken, st.sampled_from(["r1", "r2"]), st.just("broke")),
    st.builds(Withdrawn, st.sampled_from(["r1", "r2"]), st.just("stop")),
    st.just(Restored()),
)


@settings(deadline=None)
@given(st.lists(events, max_size=30))
def test_nothing_is_done_before_it_is_written_down_and_every_restart_goes_on(story: list[Event]) -> None:
    machine = Updater()
    for event in story:
        before = machine.record
        try:
            actions = machine.handle(event)
        except UnexpectedUpdaterEventError:
            assert machine.record == before
            continue
        if machine.record != before:
            assert Action.PERSIST in actions
        for work in (Action.FETCH, Action.WRITE, Action.SWITCH_AND_TEST):
            if work in actions:
                assert actions.index(Action.PERSIST) < actions.index(work)
        if Action.PERSIST in actions and Action.GO_BACK in actions:
            assert actions.index(Action.PERSIST) < actions.index(Action.GO_BACK)
        again = Updater(unpack(pack(machine.record), UpdaterRecord))
        assert again.record == machine.record
        resumed = again.handle(Restored())
        working = machine.state in WORKING
        assert working == bool({Action.FETCH, Action.SWITCH_AND_TEST} & set(resumed)) or again.state is (
            S.ROLLED_BACK
        )
