"""What goes into and comes out of the round machine: states, events, actions, timings."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import msgspec

from shoal_codecs.wire.hubs import HubPromise, promise_set_digest
from shoal_codecs.wire.plan import HubOffer, Plan, encode_plan


class RoundState(StrEnum):
    """Where a round is; ``COMMITTED`` and ``ABORTED`` are final."""

    IDLE = "idle"
    REVEALING = "revealing"
    PROPOSING = "proposing"
    COLLECTING = "collecting"
    SUMMING = "summing"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    WITHDRAWING = "withdrawing"
    COMMITTED = "committed"
    ABORTED = "aborted"


FINAL = frozenset({RoundState.COMMITTED, RoundState.ABORTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTimings:
    """How long the coordinator waits, all in milliseconds.

    ``sign_ms`` for the hubs' nonces, and again for their signatures; ``linger_ms`` after a plan's
    ``closes_ms`` for the first word of the hubs' agreement; ``let_go_ms`` for hubs to abandon a plan that is
    given up; ``evaluate_ms`` for all evaluations (0: none are asked for), of which ``evaluate_patience_ms``
    after ``evaluate_share`` of them are in.
    """

    sign_ms: int = 5_000
    resend_ms: int = 2_000
    linger_ms: int = 10_000
    let_go_ms: int = 60_000
    evaluate_ms: int = 5_000
    evaluate_patience_ms: int = 500
    evaluate_share: float = 0.8


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One device's counts on its held-out examples; ``personal_correct`` of a model of its own, or None."""

    examples: int
    correct: int
    loss_sum: float
    personal_correct: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSnapshot:
    """What a restart needs to go on with a round: the machine without its clocks."""

    state: RoundState
    plan: bytes
    signatures: dict[str, bytes] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    reason: str = ""
    promises: tuple[HubPromise, ...] = ()
    late: tuple[tuple[str, int], ...] = ()


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begun:
    """The plan is made: go."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The coordinator started again and this is the round it was in."""


@dataclass(frozen=True, slots=True)
class HubRevealed:
    """A hub shows the nonce it promised, and its challenge's digest; both fit its promise."""

    hub: str
    nonce: bytes
    challenge: bytes


@dataclass(frozen=True, slots=True)
class HubSigned:
    """A hub's signature over the plan, verified."""

    hub: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class HubRefused:
    """A hub does not sign, or does not show its nonce."""

    hub: str
    reason: str


@dataclass(frozen=True, slots=True)
class HubAbandoned:
    """A hub never will release its sum of this plan."""

    hub: str
    reason: str


@dataclass(frozen=True, slots=True)
class HubAgreed:
    """A hub's one word on which reports are summed."""

    hub: str
    set_digest: bytes
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HubSummed:
    """A hub's whole sum over the set with ``set_digest``, still sealed."""

    hub: str
    set_digest: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class DeviceReplied:
    """A device takes part, declines, or withdraws."""

    device: str
    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeviceShows:
    """A device's heartbeat says that it works on this round."""

    device: str


@dataclass(frozen=True, slots=True)
class DeviceBack:
    """A device started again: what it had accepted and not sent is lost."""

    device: str


@dataclass(frozen=True, slots=True)
class DeviceGone:
    """A device is offline."""

    device: str


@dataclass(frozen=True, slots=True)
class ReportStored:
    """Mode ``plain``: the coordinator holds a device's report durably."""

    device: str


@dataclass(frozen=True, slots=True)
class LateStored:
    """FedBuff: a report to an earlier ``round``, by ``sender``, is held durably and counts for this one."""

    sender: str
    round: int


@dataclass(frozen=True, slots=True)
class SurvivorsNamed:
    """Mode ``single``: masked vectors are taken no more; the masks are being opened."""


@dataclass(frozen=True, slots=True)
class MasksOpened:
    """Mode ``single``: the masks of the sum over ``members`` are open, or stay on and the base is spent."""

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The candidate version is made and stored."""


@dataclass(frozen=True, slots=True)
class AggregationFailed:
    """No candidate could be made of the sums or reports."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeviceEvaluated:
    """A device's counts for the candidate."""

    device: str
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The coordinator itself cannot go on with the round."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


