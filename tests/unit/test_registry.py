from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.wire.framing import MAX_FRAME_BYTES
from shoal_codecs.wire.heartbeat import Reading, changed
from shoal_codecs.wire.held import HeldRoster
from shoal_codecs.wire.messages import DeviceStatus, Heartbeat
from shoal_codecs.wire.packing import pack
from shoal_coordinator import registry as registry_module
from shoal_coordinator.fleet_desk import FleetDesk
from shoal_coordinator.registry import DeviceView, Registry
from wire_parts import NOW_MS, roster

HEARTBEAT_S = 60.0
FIRST, SECOND = b"session1", b"session2"


def fresh() -> Registry:
    return Registry(roster(), HEARTBEAT_S)


def status(*, online: bool, session: bytes = FIRST, sent_ms: int = NOW_MS) -> DeviceStatus:
    return DeviceStatus(
        protocol=1, sender="device-01", message_id=b"", sent_ms=sent_ms, online=online, session=session
    )


def beat(
    sequence: int,
    readings: dict[int, Any] | None = None,
    *,
    full: bool = False,
    sender: str = "device-01",
    sent_ms: int | None = None,
) -> Heartbeat:
    return Heartbeat(
        protocol=1,
        sender=sender,
        message_id=b"",
        sent_ms=NOW_MS + sequence if sent_ms is None else sent_ms,
        sequence=sequence,
        full=full,
        readings=readings or {},
    )


def seen(registry: Registry, name: str = "device-01") -> DeviceView:
    view = registry.view(name)
    assert view is not None
    return view


def test_a_device_that_goes_by_another_roster_is_told_apart_until_it_starts_with_ours() -> None:
    registry, ours = fresh(), roster().held
    cases: tuple[tuple[HeldRoster | None, str], ...] = (
        (HeldRoster(ours.serial - 1, ours.mark), f"roster {ours.serial - 1}"),
        (HeldRoster(ours.serial, b"another."), f"another roster {ours.serial}"),
        (ours, ""),
        # Whoever does not say is taken at its word.
        (None, ""),
    )
    for number, (held, words) in enumerate(cases):
        message = status(online=True, session=bytes([number]) * 8, sent_ms=NOW_MS + number)
        registry.hear_status(msgspec.structs.replace(message, roster=held), NOW_MS)
        assert seen(registry).other_roster == words


def test_the_rosters_devices_are_there_before_they_are_heard() -> None:
    views = fresh().views()
    assert [view.name for view in views] == ["device-01", "device-02", "device-03"]
    assert all(view.trusted and not view.online for view in views)


def test_a_status_brings_a_device_and_its_will_takes_it() -> None:
    registry = fresh()
    assert registry.hear_status(status(online=True), NOW_MS)
    assert not registry.hear_status(status(online=True), NOW_MS)
    assert registry.is_online("device-01")
    assert registry.hear_status(status(online=False), NOW_MS + 1)
    assert not registry.is_online("device-01")


def test_the_will_of_an_older_session_does_not_take_the_newer_one_down() -> None:
    registry = fresh()
    registry.hear_status(status(online=True), NOW_MS)
    registry.hear_status(status(online=True, session=SECOND, sent_ms=NOW_MS + 10), NOW_MS + 10)
    assert not registry.hear_status(status(online=False), NOW_MS + 11)
    assert registry.is_online("device-01")


def test_a_status_said_before_the_last_one_does_not_turn_a_device_back() -> None:
    registry = fresh()
    registry.hear_status(status(online=True, session=SECOND), NOW_MS)
    registry.hear_status(status(online=False, session=SECOND), NOW_MS + 1)
    assert not registry.hear_status(status(online=True, sent_ms=NOW_MS - 10), NOW_MS + 2)
    assert not registry.is_online("device-01")


