"""What the round runner needs around it, and what it says of a round that ended."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Protocol

from shoal_codecs.security.identity import Identity
from shoal_codecs.security.roster import Roster
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.retained import RetainedShelf
from shoal_codecs.updates.ring_extras import RoundTold
from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.topics import Topics
from shoal_coordinator import round_steps as on
from shoal_coordinator.aggregation import Server
from shoal_coordinator.algorithms.stability import Stability
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.certificates import CertificateBook
from shoal_coordinator.chains import ModelVersion
from shoal_coordinator.controls import Controls
from shoal_coordinator.late_reports import LateReports
from shoal_coordinator.models import ModelShelf


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a round ended; ``version`` is what it made, None where it was aborted. Bytes are means.

    ``refused`` says that it was aborted because hubs or devices did not want it.
    """

    round: int
    plan_hash: bytes
    version: ModelVersion | None = None
    members: tuple[str, ...] = ()
    evaluations: Mapping[str, on.Evaluation] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""
    cohort: tuple[str, ...] = ()
    refused: bool = False


def totals(outcome: Outcome) -> tuple[int, float, float]:
    """Return the examples a version was evaluated on, its accuracy and its mean loss.

    A device whose loss is no number says how many it got right, and nothing of the loss.
    """
    found = outcome.evaluations.values()
    examples = sum(one.examples for one in found)
    if not examples:
        return 0, 0.0, 0.0
    finite = [one for one in found if isfinite(one.loss_sum)]
    counted = sum(one.examples for one in finite)
    loss = sum(one.loss_sum for one in finite) / counted if counted else 0.0
    correct = sum(one.correct for one in found)
    return examples, correct / examples, loss


def personal_accuracy(outcome: Outcome) -> tuple[int, float]:
    """Return how many devices told of a model of their own, and those models' accuracy on their examples."""
    found = [one for one in outcome.evaluations.values() if one.personal_correct is not None]
    examples = sum(one.examples for one in found)
    correct = sum(one.personal_correct or 0 for one in found)
    return len(found), correct / examples if examples else 0.0


class RoundLedger(Protocol):
    """Where rounds are written down."""

    async def save(self, number: int, snapshot: on.RoundSnapshot, candidate: ModelVersion | None) -> None:
        """Store how far the round is, durably."""

    async def close(self, outcome: Outcome) -> None:
        """Store the end of a round, with the version it made, in one transaction."""


class RoundPrivacy(Protocol):
    """Where it is written down what a round costs its devices."""

    async def invited(self, plan: Plan, plan_hash: bytes, devices: Sequence[str]) -> None:
        """Charge devices that will be invited, durably."""


class RoundTelling(Protocol):
    """Where it is written down what rounds tell beside their updates."""

    async def learn(self, version: int, clip_norm: float, told: RoundTold) -> float:
        """Write down what the round that makes ``version`` tells, durably; return the next clip norm."""


class Fleet(Protocol):
    """What the runner asks about devices."""

    def model_held(self, device: str) -> bytes | None:
        """Return the first 8 bytes of the digest of the newest model the device holds, None: not known."""

    def is_online(self, device: str) -> bool:
        """Return whether the device is connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerParts:
    """What a runner works with.

    ``enqueue`` puts work on the coordinator's queue, ``clock_ms`` is milliseconds since the epoch,
    ``finished`` is told how each round ended, ``folder`` is the data folder, ``levels`` the task's models.
    """

    identity: Identity
    roster: Roster
    topics: Topics
    announcer: Announcer
    shelf: RetainedShelf
    blobs: BlobStore
    models: ModelShelf
    ledger: RoundLedger
    privacy: RoundPrivacy
    told: RoundTelling
    fleet: Fleet
    folder: Path
    timings: on.RoundTimings
    server: Server
    stability: Stability
    controls: Controls | None
    late: LateReports | None
    certificates: CertificateBook
    enqueue: Callable[[Callable[[], Awaitable[None]]], None]
    clock_ms: Callable[[], int]
    is_connected: Callable[[], bool]
    finished: Callable[[Outcome], Awaitable[None]]
    levels: ModelLevels | None = None