RoundEvent: TypeAlias = (
    Begun
    | Restored
    | HubRevealed
    | HubSigned
    | HubRefused
    | HubAbandoned
    | HubAgreed
    | HubSummed
    | DeviceReplied
    | DeviceShows
    | DeviceBack
    | DeviceGone
    | ReportStored
    | LateStored
    | SurvivorsNamed
    | MasksOpened
    | Aggregated
    | AggregationFailed
    | DeviceEvaluated
    | GivenUp
    | Tick
)


# --- actions: to be done in order ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Store this durably before any later action."""

    snapshot: RoundSnapshot


@dataclass(frozen=True, slots=True)
class AskReveal:
    """Ask these hubs for the nonces they promised."""

    hubs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProposePlan:
    """Send the plan to these hubs for their signature."""

    hubs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """Retain the plan with everybody's signatures on the round's topic."""

    signatures: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Invite:
    """Send these devices an invitation."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Make the candidate: of ``sums`` (sealed, by hub) over ``members``, or of their reports.

    ``late`` are reports (device, round) to earlier rounds.
    """

    members: tuple[str, ...]
    set_digest: bytes
    sums: dict[str, bytes]
    late: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AskEvaluation:
    """Send these devices the candidate to be evaluated."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Store the candidate as the next version, in one transaction with the round, then announce it.

    ``members`` are those whose reports to this round, or to earlier ones, it was made of.
    Where it is ``unstable`` a version takes its place that is the base but for a trifle: the shared modes end
    so, for what was summed on a base is never summed again.
    """

    members: tuple[str, ...]
    evaluations: dict[str, Evaluation]
    unstable: str = ""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell these hubs that the round is given up."""

    hubs: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Abort:
    """Store the end of the round, then tell everybody; ``refused``: because parties did not want it."""

    reason: str
    cohort: tuple[str, ...]
    refused: bool = False


RoundAction: TypeAlias = (
    Persist
    | AskReveal
    | ProposePlan
    | PublishPlan
    | Invite
    | Aggregate
    | AskEvaluation
    | Commit
    | Withdraw
    | Abort
)


@dataclass(slots=True)
class RoundFacts:
    """What a round has learned so far.

    While there are ``promises`` the plan is a draft without nonces, and nobody has signed it. ``joined`` says
    that a version was to be made of the reports to this round, ``reported``, and of the ``late`` ones;
    ``refused`` that hubs or devices did not want the round.
    """

    plan: Plan
    plan_bytes: bytes
    promises: tuple[HubPromise, ...] = ()
    revealed: dict[str, HubOffer] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    replied: dict[str, bool] = field(default_factory=dict)
    showing: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    late: set[tuple[str, int]] = field(default_factory=set)
    agreements: dict[str, HubAgreed] = field(default_factory=dict)
    sums: dict[str, HubSummed] = field(default_factory=dict)
    joined: bool = False
    abandoned: set[str] = field(default_factory=set)
    members: tuple[str, ...] = ()
    gone: set[str] = field(default_factory=set)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    reason: str = ""
    refused: bool = False

    @property
    def hubs(self) -> tuple[str, ...]:
        """Names of the plan's hubs; none in mode ``plain``, where the coordinator collects itself."""
        offers: tuple[HubOffer, ...] = self.plan.hubs if self.plan.mode == "hubs" else ()
        return tuple(offer.hub for offer in offers)

    @property
    def set_digest(self) -> bytes:
        """What the promises are called."""
        return promise_set_digest(self.promises)

    def finish_plan(self) -> None:
        """Put what the hubs have shown into the plan."""
        offers = tuple(self.revealed[hub] for hub in self.hubs)
        self.plan = msgspec.structs.replace(self.plan, hubs=offers)
        self.plan_bytes = encode_plan(self.plan)
        self.promises = ()

    @property
    def declined(self) -> set[str]:
        """Devices that said no, or withdrew, and have not reported."""
        return {device for device, yes in self.replied.items() if not yes} - self.reported

    def snapshot(self, state: RoundState) -> RoundSnapshot:
        """Return what a restart in ``state`` needs."""
        return RoundSnapshot(
            state=state,
            plan=self.plan_bytes,
            signatures=dict(self.signatures),
            members=self.members,
            reason=self.reason,
            promises=self.promises,
            late=tuple(sorted(self.late)),
        )
