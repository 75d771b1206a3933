"""Every message of the protocol: one tagged struct each, a positional array on the wire.

A new field goes to the end and has a default; a receiver ignores fields it does not know. Times are
milliseconds since the epoch, digests 32 bytes unless a field says otherwise.
"""

from typing import Any

import msgspec

from shoal_codecs.wire.blob import DIGEST_BYTES, BlobRef
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.held import HeldRoster
from shoal_codecs.wire.hubs import HubPromise, NeverReleased
from shoal_codecs.wire.single import Prekey

PROTOCOL_VERSION = 1
MOST_STEPS = 256
"""Steps of one chain."""


class Message(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What every message begins with.

    ``message_id`` is 8 random bytes: a handler that sees it twice does nothing the second time.
    """

    protocol: int
    sender: str
    message_id: bytes
    sent_ms: int


# --- what a device says -------------------------------------------------------------------------


class DeviceStatus(Message, frozen=True, kw_only=True, tag="ds"):
    """Retained, and the Will: whether this session of the device is connected, and by which roster."""

    online: bool
    session: bytes
    agent_version: str = ""
    roster: HeldRoster | None = None


class Heartbeat(Message, frozen=True, kw_only=True, tag="hb"):
    """What changed since the last one, all of it when ``full``; keys are ``heartbeat.Reading``."""

    sequence: int
    full: bool
    readings: dict[int, Any]


class Reply(Message, frozen=True, kw_only=True, tag="rp"):
    """A device takes part or not; ``plan_id`` is the first 8 bytes of the plan's hash.

    ``accepted=False`` after an acceptance withdraws it; ``reason`` says why, in words for a person.
    ``unsent`` says that nothing of a report for this plan has left the device: it has not paid for it.
    """

    round: int
    plan_id: bytes
    accepted: bool
    reason: str = ""
    unsent: bool = False


class Evaluated(Message, frozen=True, kw_only=True, tag="ev"):
    """A model version on this device's held-out examples; ``model_id`` is 8 bytes of its digest.

    ``sent`` and ``received`` are all the bytes of this device's MQTT connections since it started.
    ``personal`` is what a model of the device's own counts on the same examples: correct and summed loss.
    """

    round: int
    model_id: bytes
    examples: int
    correct: int
    loss_sum: float
    sent: int = 0
    received: int = 0
    personal: tuple[int, float] | None = None


class BlobWanted(Message, frozen=True, kw_only=True, tag="bw"):
    """A chunk that should be retained did not come, or was damaged: please publish the blob again."""

    digest: bytes


class InstallReport(Message, frozen=True, kw_only=True, tag="ir"):
    """Where an installation stands; the counts are (examples, correct) on the same examples.

    Both are -1 where the device keeps them to itself.
    """

    release: str
    version: int
    state: str
    reason: str = ""
    candidate: tuple[int, int] = (0, 0)
    replaced: tuple[int, int] = (0, 0)


class ReportPart(Message, frozen=True, kw_only=True, tag="rt"):
    """A piece of a report to one hub; the assembled bytes are a ``report.Report``, signed inside.

    ``data`` is a view of the frame it came in.
    """

    round: int
    index: int
    count: int
    data: memoryview


class Prekeys(Message, frozen=True, kw_only=True, tag="pk"):
    """Retained: key bundles this device has not used yet, for rounds of mode ``single``."""

    bundles: tuple[Prekey, ...]


class SingleShares(Message, frozen=True, kw_only=True, tag="s1"):
    """Mode ``single``: shares of this device's secrets, a box sealed to each neighbour in the order drawn.

    ``draw`` is the nonce that drew them, ``seed`` the commitment to the seed of the device's own mask (32
    bytes each).
    """

    round: int
    plan_hash: bytes
    draw: bytes
    seed: bytes
    boxes: tuple[bytes, ...]


class SingleConsent(Message, frozen=True, kw_only=True, tag="s4"):
    """Mode ``single``: this device's signature over the one split into alive and dead that it stands by."""

    round: int
    plan_hash: bytes
    signature: bytes


class SingleUnmask(Message, frozen=True, kw_only=True, tag="s6"):
    """Mode ``single``: an encoded ``single.MaskOpening``, sealed to the coordinator's key of the round."""

    round: int
    plan_hash: bytes
    sealed: bytes


# --- what the coordinator says to a device ------------------------------------------------------


