"""Which settings of rounds go together, with each other and with the task."""

from shoal_codecs.settings import changed_keys
from shoal_codecs.wire.task import TaskBundle
from shoal_coordinator.config import RoundSettings
from shoal_coordinator.round_errors import InvalidRoundPlanError

READ_IN_SINGLE = frozenset({"corrupt_share", "dropout_share", "shares_s", "unmask_s"})
"""Of ``[rounds]``, by mode ``single`` alone."""


def refuse_rounds(rounds: RoundSettings, bundle: TaskBundle) -> None:
    """Refuse rounds in which a setting would be without effect, or that the task cannot do.

    Raises:
        InvalidRoundPlanError: with the keys.
    """
    unread = sorted(READ_IN_SINGLE.intersection(changed_keys(rounds)))
    if unread and rounds.mode != "single":
        raise InvalidRoundPlanError(
            f"mode {rounds.mode} does not read rounds.{', rounds.'.join(unread)}: take "
            f"{'them' if len(unread) > 1 else 'it'} out, or set rounds.mode to single"
        )
    wanted = (rounds.example_clip, rounds.example_noise)
    if any(wanted) and not all(wanted):
        raise InvalidRoundPlanError(
            f"example_clip {wanted[0]:g} with example_noise {wanted[1]:g} protects nothing: set both, or "
            "neither"
        )
    if any(wanted) and bundle.private is None:
        raise InvalidRoundPlanError(
            f"task {bundle.name} cannot train with example_noise: author it with train_private, or set "
            "example_clip and example_noise to 0"
        )
    lacking = sorted({"mu", "correction"} - set(bundle.abilities)) if rounds.ditto else []
    if lacking:
        raise InvalidRoundPlanError(
            f"task {bundle.name} has no {' and no '.join(lacking)}, which Ditto needs: author it with them, "
            "or set ditto to 0"
        )
