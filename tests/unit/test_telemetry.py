"""Readings, and when which of them go out."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_parts import make_fleet
from shoal_codecs.transport.errors import LinkClosedError, PacketTooLargeError
from shoal_codecs.wire.framing import decode_frame, decode_message
from shoal_codecs.wire.heartbeat import FULL_EVERY, Reading, merged
from shoal_codecs.wire.messages import Heartbeat
from shoal_edge.heartbeats import SPACING_S, Heartbeats
from shoal_edge.round_events import Phase
from shoal_edge.telemetry import VOLATILE, Telemetry

DEVICE = "device-01"
POST = make_fleet().post(DEVICE)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Heartbeats with a clock and readings that the test sets."""

    def __init__(self, period_s: float = 60.0) -> None:
        self.clock = Clock()
        self.readings: dict[int, Any] = {Reading.PHASE: "idle", Reading.CPU: 10, Reading.UPTIME: 1}
        self.sent: list[Heartbeat] = []
        self.beats = Heartbeats(POST, self._publish, lambda: dict(self.readings), period_s, self.clock)

    async def _publish(self, _topic: str, payload: bytes, **_options: Any) -> None:
        message = decode_message(decode_frame(payload).content)
        assert isinstance(message, Heartbeat)
        self.sent.append(message)

    def phase(self, phase: Phase) -> None:
        self.readings[Reading.PHASE] = str(phase)
        self.beats.phase(phase)

    @property
    def due_in(self) -> float:
        return self.beats.due_at() - self.clock.now


def test_the_readings_of_this_machine(tmp_path: Path) -> None:
    clock = Clock()
    telemetry = Telemetry(tmp_path, "0.0.1", clock)
    clock.now += 7
    readings = telemetry.read()
    assert readings[Reading.UPTIME] == 7
    assert readings[Reading.AGENT] == "0.0.1"
    assert 0 < readings[Reading.MEMORY_AVAILABLE] <= readings[Reading.MEMORY_TOTAL] + 32
    assert readings[Reading.RSS] > 0
    assert None not in readings.values()
    assert all(type(key) is int for key in readings)


def test_what_a_machine_cannot_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> Any:
        raise OSError

    for name in ("sensors_temperatures", "sensors_battery", "disk_usage"):
        monkeypatch.setattr(psutil, name, broken, raising=False)
    monkeypatch.setattr("os.getloadavg", broken)
    readings = Telemetry(tmp_path, "0.0.1", board_files=("/nonexistent",)).read()
    for missing in (Reading.TEMPERATURE, Reading.BATTERY, Reading.DISK_FREE, Reading.LOAD, Reading.BOARD):
        assert missing not in readings
    assert Reading.MEMORY_TOTAL in readings


def test_the_hottest_sensor_battery_and_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = {
        "cpu": [SimpleNamespace(current=41.2), SimpleNamespace(current=63.7)],
        "nvme": [SimpleNamespace(current=0.0)],
    }
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: SimpleNamespace(percent=81.4), raising=False)
    (tmp_path / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
    files = ("/nonexistent", str(tmp_path / "model"))
    readings = Telemetry(tmp_path, "0.0.1", board_files=files).read()
    assert readings[Reading.TEMPERATURE] == 64
    assert readings[Reading.BATTERY] == 81
    assert readings[Reading.BOARD] == "Raspberry Pi 4 Model B Rev 1.4"


def test_nothing_before_the_first_connect_and_everything_at_it() -> None:
    bench = Bench()
    assert bench.due_in == float("inf")
    bench.beats.connected()
    assert bench.due_in <= 0
    first = bench.beats.compose()
    assert first.full
    assert first.readings == bench.readings
    assert bench.due_in == 60


def test_a_reconnect_is_told_in_full_but_not_within_the_second() -> None:
    bench = Bench()
    bench.beats.connected()
    bench.beats.compose()
    bench.clock.now += 0.25
    bench.beats.connected()
    assert bench.due_in == SPACING_S - 0.25
    bench.clock.now += 1
    assert bench.beats.compose().full


def test_only_what_changed_and_never_what_always_does() -> None:
    bench = Bench()
    bench.beats.connected()
    bench.beats.compose()
    bench.readings |= {Reading.CPU: 20, Reading.UPTIME: 61, Reading.SENT: 999}
    assert bench.beats.compose().readings == {Reading.CPU: 20}
    del bench.readings[Reading.CPU]
    assert bench.beats.compose().readings == {Reading.CPU: None}


def test_a_phase_that_lasts_is_told_early_and_a_short_one_is_not() -> None:
    bench = Bench()
    bench.beats.connected()
    bench.beats.compose()
    bench.clock.now += 10
    bench.phase(Phase.TRAINING)
    assert bench.due_in == SPACING_S
    bench.clock.now += 0.3
    bench.phase(Phase.IDLE)
    assert bench.due_in == pytest.approx(60 - 10.3)
    bench.phase(Phase.TRAINING)
    bench.clock.now += SPACING_S
    assert bench.due_in <= 0
    assert bench.beats.compose().readings == {Reading.PHASE: "training"}
    # That it is free again is told as soon as the spacing allows: it may be invited.
    bench.clock.now += 0.4
    bench.phase(Phase.IDLE)
    assert bench.due_in == pytest.approx(SPACING_S - 0.4)


async def test_the_end_of_the_link_ends_heartbeats_and_another_fault_does_not() -> None:
    bench = Bench(period_s=0.0)
    faults: list[Exception] = [PacketTooLargeError("too large"), LinkClosedError("closed")]

    async def publish(*_args: Any, **_options: Any) -> None:
        bench.clock.now += SPACING_S
        raise faults.pop(0)

    bench.beats = Heartbeats(POST, publish, lambda: dict(bench.readings), 0.0, bench.clock)
    bench.beats.connected()
    async with asyncio.timeout(5):
        await bench.beats.run()
    assert not faults


changes = st.lists(
    st.dictionaries(
        st.integers(0, 25).filter(lambda key: key not in VOLATILE), st.integers(0, 9) | st.none()
    ),
    min_size=1,
    max_size=3 * FULL_EVERY,
)


@given(changes)
def test_whoever_hears_them_all_knows_the_present(states: list[dict[int, int | None]]) -> None:
    bench = Bench()
    bench.beats.connected()
    known: dict[int, Any] = {}
    since_full = 0
    for state in states:
        bench.readings = {Reading.PHASE: "idle"} | {k: v for k, v in state.items() if v is not None and k}
        beat = bench.beats.compose()
        known = merged(known, beat.readings, full=beat.full)
        since_full = 0 if beat.full else since_full + 1
        assert since_full < FULL_EVERY
        assert known == bench.readings