class ModelOffer(msgspec.Struct, frozen=True, array_like=True):
    """A model version and the ways to get it: by a small step from its parent, or whole.

    ``digest`` is the BLAKE3 of the little-endian float32 vector; ``step`` an encoded ``step.ModelStep``
    from ``parent``, empty where there is none. ``chain`` are encoded steps as blobs, oldest first, that
    lead from ``parent`` to this version when ``step`` does not.
    """

    version: int
    digest: bytes
    whole: BlobRef
    parent: bytes = b""
    step: bytes = b""
    chain: tuple[BlobRef, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an offer of nothing.

        Raises:
            MalformedMessageError: digests of other lengths, or a chain of more steps than anybody offers.
        """
        if len(self.digest) != DIGEST_BYTES or len(self.parent) not in {0, DIGEST_BYTES}:
            raise MalformedMessageError("a model's digest is not 32 bytes: look at what the coordinator runs")
        if len(self.chain) > MOST_STEPS:
            raise MalformedMessageError(
                f"a chain of {len(self.chain)} steps, {MOST_STEPS} are the most: offer the whole model"
            )


class Invitation(Message, frozen=True, kw_only=True, tag="in"):
    """Please take part in ``round``; the plan is retained on ``rounds/{round}``.

    ``source`` is the encoded step that codec ``global_topk`` takes coordinates from, None for other codecs;
    ``correction`` the fleet's control of SCAFFOLD, None for other algorithms.
    """

    round: int
    plan_hash: bytes
    task: BlobRef
    model: ModelOffer
    source: BlobRef | None = None
    correction: BlobRef | None = None


class Cancel(Message, frozen=True, kw_only=True, tag="cn"):
    """The round is over for this device; what it still holds of it may go."""

    round: int
    plan_hash: bytes
    reason: str


class Evaluate(Message, frozen=True, kw_only=True, tag="el"):
    """Please count how this model version does on your held-out examples."""

    round: int
    task: BlobRef
    model: ModelOffer


class SingleDelivery(Message, frozen=True, kw_only=True, tag="s2"):
    """Mode ``single``: who shared (a bitmap over the cohort), and the boxes meant for this device by sender.

    ``draws`` are the nonces (32 bytes) of those senders.
    """

    round: int
    plan_hash: bytes
    members: bytes
    draws: dict[str, bytes]
    boxes: dict[str, bytes]


class SingleSurvivors(Message, frozen=True, kw_only=True, tag="s3"):
    """Mode ``single``: whose masked vectors are here and whose are not (bitmaps); please consent, once."""

    round: int
    plan_hash: bytes
    alive: bytes
    dead: bytes


class SingleUnmaskWanted(Message, frozen=True, kw_only=True, tag="s5"):
    """Mode ``single``: your neighbours consented to these sets (bitmaps); please open the masks."""

    round: int
    plan_hash: bytes
    alive: bytes
    dead: bytes
    signatures: dict[str, bytes]


class ReleaseOrder(Message, frozen=True, kw_only=True, tag="ro"):
    """Install this release; ``manifest`` and ``signature`` are the publisher's, as it signed them."""

    release: str
    manifest: bytes
    signature: bytes


class ReleaseWithdrawn(Message, frozen=True, kw_only=True, tag="rw"):
    """Stop working on this release; what runs keeps running."""

    release: str
    reason: str


class HeartbeatWanted(Message, frozen=True, kw_only=True, tag="hw"):
    """Heartbeats were missed, or the coordinator started again: please send a full one now."""


# --- the round between coordinator and hubs -----------------------------------------------------


class PlanNotice(Message, frozen=True, kw_only=True, tag="pl"):
    """Retained on ``rounds/{round}``: the plan as signed and everybody's signature over it.

    ``certificates`` are of the earlier plans on the same base; ``prekeys`` (mode ``single``) the key bundles
    that the plan names, in the cohort's order.
    """

    plan: bytes
    signatures: dict[str, bytes]
    certificates: tuple[NeverReleased, ...] = ()
    prekeys: tuple[Prekey, ...] = ()


class RevealWanted(Message, frozen=True, kw_only=True, tag="rv"):
    """The coordinator plans a round on ``base`` with these promises: every hub shall show its nonce."""

    task: bytes
    base: bytes
    promises: tuple[HubPromise, ...]


class NonceRevealed(Message, frozen=True, kw_only=True, tag="nr"):
    """A hub shows the nonce it promised, for one set of promises only; ``challenge`` is a digest."""

    set_digest: bytes
    nonce: bytes
    challenge: bytes


class RevealRefused(Message, frozen=True, kw_only=True, tag="rx"):
    """A hub does not show its nonce for this set of promises, and says why."""

    set_digest: bytes
    reason: str


class PlanProposal(Message, frozen=True, kw_only=True, tag="pp"):
    """The coordinator proposes a plan; ``signature`` is its own over the plan.

    ``certificates`` are of the earlier plans on the same base.
    """

    plan: bytes
    signature: bytes
    certificates: tuple[NeverReleased, ...] = ()


class PlanSigned(Message, frozen=True, kw_only=True, tag="ps"):
    """A hub has checked its floors, logged the plan's hash and signs."""

    round: int
    plan_hash: bytes
    signature: bytes


class PlanRefused(Message, frozen=True, kw_only=True, tag="px"):
    """A hub does not sign, and says why."""

    round: int
    plan_hash: bytes
    reason: str


class RoundCommitted(Message, frozen=True, kw_only=True, tag="rd"):
    """The sum is taken and the version stored: hubs destroy the round's key and ciphertexts."""

    round: int
    plan_hash: bytes


class RoundAborted(Message, frozen=True, kw_only=True, tag="ra"):
    """The coordinator gives a round up; a hub that released nothing never will."""

    round: int
    plan_hash: bytes
    reason: str


class HubStatus(Message, frozen=True, kw_only=True, tag="hs"):
    """Retained, and the Will: a hub is there, and what it promises to the next plan.

    ``head`` is the newest link of the chain over its log, ``position`` how many links there are; a Will
    names none, for it is older than what it follows. ``roster`` is the one that it goes by.
    """

    online: bool
    session: bytes
    promise: HubPromise | None = None
    position: int = 0
    head: bytes = b""
    roster: HeldRoster | None = None


class PeerLog(Message, frozen=True, kw_only=True, tag="lg"):
    """The newest head of ``hub``'s log that this hub knows of, for the process with ``session``."""

    hub: str
    session: bytes
    position: int
    head: bytes


class Receipt(Message, frozen=True, kw_only=True, tag="rc"):
    """A hub holds a device's whole report durably, or (``report_id`` empty) has parts up to ``credit``."""

    round: int
    plan_hash: bytes
    report_id: bytes
    credit: int = 0


class ReportSet(Message, frozen=True, kw_only=True, tag="st"):
    """The reports a hub holds when it closes: device name to report id; and its log's head."""

    round: int
    plan_hash: bytes
    reports: dict[str, bytes]
    position: int = 0
    head: bytes = b""


class HubChallenge(Message, frozen=True, kw_only=True, tag="hc"):
    """Norm check: the secret (32 bytes) whose digest stands in the plan, shown once reports are fixed."""

    round: int
    plan_hash: bytes
    set_digest: bytes
    challenge: bytes


class HubProjections(Message, frozen=True, kw_only=True, tag="hp"):
    """Norm check: projections of the shares of a set, sealed to the hub ``to``; a piece of them."""

    round: int
    plan_hash: bytes
    set_digest: bytes
    to: str
    index: int
    count: int
    data: bytes


class Agreement(Message, frozen=True, kw_only=True, tag="ag"):
    """A hub binds itself, once, to the one set of reports that all hubs hold; and its log's head."""

    round: int
    plan_hash: bytes
    set_digest: bytes
    members: tuple[str, ...]
    position: int = 0
    head: bytes = b""


class HubSumPart(Message, frozen=True, kw_only=True, tag="sm"):
    """A piece of a hub's sum over the agreed set, sealed to the coordinator."""

    round: int
    plan_hash: bytes
    set_digest: bytes
    index: int
    count: int
    data: bytes


class RoundAbandoned(Message, frozen=True, kw_only=True, tag="ab"):
    """A hub has not released its sum of this plan, never will, and has destroyed the round's key.

    ``certificate`` is its signature over ``hubs.never_released_bytes``, for whoever asks later.
    """

    round: int
    plan_hash: bytes
    reason: str
    certificate: bytes = b""


# --- the operator -------------------------------------------------------------------------------


class CoordinatorStatus(Message, frozen=True, kw_only=True, tag="cs"):
    """Retained: the fleet and the round as the coordinator sees them (``status.FleetView``)."""

    view: bytes


class CoordinatorEvent(Message, frozen=True, kw_only=True, tag="ce"):
    """Something an operator may want to see as it happens; ``fields`` hold numbers and names only."""

    kind: str
    text: str
    fields: dict[str, Any] = {}


class OperatorCommand(Message, frozen=True, kw_only=True, tag="oc"):
    """Signed by the operator's key: what the coordinator shall do."""

    action: str
    arguments: dict[str, Any] = {}


class OperatorAnswer(Message, frozen=True, kw_only=True, tag="oa"):
    """What came of an operator's command; ``command_id`` is the command's message id."""

    command_id: bytes
    accepted: bool
    text: str = ""
    fields: dict[str, Any] = {}


AnyMessage = (
    DeviceStatus
    | Heartbeat
    | Reply
    | Evaluated
    | BlobWanted
    | InstallReport
    | ReportPart
    | Prekeys
    | SingleShares
    | SingleConsent
    | SingleUnmask
    | SingleDelivery
    | SingleSurvivors
    | SingleUnmaskWanted
    | Invitation
    | Cancel
    | Evaluate
    | ReleaseOrder
    | ReleaseWithdrawn
    | HeartbeatWanted
    | PlanNotice
    | RevealWanted
    | NonceRevealed
    | RevealRefused
    | PlanProposal
    | PlanSigned
    | PlanRefused
    | RoundCommitted
    | RoundAborted
    | HubStatus
    | PeerLog
    | Receipt
    | ReportSet
    | HubChallenge
    | HubProjections
    | Agreement
    | HubSumPart
    | RoundAbandoned
    | CoordinatorStatus
    | CoordinatorEvent
    | OperatorCommand
    | OperatorAnswer
)

UNSIGNED = (Heartbeat, ReportPart, SingleConsent, PlanNotice)
"""Sent without a frame signature: telemetry that only steers scheduling, and what is signed inside."""

REPEATABLE = (DeviceStatus, HubStatus, CoordinatorStatus, Prekeys)
"""May come again with the same message id: a Will is fixed for the life of a process and sent at each cut,
and what is kept retained comes at each subscription. Anything else is a copy, whatever the broker calls it.
"""