def test_a_clock_that_was_ahead_does_not_shut_a_device_out() -> None:
    registry = fresh()
    year_ms = 365 * 86_400_000
    registry.hear_status(status(online=True, sent_ms=NOW_MS + year_ms), NOW_MS)
    registry.hear_heartbeat(beat(40, full=True, sent_ms=NOW_MS + year_ms), NOW_MS)
    registry.hear_status(status(online=False, sent_ms=NOW_MS + year_ms), NOW_MS + 1)
    assert registry.hear_status(status(online=True, session=SECOND, sent_ms=NOW_MS + 2), NOW_MS + 2)
    registry.hear_heartbeat(beat(0, {0: "training"}, full=True, sent_ms=NOW_MS + 3), NOW_MS + 3)
    assert seen(registry).phase == "training"


def test_a_device_that_misses_three_heartbeats_is_offline_until_it_is_heard() -> None:
    registry = fresh()
    registry.hear_heartbeat(beat(0, full=True), NOW_MS)
    limit_ms = int(3 * HEARTBEAT_S * 1000)
    assert registry.silent(NOW_MS + limit_ms) == []
    assert registry.silent(NOW_MS + limit_ms + 1) == ["device-01"]
    assert registry.silent(NOW_MS + limit_ms + 2) == []
    assert not registry.is_online("device-01")
    assert registry.hear_heartbeat(beat(1), NOW_MS + limit_ms + 3)
    assert registry.is_online("device-01")


def test_partial_heartbeats_add_up() -> None:
    registry = fresh()
    registry.hear_heartbeat(beat(0, {Reading.PHASE: "idle", Reading.EXAMPLES: 120}, full=True), NOW_MS)
    registry.hear_heartbeat(beat(1, {Reading.PHASE: "training", Reading.ROUND: 7}), NOW_MS)
    registry.hear_heartbeat(beat(2, {Reading.ROUND: None}), NOW_MS)
    view = seen(registry)
    assert (view.phase, view.number(Reading.EXAMPLES), view.number(Reading.ROUND)) == ("training", 120, 0)
    assert view.complete
    assert view.gaps == 0


def test_a_missed_heartbeat_is_noticed_until_the_next_full_one() -> None:
    registry = fresh()
    registry.hear_heartbeat(beat(0, {Reading.EXAMPLES: 1}, full=True), NOW_MS)
    registry.hear_heartbeat(beat(2, {Reading.EXAMPLES: 2}), NOW_MS)
    assert (seen(registry).complete, seen(registry).gaps) == (False, 1)
    registry.hear_heartbeat(beat(3, {Reading.EXAMPLES: 3}), NOW_MS)
    assert not seen(registry).complete
    registry.hear_heartbeat(beat(4, {Reading.EXAMPLES: 4}, full=True), NOW_MS)
    assert seen(registry).complete


def test_copies_and_overtaken_heartbeats_change_nothing() -> None:
    registry = fresh()
    registry.hear_heartbeat(beat(5, {Reading.PHASE: "training"}, full=True), NOW_MS)
    for late in (beat(5, {0: "idle"}, full=True), beat(4, {0: "idle"}), beat(5, {0: "idle"})):
        assert not registry.hear_heartbeat(late, NOW_MS + 1)
    assert seen(registry).phase == "training"
    assert seen(registry).last_seen_ms == NOW_MS


def test_a_copy_of_the_last_heartbeat_does_not_bring_a_device_back() -> None:
    registry = fresh()
    registry.hear_status(status(online=True), NOW_MS)
    registry.hear_heartbeat(beat(0, full=True), NOW_MS)
    registry.hear_status(status(online=False), NOW_MS + 1)
    assert not registry.hear_heartbeat(beat(0, full=True), NOW_MS + 2)
    assert not registry.is_online("device-01")


def test_a_new_session_counts_from_the_beginning() -> None:
    registry = fresh()
    registry.hear_status(status(online=True), NOW_MS)
    registry.hear_heartbeat(beat(900, {Reading.PHASE: "training"}, full=True), NOW_MS)
    registry.hear_status(status(online=True, session=SECOND, sent_ms=NOW_MS + 1000), NOW_MS + 1000)
    registry.hear_heartbeat(beat(0, {Reading.PHASE: "idle"}, full=True, sent_ms=NOW_MS + 1001), NOW_MS + 1001)
    assert seen(registry).phase == "idle"
    assert registry.hear_heartbeat(beat(1, {0: "x"}, sent_ms=NOW_MS + 1002), NOW_MS + 1002) is False
    assert seen(registry).phase == "x"


