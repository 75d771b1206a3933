"""What can happen to a device in a round, and what it then does: plain values, no behaviour."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from shoal_codecs.wire.messages import Evaluate, Invitation
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey


class Phase(StrEnum):
    """Where the device stands, as heartbeats say it."""

    IDLE = "idle"
    CHECKING = "checking"
    SHARING = "sharing"
    FETCHING = "fetching"
    TRAINING = "training"
    REPORTING = "reporting"
    OPENING = "opening"


@dataclass(frozen=True, slots=True)
class Job:
    """A round as this device knows it.

    ``plan`` is None until it has been checked; ``plan_bytes`` are the bytes that were signed.
    """

    invitation: Invitation
    plan: Plan | None = None
    plan_bytes: bytes = b""

    @property
    def round(self) -> int:
        """The round's number."""
        return self.invitation.round

    @property
    def plan_hash(self) -> bytes:
        """M, which every event and message of the round names."""
        return self.invitation.plan_hash

    @property
    def single(self) -> bool:
        """Whether the plan is known and of mode ``single``."""
        return self.plan is not None and self.plan.mode == "single"


@dataclass(frozen=True, slots=True)
class SealedReport:
    """A finished report: ``parts`` holds the encoded report of each hub, ``report_id`` 32 bytes."""

    report_id: bytes
    parts: dict[str, bytes]


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invited:
    """The coordinator asks this device to take part; ``answered`` if it sent its report before."""

    invitation: Invitation
    answered: bool = False


@dataclass(frozen=True, slots=True)
class PlanArrived:
    """The invitation's plan is here and holds in every point."""

    plan_hash: bytes
    plan: Plan
    plan_bytes: bytes
    prekeys: tuple[Prekey, ...] = ()


@dataclass(frozen=True, slots=True)
class MembersKnown:
    """Mode ``single``: secrets are shared with the members, and it is known what masks the vector."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class ModelReady:
    """Task and base model are on disk and verified."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class Trained:
    """The update is encoded, shared, sealed and signed."""

    plan_hash: bytes
    report: SealedReport


@dataclass(frozen=True, slots=True)
class ReceiptArrived:
    """A hub says that it holds the report."""

    plan_hash: bytes
    hub: str
    report_id: bytes


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The coordinator says that the round is over for this device."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time of the plan, or of the wait for it, is over."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The device cannot go on with the round; ``reason`` is for a person."""

    plan_hash: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class EvaluateAsked:
    """The coordinator asks how a model does on the held-out examples."""

    command: Evaluate


@dataclass(frozen=True, slots=True)
class Restored:
    """The agent started again with an accepted round on disk, and perhaps its report."""

    job: Job
    report: SealedReport | None


Event: TypeAlias = (
    Invited
    | PlanArrived
    | MembersKnown
    | ModelReady
    | Trained
    | ReceiptArrived
    | Cancelled
    | Deadline
    | Failed
    | EvaluateAsked
    | Restored
)


# --- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubscribePlan:
    """Ask the broker for the plan that ``job`` names."""

    job: Job


@dataclass(frozen=True, slots=True)
class UnsubscribePlan:
    """The plan is here, or not wanted any more."""

    round: int


@dataclass(frozen=True, slots=True)
class SayReply:
    """Tell the coordinator whether this device takes part."""

    job: Job
    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TakeBundle:
    """Mode ``single``: spend the key bundle that the plan names, before anything is promised."""

    job: Job
    prekeys: tuple[Prekey, ...]


@dataclass(frozen=True, slots=True)
class ShareSecrets:
    """Mode ``single``: share this device's secrets, or go on from where a restart left them."""

    job: Job
    reported: bool = False


@dataclass(frozen=True, slots=True)
class PersistJob:
    """Write the accepted round down, so that a restart goes on with it."""

    job: Job


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Get the task and the base model."""

    job: Job


@dataclass(frozen=True, slots=True)
class StartFit:
    """Train, encode, share, seal and sign."""

    job: Job


@dataclass(frozen=True, slots=True)
class StopWork:
    """Stop fetching or training for a round that is over."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class PersistReport:
    """Write the report, and that this base is answered, before anything of it is said."""

    job: Job
    report: SealedReport


@dataclass(frozen=True, slots=True)
class SendReport:
    """Send each hub its part until it has given its receipt."""

    job: Job
    report: SealedReport
    hubs: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReceiptTaken:
    """``hub`` needs nothing more."""

    hub: str


@dataclass(frozen=True, slots=True)
class ForgetRound:
    """Stop sending, and drop what is kept of the round: job and report."""

    plan_hash: bytes


@dataclass(frozen=True, slots=True)
class EvaluateModel:
    """Count a model's hits on the held-out examples and say so."""

    command: Evaluate


Action: TypeAlias = (
    SubscribePlan
    | UnsubscribePlan
    | SayReply
    | TakeBundle
    | ShareSecrets
    | PersistJob
    | FetchModel
    | StartFit
    | StopWork
    | PersistReport
    | SendReport
    | ReceiptTaken
    | ForgetRound
    | EvaluateModel
)
Actions: TypeAlias = list[Action]
