"""The rollout's decisions: every row of its table, and what holds whatever devices say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.ota.health import UNTOLD
from shoal_codecs.wire.heartbeat import Reading
from shoal_coordinator.registry import DeviceView
from shoal_coordinator.release_errors import NoCanaryError, UnexpectedRolloutEventError
from shoal_coordinator.rollout import MISSING, Rollout, choose_canaries
from shoal_coordinator.rollout_steps import (
    STOPPED,
    Announce,
    DeviceProgress,
    Order,
    Persist,
    PersistDevice,
    Reported,
    Restored,
    RolloutAction,
    RolloutEvent,
    RolloutRules,
    RolloutState,
    Seen,
    Started,
    Stop,
    Tick,
    Withdraw,
)

S = RolloutState
RULES = RolloutRules(min_examples=20, failure_share=0.25, report_ms=10_000, resend_ms=1_000, retries=1)
FLEET = ("a", "b", "c", "d", "e")
ALL_ONLINE = Tick(frozenset(FLEET))
GOOD = (40, 38)


def rollout(state: RolloutState = S.DRAFT, *, canaries: tuple[str, ...] = ("c",), **progress: str) -> Rollout:
    known = {name: DeviceProgress(word, heard_ms=1, ordered_ms=1) for name, word in progress.items()}
    return Rollout("r1", FLEET, canaries, RULES, state=state, progress=known)


def stands(machine: Rollout, state: RolloutState) -> bool:
    return machine.state is state


def confirmed(device: str, candidate: tuple[int, int] = GOOD) -> Reported:
    return Reported(device, "confirmed", "", candidate, (40, 37))


def rolled_back(device: str) -> Reported:
    return Reported(device, "rolled-back", "4 of 40 right, 38 before", (40, 4), (40, 38))


def ordered(actions: list[RolloutAction]) -> list[str]:
    return [action.device for action in actions if isinstance(action, Order)]


def kinds(actions: list[RolloutAction]) -> list[type]:
    return [type(action) for action in actions]


def test_a_good_release_goes_to_the_canary_then_to_all_then_is_complete() -> None:
    machine = rollout()
    assert kinds(machine.handle(Started(), 0)) == [Persist, Announce]
    assert stands(machine, S.CANARY)
    assert ordered(machine.handle(ALL_ONLINE, 1)) == ["c"]
    assert kinds(machine.handle(confirmed("c"), 2)) == [PersistDevice, Persist, Announce]
    assert stands(machine, S.ALL)
    assert sorted(ordered(machine.handle(ALL_ONLINE, 3))) == ["a", "b", "d", "e"]
    for name in ("a", "b", "d"):
        machine.handle(confirmed(name, (3, 3)), 4)
        assert stands(machine, S.ALL)
    machine.handle(confirmed("e"), 5)
    assert stands(machine, S.COMPLETE)


def test_a_bad_release_ends_at_the_canary_and_reaches_nobody_else() -> None:
    machine = rollout()
    machine.handle(Started(), 0)
    machine.handle(ALL_ONLINE, 1)
    actions = machine.handle(rolled_back("c"), 2)
    assert stands(machine, S.ABORTED)
    assert "4 of 40" in machine.reason
    assert not any(isinstance(action, Stop) for action in actions)
    assert ordered(machine.handle(ALL_ONLINE, 100_000)) == []


@pytest.mark.parametrize(
    "word",
    [
        Reported("c", "refused", "WrongFleet"),
        rolled_back("c"),
        confirmed("c", (19, 19)),
    ],
)
def test_what_a_canary_must_not_say(word: Reported) -> None:
    machine = rollout(S.CANARY, c="testing")
    machine.handle(word, 2)
    assert stands(machine, S.ABORTED)


def test_a_canary_that_says_nothing_aborts_also_when_it_is_gone() -> None:
    for online in (frozenset[str](), frozenset(FLEET)):
        machine = rollout(S.CANARY)
        machine.handle(Tick(online), 1)
        machine.handle(Tick(online), 10_000)
        assert stands(machine, S.CANARY)
        machine.handle(Tick(online), 10_001)
        assert stands(machine, S.ABORTED)
        assert machine.devices["c"].state == MISSING


def test_every_canary_must_confirm() -> None:
    machine = rollout(S.CANARY, canaries=("c", "d"))
    machine.handle(confirmed("c"), 1)
    assert stands(machine, S.CANARY)
    machine.handle(confirmed("d"), 2)
    assert stands(machine, S.ALL)


def test_without_canaries_it_goes_to_all_at_once() -> None:
    machine = rollout(canaries=())
    machine.handle(Started(), 0)
    assert stands(machine, S.ALL)


def test_orders_are_repeated_until_the_device_has_finished() -> None:
    machine = rollout(S.CANARY)
    assert ordered(machine.handle(ALL_ONLINE, 5_000)) == ["c"]
    assert ordered(machine.handle(ALL_ONLINE, 5_999)) == []
    assert ordered(machine.handle(ALL_ONLINE, 6_000)) == ["c"]
    machine.handle(Reported("c", "testing"), 6_500)
    assert machine.devices["c"].state == "testing"
    assert ordered(machine.handle(ALL_ONLINE, 7_000)) == ["c"]
    assert machine.devices["c"].state == "testing"


def test_a_failed_installation_is_tried_again_and_then_given_up() -> None:
    machine = rollout(S.CANARY, c="fetching")
    machine.handle(Reported("c", "failed", "DiskFullError"), 2_000)
    assert stands(machine, S.CANARY)
    assert ordered(machine.handle(ALL_ONLINE, 3_000)) == ["c"]
    machine.handle(Reported("c", "failed", "DiskFullError"), 3_100)
    assert stands(machine, S.ABORTED)


def test_an_absent_device_is_no_failure_and_is_ordered_when_it_is_back() -> None:
    machine = rollout(S.ALL, a="confirmed", b="confirmed", c="confirmed", d="confirmed")
    for now in (1_000, 50_000, 100_000):
        assert machine.handle(Tick(frozenset("abcd")), now) == []
    assert stands(machine, S.ALL)
    assert ordered(machine.handle(ALL_ONLINE, 100_500)) == ["e"]
    machine.handle(confirmed("e"), 100_600)
    assert stands(machine, S.COMPLETE)


def test_too_many_failures_stop_it_and_those_under_way_are_told() -> None:
    machine = rollout(S.ALL, a="confirmed", b="rolled-back", c="confirmed", d="fetching")
    assert stands(machine, S.ALL)
    actions = machine.handle(rolled_back("e"), 2)
    assert stands(machine, S.ABORTED)
    assert [action.device for action in actions if isinstance(action, Stop)] == ["d"]


def test_few_failures_do_not_stop_it() -> None:
    machine = rollout(S.ALL, a="confirmed", b="confirmed", c="confirmed", d="confirmed", e="testing")
    machine.handle(rolled_back("e"), 2)
    assert stands(machine, S.COMPLETE)
    assert machine.count("confirmed") == 4


def test_a_missing_device_that_speaks_after_all_is_heard() -> None:
    machine = rollout(S.ALL, a="confirmed", b="confirmed", c="confirmed", d="testing", e="testing")
    machine.handle(ALL_ONLINE, 9_000)
    machine.handle(Reported("d", "testing"), 9_500)
    machine.handle(ALL_ONLINE, 10_001)
    assert machine.devices["e"].state == MISSING
    machine.handle(confirmed("e"), 11_000)
    machine.handle(confirmed("d"), 11_001)
    assert stands(machine, S.COMPLETE)
    assert machine.count("confirmed") == 5


def test_withdrawing_tells_those_under_way() -> None:
    machine = rollout(S.ALL, a="confirmed", b="testing")
    actions = machine.handle(Withdraw("by the operator"), 2)
    assert stands(machine, S.WITHDRAWN)
    assert [action for action in actions if isinstance(action, Stop)] == [Stop("b", "by the operator")]
    assert machine.handle(Reported("d", "fetching"), 3)[-1] == Stop("d", "by the operator")
    assert Stop not in kinds(machine.handle(confirmed("d"), 4))


def test_a_device_that_lost_the_release_gets_it_again() -> None:
    machine = rollout(S.COMPLETE, a="confirmed", b="confirmed", c="confirmed", d="confirmed", e="confirmed")
    assert machine.handle(Seen("a", "", working=False), 2_000) == []
    assert machine.handle(Seen("a", "r1", working=False), 3_000) == []
    assert machine.handle(Seen("a", "", working=True), 3_000) == []
    assert ordered(machine.handle(Seen("a", "", working=False), 3_000)) == ["a"]
    assert ordered(machine.handle(ALL_ONLINE, 4_000)) == ["a"]
    machine.handle(confirmed("a"), 4_500)
    assert machine.handle(ALL_ONLINE, 9_000) == []
    assert stands(machine, S.COMPLETE)


def test_a_restart_goes_on_where_it_was() -> None:
    machine = rollout()
    machine.handle(Restored(), 0)
    assert stands(machine, S.CANARY)
    # What a store keeps of a device: its word, without the times of this process.
    again = Rollout("r1", FLEET, ("c",), RULES, state=S.CANARY, progress={"c": DeviceProgress("testing")})
    assert again.handle(Restored(), 5_000) == []
    assert ordered(again.handle(ALL_ONLINE, 5_001)) == ["c"]
    again.handle(ALL_ONLINE, 15_001)
    assert stands(again, S.ABORTED)


def test_words_of_strangers_and_of_devices_not_yet_ordered_change_nothing() -> None:
    machine = rollout(S.CANARY, c="testing")
    for word in (confirmed("z"), confirmed("a"), Reported("c", "exploded")):
        assert machine.handle(word, 2) == []
    assert stands(machine, S.CANARY)


def test_what_the_table_does_not_list_raises() -> None:
    events: dict[type, RolloutEvent] = {
        Started: Started(),
        Restored: Restored(),
        Reported: confirmed("c"),
        Seen: Seen("c", "", working=False),
        Tick: ALL_ONLINE,
        Withdraw: Withdraw("stop"),
    }
    for state in S:
        missing = set(events) - Rollout.expected(state)
        assert Tick not in missing
        assert Reported not in missing
        for kind in missing:
            with pytest.raises(UnexpectedRolloutEventError):
                rollout(state).handle(events[kind], 1)


def view(name: str, held_out: int, *, online: bool = True, trusted: bool = True) -> DeviceView:
    return DeviceView(name, trusted=trusted, online=online, readings={int(Reading.HELD_OUT): held_out})


def test_canaries_are_those_who_can_judge_best() -> None:
    views = [
        view("a", 30),
        view("b", 60),
        view("c", 90, online=False),
        view("d", 99, trusted=False),
        view("e", 60),
        view("f", 5),
    ]
    assert choose_canaries(views, 1, 20) == ("b",)
    assert choose_canaries(views, 9, 20) == ("b", "e", "a")
    assert choose_canaries(views, 0, 20) == ()
    with pytest.raises(NoCanaryError):
        choose_canaries(views, 1, 100)


words = st.builds(
    Reported,
    st.sampled_from([*FLEET, "stranger"]),
    st.sampled_from(
        ["fetching", "installing", "testing", "confirmed", "rolled-back", "refused", "failed", "?"]
    ),
    st.just("why"),
    st.sampled_from([GOOD, (3, 3), (0, 0)]),
)
happenings = st.one_of(
    words,
    st.builds(Tick, st.frozensets(st.sampled_from(FLEET))),
    st.builds(Seen, st.sampled_from(FLEET), st.sampled_from(["", "r1", "r0"]), st.booleans()),
)


@settings(deadline=None)
@given(st.lists(st.tuples(happenings, st.integers(0, 4_000)), max_size=60))
def test_whatever_devices_say_nobody_gets_it_before_the_canary_or_after_the_end(
    story: list[tuple[RolloutEvent, int]],
) -> None:
    machine = rollout()
    machine.handle(Started(), 0)
    now, cleared = 0, False
    for event, wait in story:
        now += wait
        before = machine.state
        actions = machine.handle(event, now)
        cleared = cleared or machine.devices["c"].state == "confirmed"
        if before in STOPPED:
            assert machine.state is before
            assert ordered(actions) == []
        if before is S.CANARY:
            assert set(ordered(actions)) <= {"c"}
        if machine.state in {S.ALL, S.COMPLETE}:
            assert cleared
        if machine.state is not before:
            assert Persist in kinds(actions)
            # Persist before announcing.
            assert kinds(actions).index(Persist) < kinds(actions).index(Announce) or any(
                isinstance(action, Announce) and action.kind.startswith("release.device")
                for action in actions
            )


def test_a_canary_that_keeps_its_counts_to_itself_is_believed() -> None:
    machine = rollout()
    machine.handle(Started(), 0)
    machine.handle(ALL_ONLINE, 1)
    machine.handle(confirmed("c", UNTOLD), 2)
    assert stands(machine, S.ALL)
    machine = rollout()
    machine.handle(Started(), 0)
    machine.handle(ALL_ONLINE, 1)
    machine.handle(confirmed("c", (0, 0)), 2)
    assert stands(machine, S.ABORTED)


def test_quiet_devices_go_first_only_where_nobody_is_known_to_judge_better() -> None:
    quiet = DeviceView("q", trusted=True, online=True, readings={int(Reading.METRICS): "verdict"})
    assert choose_canaries([quiet, view("a", 30)], 1, 20) == ("a",)
    assert choose_canaries([quiet, view("a", 30)], 2, 20) == ("a", "q")
    assert choose_canaries([quiet], 1, 20) == ("q",)