def test_guests_are_shown_after_the_rosters_devices_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MOST_GUESTS", 5)
    registry = fresh()
    for number in range(20):
        registry.hear_heartbeat(beat(0, {0: "idle"}, full=True, sender=f"a-guest-{number}"), NOW_MS)
    views = registry.views()
    assert [view.trusted for view in views] == [True] * 3 + [False] * 5
    assert registry.hear_heartbeat(beat(0, full=True), NOW_MS)


def test_what_another_message_proves_is_noted() -> None:
    registry = fresh()
    registry.note("device-01", Reading.MODEL, b"12345678")
    registry.note("nobody", Reading.MODEL, b"12345678")
    assert registry.model_held("device-01") == b"12345678"
    assert registry.model_held("nobody") is None
    assert registry.view("nobody") is None


def test_a_device_is_busy_with_a_round_that_goes_on_alone() -> None:
    registry = fresh()
    registry.hear_heartbeat(beat(0, {Reading.PHASE: "training", Reading.ROUND: 7}, full=True), NOW_MS)
    assert seen(registry).busy(6)
    assert not seen(registry).busy(7)
    registry.hear_heartbeat(beat(1, {Reading.PHASE: "idle"}), NOW_MS)
    assert not seen(registry).busy(6)


def test_what_a_guest_says_takes_little_memory_and_moves_no_cursor() -> None:
    registry = fresh()
    readings: dict[int, Any] = {
        Reading.PHASE: "\x1b[2Jtraining\n\u202e" + "x" * 100_000,
        Reading.MODEL: bytes(100_000),
        Reading.EXAMPLES: [list(range(100))] * 100,
        77: "unknown",
        -1: "unknown",
    }
    registry.hear_heartbeat(beat(0, readings, full=True, sender="guest"), NOW_MS)
    view = seen(registry, "guest")
    assert set(view.readings) == {Reading.PHASE, Reading.MODEL}
    assert all(len(value) <= 200 for value in view.readings.values())
    assert view.phase.startswith("[2Jtrainingxxx")
    assert len(view.model_id) == 64


ODD: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just([])
)


@given(st.dictionaries(st.integers(0, 40), ODD))
def test_no_reading_is_too_odd_to_be_shown(readings: dict[int, Any]) -> None:
    registry = fresh()
    registry.hear_heartbeat(beat(0, readings, full=True), NOW_MS)
    view = seen(registry)
    for reading in Reading:
        assert isinstance(view.number(reading), int)
        assert view.text(reading).isprintable()
        assert len(view.octets(reading)) <= 64
    assert isinstance(view.busy(0), bool)


@given(
    st.lists(st.dictionaries(st.integers(0, 25), st.integers(0, 3)), min_size=1, max_size=25),
    st.sets(st.integers(1, 24)),
    st.integers(2, 10),
)
def test_a_view_that_says_it_is_complete_is(
    states: list[dict[int, Any]], lost: set[int], full_every: int
) -> None:
    registry = fresh()
    last: dict[int, Any] = {}
    for sequence, now in enumerate(states):
        full = sequence % full_every == 0
        if sequence not in lost:
            registry.hear_heartbeat(beat(sequence, now if full else changed(last, now), full=full), NOW_MS)
            view = seen(registry)
            assert not view.complete or view.readings == now
        last = now


def test_whatever_guests_send_the_fleet_can_still_be_shown() -> None:
    registry = fresh()
    unread: Any = None
    rows = FleetDesk(registry, unread, unread, unread, unread).rows
    for number in range(3000):
        readings: dict[int, Any] = dict.fromkeys(Reading, "\U0001f41f" * 1000)
        readings |= {
            Reading.MEMORY_AVAILABLE: 1e30,
            Reading.SENT: (1 << 64) - 1,
            Reading.EXAMPLES: -1e300,
        }
        registry.hear_heartbeat(beat(0, readings, full=True, sender=f"guest-{number}"), NOW_MS)
    assert len(pack(rows())) < MAX_FRAME_BYTES // 2
    assert rows()[-1].memory_available_mib == 0
