"""A budget of bytes per device and day: who may still take part, and which codec fits; pure.

What a device has used is what it counts on its own connections (heartbeats and evaluations tell it), whatever
it was used for; a day is one of UTC.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from shoal_coordinator.byte_estimate import (
    PLAIN_CHOICES,
    SHARED_CHOICES,
    CodecChoice,
    RoundBytes,
    round_bytes,
)
from shoal_coordinator.planning import PlanSettings
from shoal_coordinator.round_errors import NoCodecFitsError

DAY_MS = 86_400_000
MOST_BYTES = 1 << 53
"""No device moves more in a day; what is counted must stay a number that can be stored."""
_OPENINGS = 10


@dataclass(frozen=True, slots=True)
class Picked:
    """The codec for the next round, what it costs a device, and how many bytes a round may cost."""

    settings: PlanSettings
    cost: RoundBytes
    allowance: float


def pick_codec(
    settings: PlanSettings,
    dimension: int,
    devices: int,
    allowance: float,
    *,
    hubs: int,
    fixed: bool = False,
) -> Picked:
    """Return the best codec that costs a device at most ``allowance`` bytes a round.

    The one in ``settings`` comes first, then those of the trade-off table that are smaller. ``fixed``: no
    other may be taken, for the privacy budget is planned with it.

    Raises:
        NoCodecFitsError: not even the smallest does, with the numbers.
    """
    tried = [settings]
    if not fixed:
        tried += [one.applied(settings) for one in _choices(settings)]
    first = round_bytes(settings, dimension, devices, hubs)
    smallest, least = settings, first
    for one in tried:
        cost = round_bytes(one, dimension, devices, hubs)
        if cost.total > first.total:
            continue
        if cost.total <= allowance:
            return Picked(one, cost, allowance)
        if cost.total < least.total:
            smallest, least = one, cost
    raise NoCodecFitsError(
        f"a round costs a device at least {least.total} bytes ({least.up} up, {least.down} down) with "
        f"{smallest.codec} at {100 * smallest.kept_share:g} % of {dimension} parameters, and the budget "
        f"leaves {allowance:.0f} at this cadence: raise bytes_per_day, or pause_s",
        Picked(smallest, least, allowance),
    )


def smallest_cost(
    settings: PlanSettings, dimension: int, devices: int, *, hubs: int, fixed: bool = False
) -> RoundBytes:
    """Return what a round costs a device with the smallest codec there is."""
    tried = [settings] if fixed else [settings, *(one.applied(settings) for one in _choices(settings))]
    return min((round_bytes(one, dimension, devices, hubs) for one in tried), key=lambda cost: cost.total)


DayRow = tuple[int, int, int, int]
"""A day since the epoch, the bytes used on it, and the totals (sent, received) it was counted from."""


@dataclass(slots=True)
class _Day:
    number: int
    used: int = 0
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class ByteDays:
    """What each device has used today.

    ``default`` bytes a day for everybody (0: no budget), ``own`` for devices by name; what a device declares
    itself counts where it is less.
    """

    default: int = 0
    own: Mapping[str, int] = field(default_factory=dict)
    declared: dict[str, int] = field(default_factory=dict)
    _days: dict[str, _Day] = field(default_factory=dict)
    _openings: deque[int] = field(default_factory=lambda: deque(maxlen=_OPENINGS))

    @property
    def is_any(self) -> bool:
        """Whether there is a budget at all."""
        return bool(self.default or self.own or self.declared)

    def budget(self, device: str) -> int:
        """Return the bytes a day of ``device``, 0 for no budget."""
        given = [self.own.get(device, self.default), self.declared.get(device, 0)]
        return min((one for one in given if one > 0), default=0)

    def declare(self, device: str, bytes_per_day: int) -> None:
        """Take what a device says that it may use; 0 takes it back."""
        if bytes_per_day > 0:
            self.declared[device] = bytes_per_day
        else:
            self.declared.pop(device, None)

    def counted(self, device: str, sent: int, received: int, now_ms: int) -> None:
        """Take a device's running totals; smaller ones than before mean that it started again.

        Anybody may send heartbeats, with whatever numbers: they are cut to what can be meant.
        """
        sent, received = (min(max(total, 0), MOST_BYTES) for total in (sent, received))
        day = self._days.get(device)
        if day is None:
            # What it moved before it was first heard may have been on another day.
            self._days[device] = _Day(now_ms // DAY_MS, 0, sent, received)
            return
        if sent < day.sent or received < day.received:
            day.sent = day.received = 0
        moved = sent - day.sent + received - day.received
        if now_ms // DAY_MS != day.number:
            day.number, day.used = now_ms // DAY_MS, 0
        day.used = min(day.used + moved, MOST_BYTES)
        day.sent, day.received = sent, received

    def used(self, device: str, now_ms: int) -> int:
        """Return the bytes that ``device`` has used today."""
        day = self._days.get(device)
        return day.used if day is not None and day.number == now_ms // DAY_MS else 0

    def opened(self, now_ms: int) -> None:
        """Note that a round began."""
        self._openings.append(now_ms)

    def rounds_per_day(self, pause_ms: int) -> float:
        """Return how many rounds a day the present cadence makes, at least one.

        Before two rounds have begun nothing is known but the pause between them.
        """
        gaps = len(self._openings) - 1
        measured = (self._openings[-1] - self._openings[0]) / gaps if gaps > 0 else pause_ms or DAY_MS
        return max(1.0, DAY_MS / max(measured, pause_ms, 1))

    def over(self, devices: Collection[str], cost: int, now_ms: int) -> frozenset[str]:
        """Return those of ``devices`` whose day does not hold another round of ``cost`` bytes."""
        return frozenset(
            name
            for name in devices
            if (budget := self.budget(name)) and self.used(name, now_ms) + cost > budget
        )

    def allowance(self, devices: Collection[str], pause_ms: int) -> float:
        """Return the bytes that a round may cost each of ``devices``: infinite without a budget."""
        budgets = [budget for name in devices if (budget := self.budget(name))]
        return min(budgets, default=math.inf) / self.rounds_per_day(pause_ms)

    def snapshot(self) -> dict[str, DayRow]:
        """Return the counts for the store, by device."""
        return {name: (day.number, day.used, day.sent, day.received) for name, day in self._days.items()}

    def restore(self, stored: Mapping[str, DayRow]) -> None:
        """Take up the counts of an earlier process."""
        self._days |= {name: _Day(*row) for name, row in stored.items()}


def _choices(settings: PlanSettings) -> Sequence[CodecChoice]:
    choices = PLAIN_CHOICES if settings.mode == "plain" else SHARED_CHOICES
    return [one for one in choices if one.codec not in settings.refused_codecs]
