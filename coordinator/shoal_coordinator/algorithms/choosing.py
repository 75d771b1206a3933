"""Which algorithm settings and task ask for, and whether it works where it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal_codecs.settings import changed_keys
from shoal_codecs.wire.task import TaskBundle
from shoal_coordinator.algorithms.base import Algorithm
from shoal_coordinator.algorithms.errors import IncompatibleAlgorithmError
from shoal_coordinator.algorithms.registry import ALGORITHMS, make_algorithm
from shoal_coordinator.algorithms.schedules import READ_BY, ScheduleSettings

if TYPE_CHECKING:
    from shoal_coordinator.config import RoundSettings

DEFAULT_ALGORITHM = "fedavg"


def chosen_algorithm(rounds: RoundSettings, bundle: TaskBundle) -> Algorithm:
    """Return the algorithm of ``rounds``, or where they name none the task's.

    Raises:
        UnknownAlgorithmError: there is none of that name.
        IncompatibleAlgorithmError: it does not work in this mode, with this codec, under noise or on this
            task, or does not read a key that is set; the text says what does.
    """
    name = rounds.algorithm.name or bundle.defaults.algorithm or DEFAULT_ALGORITHM
    algorithm = make_algorithm(name, rounds.algorithm)
    for holds, fault in _rules(algorithm, rounds, bundle):
        if not holds:
            raise IncompatibleAlgorithmError(fault)
    return algorithm


def weight_cap(algorithm: Algorithm, cap: int) -> int:
    """Return the examples beyond which a device weighs no more: with one, all weigh alike in every mode."""
    return 1 if algorithm.settings.weighting == "uniform" else cap


def _unread(algorithm: Algorithm) -> str:
    """Return which keys are set that another algorithm reads, empty where there are none."""
    keys = [key for key in changed_keys(algorithm.settings) if key not in {"name", *algorithm.options}]
    readers = [kind.name for kind in ALGORITHMS.values() if set(keys) <= set(kind.options)]
    return _not_read(f"algorithm {algorithm.name}", "rounds.algorithm", keys, "use", readers)


def _unread_schedule(rounds: RoundSettings, table: str) -> str:
    """Return which keys of a schedule are set that its kind does not read, empty where there are none."""
    schedule: ScheduleSettings = getattr(rounds, table)
    keys = [key for key in changed_keys(schedule) if key not in {"kind", *READ_BY[schedule.kind]}]
    readers = [kind for kind, read in READ_BY.items() if set(keys) <= set(read)]
    return _not_read(f"a {schedule.kind} schedule", f"rounds.{table}", keys, "set kind to", readers)


def _not_read(who: str, table: str, keys: list[str], otherwise: str, readers: list[str]) -> str:
    if not keys:
        return ""
    named = ", ".join(f"{table}.{key}" for key in keys)
    words = f"{who} does not read {named}: take {'them' if len(keys) > 1 else 'it'} out"
    return words + (f", or {otherwise} {' or '.join(readers)}" if readers else "")


def _rules(algorithm: Algorithm, rounds: RoundSettings, bundle: TaskBundle) -> tuple[tuple[bool, str], ...]:
    name, mu = algorithm.name, rounds.mu or bundle.defaults.mu
    weighting = rounds.algorithm.weighting
    with_noise = rounds.privacy.mechanism != "none"
    return (
        (
            rounds.mode in algorithm.modes,
            (
                f"algorithm {name} does not work in mode {rounds.mode}: set rounds.mode to "
                f"{' or '.join(sorted(algorithm.modes))}, or take another algorithm"
            ),
        ),
        (
            rounds.codec not in algorithm.refused_codecs,
            (
                f"algorithm {name} does not work with codec {rounds.codec}: use another than "
                f"{', '.join(sorted(algorithm.refused_codecs))}"
            ),
        ),
        (
            algorithm.noise or not with_noise,
            (
                f"algorithm {name} looks at single updates, which noise of rounds.privacy hides: set its "
                "mechanism to none, or take another algorithm"
            ),
        ),
        (
            weighting != "validation" or (rounds.mode == "plain" and not with_noise),
            (
                f"weighting by validation in mode {rounds.mode} would tell what is hidden: use mode plain "
                "without noise, or weigh by examples"
            ),
        ),
        (
            weighting == "examples" or "weighting" in algorithm.options,
            f"algorithm {name} has weights of its own: leave rounds.algorithm.weighting at examples",
        ),
        (not (unread := _unread(algorithm)), unread),
        (not (unread := _unread_schedule(rounds, "device_schedule")), unread),
        (not (unread := _unread_schedule(rounds, "server_schedule")), unread),
        (
            not mu or "mu" in bundle.abilities,
            (
                f"task {bundle.name} has no input mu and mu is {mu:g}: author it with prox=True, or set "
                "rounds.mu to 0"
            ),
        ),
        (
            name != "fednova" or rounds.mode == "plain" or rounds.algorithm.even_steps > 0,
            (
                f"in mode {rounds.mode} nobody sees how many steps a device took: set "
                "rounds.algorithm.even_steps to what one takes, epochs times examples over batch_size"
            ),
        ),
        (not (fault := algorithm.fault(rounds.minimum)), fault),
        (
            name != "fedprox" or mu > 0,
            "algorithm fedprox with a mu of 0 is fedavg: set rounds.mu, 0.001 to 1",
        ),
        (
            "control" not in algorithm.tells or "correction" in bundle.abilities,
            (
                f"algorithm {name} corrects every gradient and task {bundle.name} cannot: author it with "
                "correction=True"
            ),
        ),
    )
