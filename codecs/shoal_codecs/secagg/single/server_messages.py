"""What goes into and comes out of the coordinator's machine for one plan of mode ``single``; its memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

import msgspec

from shoal_codecs.secagg.single.device_messages import Split
from shoal_codecs.secagg.single.opening_records import Answer
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey


class ServerState(Enum):
    """Where a round of mode ``single`` stands at the coordinator."""

    SHARING = "sharing"
    """Shares are collected."""
    MASKING = "masking"
    """The members are named; their masked vectors are collected."""
    CONSENTING = "consenting"
    """The survivors are named; their signatures are collected."""
    OPENING = "opening"
    """Survivors were shown the signatures; what opens the masks is collected."""
    COMPUTING = "computing"
    """There is enough to open every mask; it is being tried."""
    OPENED = "opened"
    """The sum is open."""
    FAILED = "failed"
    """The sum stays hidden for good."""


class PublishedShares(msgspec.Struct, frozen=True, array_like=True):
    """What a device published: its nonce, the commitment to its seed, its boxes in drawn order."""

    draw: bytes
    seed: bytes
    boxes: tuple[bytes, ...]


@dataclass(slots=True)
class ServerMemory:
    """What the coordinator must not forget: whoever gave it may be gone for good after a restart."""

    shares: dict[str, PublishedShares] = field(default_factory=dict)
    members: bytes = b""
    split: Split | None = None
    asked: bool = False
    consents: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerTerms:
    """What the coordinator goes by: the plan, its ``prekeys`` in order, the devices' Ed25519 ``keys``."""

    plan: Plan
    plan_hash: bytes
    prekeys: Sequence[Prekey]
    keys: Mapping[str, bytes]
    resend_ms: int = 2_000


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerResumed:
    """Begin, or go on after a restart."""


@dataclass(frozen=True, slots=True)
class SharesCame:
    """A device's shares, signed by it."""

    device: str
    shares: PublishedShares


@dataclass(frozen=True, slots=True)
class VectorStored:
    """A device's masked vector is here durably."""

    device: str


@dataclass(frozen=True, slots=True)
class DeviceOut:
    """A device said that it takes no (further) part."""

    device: str


@dataclass(frozen=True, slots=True)
class ConsentCame:
    """A device's signature over the split."""

    device: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class OpeningCame:
    """What a device gave to open masks."""

    device: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class MasksOpened:
    """The sum is open."""


@dataclass(frozen=True, slots=True)
class MasksShut:
    """The answers so far do not open every mask."""

    reason: str


@dataclass(frozen=True, slots=True)
class ServerTick:
    """Time has passed."""


ServerEvent: TypeAlias = (
    ServerResumed
    | SharesCame
    | VectorStored
    | DeviceOut
    | ConsentCame
    | OpeningCame
    | MasksOpened
    | MasksShut
    | ServerTick
)


# --- actions: to be done in order ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeepShares:
    """Make a device's shares durable."""

    device: str
    shares: PublishedShares


@dataclass(frozen=True, slots=True)
class KeepMembers:
    """Make durable who the members are."""

    members: bytes


@dataclass(frozen=True, slots=True)
class KeepSplit:
    """Make durable which split the members are asked to consent to."""

    split: Split


@dataclass(frozen=True, slots=True)
class KeepConsent:
    """Make a device's signature over the split durable."""

    device: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class KeepAnswer:
    """Make durable what a device gave to open masks."""

    device: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class KeepAsked:
    """Make durable that masks are about to be opened: this base is spent."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Tell a device the members, and hand it nonces and boxes by sender."""

    device: str
    members: bytes
    draws: Mapping[str, bytes]
    boxes: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class NameSurvivors:
    """Ask these devices to consent to the split."""

    devices: tuple[str, ...]
    split: Split


@dataclass(frozen=True, slots=True)
class AskOpening:
    """Show a device its neighbours' signatures and ask for what opens the masks."""

    device: str
    split: Split
    signatures: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class OpenMasks:
    """Try to open the masks of the sum over ``alive``; say whether it went well."""

    alive: tuple[str, ...]
    dead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Tell these devices that the round goes on without them."""

    devices: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The round ends without a sum; once ``asked``, some masks may be open and the base is spent."""

    reason: str
    asked: bool


ServerAction: TypeAlias = (
    KeepShares
    | KeepMembers
    | KeepSplit
    | KeepConsent
    | KeepAnswer
    | KeepAsked
    | Deliver
    | NameSurvivors
    | AskOpening
    | OpenMasks
    | Dismiss
    | GiveUp
)
