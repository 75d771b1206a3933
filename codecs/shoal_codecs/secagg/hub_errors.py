"""Every fault of a round at a hub: plans it will not sign, words that cannot be true, parts that misfit."""

from shoal_codecs.secagg.errors import SecAggError


class HubRoundError(SecAggError):
    """Something a hub was asked or told does not belong to the round as the hub knows it."""


class UnlistedEventError(HubRoundError):
    """An event that cannot happen in the state the round is in: its sender is behind, ahead, or lies."""


class UnknownPeerError(HubRoundError):
    """A word from a hub that the plan does not name."""


class UninvitedReportError(HubRoundError):
    """A report from a device outside the cohort."""


class SecondReportError(HubRoundError):
    """Another report of a device that has one already: the first wins."""


class PeerContradictionError(HubRoundError):
    """A peer that says something else than it said before, or agrees to another set."""


class PlanRefusedError(SecAggError):
    """A plan that this hub does not sign."""


class PlanModeError(PlanRefusedError):
    """A plan in whose mode hubs have no part."""


class PlanPromiseError(PlanRefusedError):
    """A plan that promises what this hub cannot keep."""


class PlanRosterError(PlanRefusedError):
    """A plan made for another fleet or another roster than the one this hub holds."""


class PlanHubsError(PlanRefusedError):
    """A plan whose hubs are not the hubs of the roster."""


class PlanOfferError(PlanRefusedError):
    """A plan that names another key or nonce than this hub has shown last."""


class PlanDrawError(PlanRefusedError):
    """A plan with other hubs' nonces, task or base than this hub's nonce was shown for."""


class PlanCohortError(PlanRefusedError):
    """A cohort with a name that is no device on the roster."""


class LoweredFloorError(PlanRefusedError):
    """A plan that would let fewer reports be summed than this hub allows."""


class PlanWindowError(PlanRefusedError):
    """A plan that is over, begins in the future, or stays open too long."""


class PlanSizeError(PlanRefusedError):
    """A plan whose sums would be larger than this hub takes on."""


class BaseAnsweredError(PlanRefusedError):
    """A second plan for a base that this hub already answered for."""


class RoundReusedError(PlanRefusedError):
    """A round number that stood in another plan."""


class RenouncedPlanError(PlanRefusedError):
    """A plan that this hub has certified it never releases."""


class RevealRefusedError(SecAggError):
    """A nonce that this hub does not show."""


class PromiseSetError(RevealRefusedError):
    """Promises that are not those of exactly the roster's hubs."""


class PromiseSignatureError(RevealRefusedError):
    """A promise that its hub did not sign."""


class StalePromiseError(RevealRefusedError):
    """Promises among which this hub's own is not the one it makes now."""


class DrawLimitError(RevealRefusedError):
    """Too many draws of coordinates that came to no sum."""


class ReportPartError(SecAggError):
    """A part of a report that cannot be put together."""


class PartIndexError(ReportPartError):
    """A part whose index lies outside its count."""


class PartCountError(ReportPartError):
    """A report cut into more parts than its round allows."""


class PartSizeError(ReportPartError):
    """An empty part, or parts that add up to more than a report of the round can have."""


class PartConflictError(ReportPartError):
    """A part that contradicts another part of the same device's report."""


class PartBudgetError(ReportPartError):
    """All unfinished reports together take more memory than is set aside for them."""
