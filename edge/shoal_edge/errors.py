"""Every fault a device can find with a plan, with its own state, or with its worker."""

from shoal_codecs.errors import ShoalError


class EdgeError(ShoalError):
    """The agent cannot do something; it keeps running."""


# --- a plan this device does not take part in ----------------------------------------------------


class PlanRefusedError(EdgeError):
    """A plan this device does not take part in; the text is the reason the coordinator reads."""


class PlanHashMismatchError(PlanRefusedError):
    """The plan on the round's topic is not the one the invitation names."""


class WrongFleetError(PlanRefusedError):
    """A plan of another fleet."""


class WrongRoundError(PlanRefusedError):
    """A plan of another round than the invitation's."""


class ModeNotAllowedError(PlanRefusedError):
    """A mode that this device's settings do not allow."""


class UnpinnedHubsError(PlanRefusedError):
    """A plan whose hubs are not exactly those of the signed roster."""


class RosterMismatchError(PlanRefusedError):
    """A plan made for another roster."""


class PlanSignatureError(PlanRefusedError):
    """A plan that lacks a signature, or bears a wrong one."""


class NotInCohortError(PlanRefusedError):
    """A plan whose cohort does not name this device."""


class PuppetCohortError(PlanRefusedError):
    """A plan whose cohort holds somebody the authority never enrolled as a device."""


class PlanWindowError(PlanRefusedError):
    """A plan that is not open yet, or not any more."""


class OfferMismatchError(PlanRefusedError):
    """An invitation whose task or model is not the plan's."""


class UnsupportedCodecError(PlanRefusedError):
    """A codec that this agent does not have, or not in this mode."""


class UnsupportedNoiseError(PlanRefusedError):
    """A plan that promises noise that cannot be added as it says, or a check this agent cannot see to."""


class TrustedNoiseError(PlanRefusedError):
    """A plan that counts on the noise of more devices than this one trusts to add any."""


class CohortFloorError(PlanRefusedError):
    """A plan that would release a sum over fewer devices than this device accepts."""


class UnprivateRoundError(PlanRefusedError):
    """A plan without noise, for a device with a privacy budget."""


class SecondReportError(PlanRefusedError):
    """A report of a plan that was paid for with another report."""


class TellsTooMuchError(PlanRefusedError):
    """A plan that asks for what this device counts of its data, which its own settings keep here."""


class NormCheckError(PlanRefusedError):
    """A norm check, which this device's own settings do not allow."""


class AnsweredBaseError(PlanRefusedError):
    """A plan on a base this device has answered, without a later round to justify it."""


class EvaluationRefusedError(EdgeError):
    """A question after a model's score that no round of this device gives leave for."""


# --- the participant -----------------------------------------------------------------------------


class UnexpectedEventError(EdgeError):
    """An event that the transition table does not list for this phase: a defect of the agent."""


class PlanMissingError(EdgeError):
    """An invitation's plan did not come in time."""


# --- what the device keeps -----------------------------------------------------------------------


class StoreError(EdgeError):
    """The device's own folder cannot be read or written."""


class FolderInUseError(StoreError):
    """Another process is this device already."""


class OutboxFullError(StoreError):
    """A report does not fit the outbox."""


class DamagedStateError(StoreError):
    """A file of the device's state holds what this agent never wrote."""


# --- the worker ----------------------------------------------------------------------------------


class WorkerError(EdgeError):
    """The process that does the heavy half could not do what it was asked."""


class WorkerStartError(WorkerError):
    """The worker process does not start."""


class WorkerCrashedError(WorkerError):
    """The worker process ended in the middle of a request."""


class WorkerMemoryError(WorkerCrashedError):
    """The worker process ended because it could allocate no more."""


class WorkerTimeLimitError(WorkerError):
    """A request took longer than its limit; the worker was ended."""


class WorkerFrameError(WorkerError):
    """Bytes between agent and worker that are no frame."""


class WorkerRefusedError(WorkerError):
    """The worker says why it cannot; ``fault`` is the name of the error it met."""

    def __init__(self, fault: str, text: str) -> None:
        super().__init__(text)
        self.fault = fault


# --- inside the worker ---------------------------------------------------------------------------


class UnknownRequestError(WorkerError):
    """A request of a kind this worker does not know."""


class FitCancelledError(WorkerError):
    """The agent asked to stop in the middle of a fit."""


class DivergedError(WorkerError):
    """Training ended in weights that are not finite."""


class TaskFileError(WorkerError):
    """A task on disk that is not the one its name promises."""


class VectorFileError(WorkerError):
    """A model vector on disk is not the one its name promises."""


class ModelDimensionError(WorkerError):
    """A model vector, a plan and a task that differ in the number of parameters."""


class WiderModelError(WorkerError):
    """A plan that gives this device a wider model than it says it takes."""


class ControlFileError(WorkerError):
    """The fleet's control of SCAFFOLD that cannot be used."""


class NoOwnModelError(WorkerError):
    """A question to a model of the device's own, which is not there."""


def fault_name(error: BaseException) -> str:
    """Return the name of a fault as a person should read it: the worker's own word, or the type."""
    return error.fault if isinstance(error, WorkerRefusedError) else type(error).__name__
