"""Whether a device's word can be true and belongs to the present round."""

import math

from shoal_codecs.wire.errors import OutOfRoundError
from shoal_codecs.wire.messages import Evaluated, Reply
from shoal_coordinator.models import ModelShelf
from shoal_coordinator.round_errors import InvalidCountsError, UnknownModelError
from shoal_coordinator.round_runner import RoundRunner

MOST_EXAMPLES = 1 << 32


def is_present(runner: RoundRunner, number: int, plan_id: bytes | None = None) -> bool:
    """Return whether a word on round ``number`` is about the present one; a late word is no fault."""
    plan = runner.plan
    if plan is None or plan.round != number:
        return False
    return plan_id is None or plan_id == runner.plan_hash[: len(plan_id)] != b""


def check_round(runner: RoundRunner, message: Reply) -> None:
    """Refuse a reply to another plan than the present round's.

    Raises:
        OutOfRoundError: it is late, or made up.
    """
    if not is_present(runner, message.round, message.plan_id):
        raise OutOfRoundError(
            f"{message.sender} answers round {message.round}, which is not open: a late word, dropped; if it "
            "repeats, set the device's clock or look at its link"
        )


def check_counts(message: Evaluated) -> None:
    """Refuse counts that cannot be true.

    Raises:
        InvalidCountsError: more hits than examples, negative counts or bytes, a loss that is no number.
    """
    personal = message.personal or (0, 0.0)
    sound = (
        0 <= message.correct <= message.examples <= MOST_EXAMPLES
        and 0 <= personal[0] <= message.examples
        and math.isfinite(personal[1])
        # Infinite is the word of a device on which the model answers no numbers.
        and not math.isnan(message.loss_sum)
        and message.sent >= 0
        and message.received >= 0
    )
    if not sound:
        raise InvalidCountsError(
            f"{message.sender} counts {message.correct} right of {message.examples}: update the device"
        )


def check_model(models: ModelShelf, model_id: bytes) -> None:
    """Refuse an evaluation of a model that is not there.

    Raises:
        UnknownModelError: neither the newest version nor the candidate.
    """
    known = {models.newest.model_id}
    if models.candidate is not None:
        known.add(models.candidate.model_id)
    if model_id not in known:
        raise UnknownModelError(
            f"model {model_id.hex()} is neither the newest version nor the candidate: a late word, dropped"
        )
