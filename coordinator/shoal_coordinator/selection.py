"""Who is invited to a round: online, idle, with data and memory, in turn where not all are needed."""

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from shoal_codecs.errors import ShoalError
from shoal_codecs.updates.slices import UNMEASURED
from shoal_codecs.wire.heartbeat import Reading
from shoal_coordinator.registry import DeviceView

OUT_OF_BUDGET = "out of privacy budget"
OUT_OF_BYTES = "out of bytes for today"
WITHOUT_BUNDLE = "without a key bundle"
OTHER_ROSTER = "with another roster"
GIVE_ROSTER = "give every party the newest roster and start it again"


class NotEnoughDevicesError(ShoalError):
    """Fewer devices can take part than the floor asks for; ``passed_over`` counts the reasons."""

    def __init__(self, fit: int, minimum: int, passed_over: Mapping[str, int]) -> None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
        super().__init__(
            f"{fit} devices can take part and {minimum} are needed"
            + (f" ({reasons})" if reasons else "")
            + f": {_remedy(passed_over)}"
        )
        self.fit = fit
        self.minimum = minimum
        self.passed_over = dict(passed_over)


def _remedy(passed_over: Mapping[str, int]) -> str:
    if OTHER_ROSTER in passed_over:
        return GIVE_ROSTER
    if OUT_OF_BYTES in passed_over:
        return "wait until midnight UTC, or raise bytes_per_day"
    return "wait for more, or lower the minimum"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRules:
    """``cohort_max`` devices are wanted (0: all), ``over_selection`` times as many invited.

    ``minimum`` is the floor, ``min_examples`` the fewest training examples, ``min_memory_mib`` the least
    available memory of a device that reports it, ``least_percent`` the width it must at least take.
    """

    minimum: int
    cohort_max: int = 0
    over_selection: float = 1.0
    min_examples: int = 1
    min_memory_mib: int = 0
    least_percent: int = 100


def select(
    views: Sequence[DeviceView],
    rules: SelectionRules,
    *,
    ended_round: int,
    turns: Mapping[str, int],
    rng: random.Random,
    resting: Collection[str] = (),
    spent: Collection[str] = (),
    used_up: Collection[str] = (),
    unbundled: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the names of the cohort, sorted.

    ``turns`` maps a device to the last pass over the fleet in which it had its turn: the lowest go first, and
    ``rng`` decides among equals. ``ended_round`` is the last round that ended. Those who are ``resting`` are
    left out where enough others remain, those who have ``spent`` their privacy budget or ``used_up`` the
    day's bytes, or are ``unbundled`` in mode ``single``, in any case.

    Raises:
        NotEnoughDevicesError: fewer can take part than ``rules.minimum``.
    """
    passed_over: Counter[str] = Counter()
    fit = []
    for view in views:
        reason = (
            _unfit(view, rules, ended_round)
            or (view.name in spent and OUT_OF_BUDGET)
            or (view.name in used_up and OUT_OF_BYTES)
            or (view.name in unbundled and WITHOUT_BUNDLE)
        )
        if reason:
            passed_over[reason] += 1
        else:
            fit.append(view.name)
    if len(fit) < max(rules.minimum, 1):
        raise NotEnoughDevicesError(len(fit), max(rules.minimum, 1), passed_over)
    awake = [name for name in fit if name not in resting]
    if len(awake) >= max(rules.minimum, 1):
        fit = awake
    wanted = len(fit)
    if rules.cohort_max:
        wanted = min(wanted, max(rules.minimum, math.ceil(rules.cohort_max * rules.over_selection)))
    fit.sort()
    rng.shuffle(fit)
    fit.sort(key=lambda name: turns.get(name, 0))
    return tuple(sorted(fit[:wanted]))


def able(
    views: Sequence[DeviceView], rules: SelectionRules, *, ended_round: int, excused: Collection[str] = ()
) -> frozenset[str]:
    """Return who can take part in some round now, if not in this one; not those who are ``excused``.

    ``rules`` have the ``least_percent`` of the narrowest round there is.
    """
    fit = {view.name for view in views if not _unfit(view, rules, ended_round)}
    return frozenset(fit.difference(excused))


def _unfit(view: DeviceView, rules: SelectionRules, ended_round: int) -> str:
    """Return why a device is passed over, empty where it is not."""
    memory = view.readings.get(Reading.MEMORY_AVAILABLE)
    if not view.trusted:
        return "not on the roster"
    if not view.online:
        return "offline"
    if view.other_roster:
        # It would decline every plan, for they name the coordinator's.
        return OTHER_ROSTER
    if view.busy(ended_round):
        return "busy"
    # Who keeps its counts to itself is taken at its word: without examples it declines or moves nothing.
    if view.number(Reading.EXAMPLES) < rules.min_examples and not view.is_quiet:
        return "without enough examples"
    if isinstance(memory, int | float) and memory < rules.min_memory_mib:
        return "short of memory"
    if not takes(view.readings.get(Reading.WIDTH), rules.least_percent):
        return "too small for the model"
    return ""


def takes(percent: object, least: int) -> bool:
    """Return whether a device that says it takes ``percent`` of the width takes ``least``.

    One that says nothing takes everything; one that has yet to measure takes the narrowest model there is.
    """
    if isinstance(percent, bool) or not isinstance(percent, int):
        return True
    return percent == UNMEASURED or percent >= least
