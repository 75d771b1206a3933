"""Which model each device of a round trains, where a task has narrower variants (HeteroFL, Diao et al. 2021).

Where single updates are seen and averaged, each device trains the widest model it takes, and a coordinate is
the mean over those that have it. Where they are not, a round has one width, in turn: a coordinate that two
devices of the cohort have would be the sum of two, however many took part. Who takes a wide model takes part
in narrow rounds too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal_codecs.updates.slices import FULL, ModelLevels
from shoal_codecs.wire.plan import SEEDED_CODECS
from shoal_codecs.wire.task import TaskBundle
from shoal_coordinator.algorithms.base import Algorithm
from shoal_coordinator.config import RoundSettings
from shoal_coordinator.planning import PlanSettings
from shoal_coordinator.round_errors import IncompatibleVariantsError
from shoal_coordinator.selection import NotEnoughDevicesError

Choose = Callable[[int], tuple[str, ...]]
"""Returns whom to invite of those that take at least so many per cent of the width."""


class LevelDesk:
    """The levels of ``models``: without ``used`` all train the full one, with ``mixed`` each its own."""

    def __init__(self, models: ModelLevels, *, used: bool, mixed: bool) -> None:
        self.models = models
        self._used = used
        self._mixed = mixed

    @property
    def narrowest(self) -> int:
        """How many per cent of the width a device must take to be in any round at all."""
        return min(self.models.percents) if self._used else FULL

    def cohort(self, choose: Choose, number: int) -> tuple[tuple[str, ...], int]:
        """Return whom to invite to round ``number``, and the one level they train; -1: each its own.

        Raises:
            NotEnoughDevicesError: too few can take part at any level.
        """
        percents = self.models.percents
        if not self._used:
            return choose(FULL), 0
        if self._mixed:
            return choose(self.narrowest), -1
        order = sorted(range(len(percents)), key=lambda level: -percents[level])
        start = number % len(order)
        last: NotEnoughDevicesError | None = None
        for level in (*order[start:], *order[:start]):
            try:
                return choose(percents[level]), level
            except NotEnoughDevicesError as error:
                last = error if last is None or error.fit > last.fit else last
        raise last or NotEnoughDevicesError(0, 1, {})

    def variants(
        self, cohort: Sequence[str], level: int, percent_of: Callable[[str], int], codec: str
    ) -> bytes:
        """Return the plan's byte for each device of ``cohort`` by name; none where all train the full model.

        ``codec`` is this round's: one whose coordinates the round draws has one width for all.
        """
        if level >= 0:
            levels = [level] * len(cohort)
        else:
            levels = [self.models.level_for(percent_of(name)) or 0 for name in sorted(cohort)]
            if codec in SEEDED_CODECS and levels:
                narrowest = min(levels, key=lambda one: self.models.percents[one])
                levels = [narrowest] * len(levels)
        return bytes(levels) if any(levels) else b""


def level_desk(
    rounds: RoundSettings, plans: PlanSettings, bundle: TaskBundle, algorithm: Algorithm
) -> tuple[LevelDesk, str]:
    """Return the desk that the settings ask for, and why the task's variants go unused where they do.

    Raises:
        IncompatibleVariantsError: ``widths`` is ``on`` and variants do not work with the other settings.
    """
    fault = _fault(plans, bundle, algorithm)
    if fault and rounds.widths == "on":
        raise IncompatibleVariantsError(fault)
    mixed = (
        plans.mode == "plain"
        and plans.privacy is None
        and plans.codec not in SEEDED_CODECS
        and algorithm.averages
    )
    used = rounds.widths != "off" and not fault
    unused = fault if bundle.variants and rounds.widths == "auto" else ""
    return LevelDesk(ModelLevels(bundle), used=used, mixed=mixed), unused


def _fault(plans: PlanSettings, bundle: TaskBundle, algorithm: Algorithm) -> str:
    """Return why devices cannot train variants, empty where they can."""
    if not bundle.variants:
        return f"task {bundle.name} has no variants: author it with widths, or set widths to off"
    if plans.local or plans.ditto:
        return (
            "parameters or models of a device's own would change their shape with its variant: set local to "
            '["none"] and ditto to 0, or widths to off'
        )
    if plans.example_noise:
        return "variants have no train_private: set example_clip and example_noise to 0, or widths to off"
    if plans.buffer:
        return (
            f"algorithm {algorithm.name} joins reports of several rounds, whose widths differ: take another, "
            "or set widths to off"
        )
    if "control" in algorithm.tells:
        return f"algorithm {algorithm.name} corrects every coordinate: take another, or set widths to off"
    return ""
