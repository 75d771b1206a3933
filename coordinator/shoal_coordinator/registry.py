"""The fleet as its words add up: statuses, Wills and heartbeats folded into one view per device."""

import math
from dataclasses import dataclass, field
from typing import Any

from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.heartbeat import Reading, merged
from shoal_codecs.wire.held import other_roster
from shoal_codecs.wire.messages import DeviceStatus, Heartbeat, Message

MISSED_HEARTBEATS = 3
# Guests and their words are shown too: together they stay far under what one status may take.
MOST_GUESTS = 200
MOST_CHARACTERS = 64
LARGEST_NUMBER = 1 << 53
_READINGS = frozenset(Reading)
QUIET = frozenset({"verdict", "none"})
IDLE_PHASES = frozenset({"", "idle"})


@dataclass(slots=True)
class DeviceView:
    """One device.

    ``complete`` says that every reading is known: no heartbeat was missed since the last full one. Guests
    (``trusted`` false) are not on the roster: they are shown and never invited. ``other_roster`` says which
    one a device goes by, where that is not the coordinator's.
    """

    name: str
    trusted: bool
    online: bool = False
    session: bytes = b""
    readings: dict[int, Any] = field(default_factory=dict)
    sequence: int = -1
    complete: bool = False
    gaps: int = 0
    last_seen_ms: int = 0
    status_sent_ms: int = 0
    heartbeat_sent_ms: int = 0
    other_roster: str = ""

    def number(self, reading: Reading) -> int:
        """Return a whole-number reading, 0 where it is missing or nonsense."""
        value = self.readings.get(reading)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return 0
        # A float may be larger than any integer that goes back on the wire.
        return int(value) if abs(value) <= LARGEST_NUMBER else 0

    def text(self, reading: Reading) -> str:
        """Return a text reading, empty where it is missing or nonsense."""
        value = self.readings.get(reading)
        # What a screen shows cannot move its cursor.
        return "".join(filter(str.isprintable, value[:MOST_CHARACTERS])) if isinstance(value, str) else ""

    def octets(self, reading: Reading) -> bytes:
        """Return a binary reading, empty where it is missing or nonsense."""
        value = self.readings.get(reading)
        return value[:64] if isinstance(value, bytes) else b""

    @property
    def is_quiet(self) -> bool:
        """Whether it keeps what it could count of its data to itself."""
        return self.text(Reading.METRICS) in QUIET

    @property
    def phase(self) -> str:
        """What the device does now."""
        return self.text(Reading.PHASE)

    @property
    def model_id(self) -> bytes:
        """The first 8 bytes of the digest of the newest model it holds."""
        return self.octets(Reading.MODEL)

    def busy(self, ended_round: int) -> bool:
        """Return whether it works on a round after ``ended_round``; an older one is merely old news."""
        return self.phase not in IDLE_PHASES and self.number(Reading.ROUND) > ended_round


class Registry:
    """Every device that was ever heard, and the roster's that were not.

    Pure: times come with the messages' arrival, in milliseconds. Words may come late, twice or not at all;
    a Will of an older session does not take a newer one down.
    """

    def __init__(self, roster: Roster, heartbeat_s: float) -> None:
        self._roster = roster
        self._silence_ms = int(MISSED_HEARTBEATS * heartbeat_s * 1000)
        self._devices = {name: DeviceView(name, trusted=True) for name in roster.names("device")}

    def view(self, name: str) -> DeviceView | None:
        """Return a device's view, None for one never heard of."""
        return self._devices.get(name)

    def views(self) -> tuple[DeviceView, ...]:
        """Return every view: the roster's first, then guests, by name."""
        return tuple(sorted(self._devices.values(), key=lambda view: (not view.trusted, view.name)))

    def is_online(self, name: str) -> bool:
        """Return whether a device is connected, as far as is known."""
        view = self._devices.get(name)
        return view is not None and view.online

    def model_held(self, name: str) -> bytes | None:
        """Return the first 8 bytes of the digest of the newest model a device holds, empty: it holds none.

        None where it has not said so yet, as after a restart of the coordinator.
        """
        view = self._devices.get(name)
        if view is None or not (view.complete or view.model_id):
            return None
        return view.model_id

    def hear_status(self, message: DeviceStatus, now_ms: int) -> bool:
        """Take a status or a Will; return whether the device came or went."""
        view = self._known(message.sender)
        if view is None:
            return False
        if message.online:
            if message.sent_ms < _newest(view, view.status_sent_ms, message, now_ms):
                return False
            if message.session != view.session:
                # A new process counts its heartbeats from the beginning.
                view.session, view.sequence, view.complete = message.session, -1, False
            view.status_sent_ms = message.sent_ms
            view.other_roster = other_roster(message.roster, self._roster.held)
        elif view.session and message.session != view.session:
            return False
        else:
            view.session = message.session
        return self._seen(view, now_ms, online=message.online)

    def hear_heartbeat(self, message: Heartbeat, now_ms: int) -> bool:
        """Take a heartbeat; return whether the device came online with it."""
        view = self._known(message.sender)
        if view is None or not self._takes(view, message, now_ms):
            return False
        if not message.full and message.sequence > view.sequence + 1:
            view.complete = False
            view.gaps += 1
        view.sequence = message.sequence
        view.heartbeat_sent_ms = message.sent_ms
        view.readings = merged(view.readings, _known_readings(message.readings), full=message.full)
        view.complete = view.complete or message.full
        return self._seen(view, now_ms, online=True)

    def note(self, name: str, reading: Reading, value: Any) -> None:
        """Record what another message of the device proves, before its next heartbeat says so."""
        view = self._devices.get(name)
        if view is not None:
            view.readings[reading] = value

    def silent(self, now_ms: int) -> list[str]:
        """Mark devices that missed three heartbeats as offline and return their names."""
        gone = []
        for view in self._devices.values():
            if view.online and now_ms - view.last_seen_ms > self._silence_ms:
                view.online = False
                gone.append(view.name)
        return gone

    def _known(self, name: str) -> DeviceView | None:
        view = self._devices.get(name)
        if view is None:
            guests = len(self._devices) - len(self._roster.names("device"))
            if guests >= MOST_GUESTS:
                return None
            view = self._devices[name] = DeviceView(name, trusted=False)
        return view

    @staticmethod
    def _takes(view: DeviceView, message: Heartbeat, now_ms: int) -> bool:
        """Return whether a heartbeat is news: not a copy, not overtaken by a later one."""
        if message.full and message.sent_ms > _newest(view, view.heartbeat_sent_ms, message, now_ms):
            return True
        return message.sequence > view.sequence

    @staticmethod
    def _seen(view: DeviceView, now_ms: int, *, online: bool) -> bool:
        changed = view.online != online
        view.online = online
        if online:
            view.last_seen_ms = now_ms
        return changed


def _known_readings(readings: dict[int, Any]) -> dict[int, Any]:
    """Return what is a reading: anybody may send heartbeats, and what they hold is kept in memory."""
    return {
        number: value[:MOST_CHARACTERS] if isinstance(value, str | bytes) else value
        for number, value in readings.items()
        if number in _READINGS and (value is None or isinstance(value, str | bytes | int | float))
    }


def _newest(view: DeviceView, sent_ms: int, message: Message, now_ms: int) -> int:
    """Return the time a word must have to be newer than the one said at ``sent_ms``.

    A device whose clock was ahead and is set right would otherwise be unheard until that time comes.
    """
    return sent_ms if message.sent_ms > now_ms else min(sent_ms, view.last_seen_ms)
