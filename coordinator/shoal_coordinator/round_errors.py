"""What can be wrong with a round."""

from typing import Any

from shoal_codecs.errors import ShoalError


class RoundError(ShoalError):
    """A round cannot go on, or a word does not belong to it."""


class UnexpectedRoundEventError(RoundError):
    """Something that has no place in the state the round is in."""


class StrangerToRoundError(RoundError):
    """A device or hub that the round's plan does not name."""


class ConflictingAgreementError(RoundError):
    """A hub that binds itself twice, or to a set its plan does not allow."""


class CohortTooSmallError(RoundError):
    """Too few devices for the floor of a round."""


class MissingOfferError(RoundError):
    """A hub of the roster offers no key for the next round."""


class NothingToSkipError(RoundError):
    """A version is to be skipped that can still be trained on, or that is about to be followed."""


class BrokenPromiseError(RoundError):
    """A hub that shows another nonce than it promised."""


class InvalidRoundPlanError(RoundError):
    """Settings from which no plan can be made."""


class IncompatibleVariantsError(RoundError):
    """Variants of a model where they do not work: with tensors of a device's own, DP-SGD, corrections."""


class AggregationError(RoundError):
    """The sums or reports of a round do not make a version."""


class NoUsableReportError(AggregationError):
    """Not one report of the round could be used."""


class UnstableRoundError(AggregationError):
    """A round whose update is out of bounds; the version before it is kept."""


class InvalidReportError(RoundError):
    """A device's report that cannot be used: wrong shape, not finite, or too large."""


class DuplicateReportError(RoundError):
    """A second, different report of a device; the first wins."""


class UnknownModelError(RoundError):
    """A digest that is neither the present version nor the candidate."""


class UnknownCommandError(RoundError):
    """An operator's command that the coordinator does not know, or with unusable arguments."""


class StaleCommandError(RoundError):
    """An operator's command of long ago, or of the future."""


class NoPrivacyError(RoundError):
    """A question about the privacy budget where rounds add no noise."""


class UnknownDeviceError(RoundError):
    """A question about a device that nobody enrolled."""


class SumPartError(RoundError):
    """A part of a hub's sum that cannot belong to one."""


class InvalidCountsError(RoundError):
    """An evaluation whose counts cannot be true."""


class ReleasesUnavailableError(RoundError):
    """A command about releases where there is no publisher."""


class TaskFileError(RoundError):
    """A task file that is missing, or one the stored model does not belong to."""


class NoCodecFitsError(RoundError):
    """A budget of bytes that not even the smallest codec keeps at the present cadence.

    ``smallest`` is that codec with what it costs.
    """

    def __init__(self, text: str, smallest: Any) -> None:
        super().__init__(text)
        self.smallest = smallest
