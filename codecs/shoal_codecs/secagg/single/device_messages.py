"""What goes into and comes out of a device's machine in one round of mode ``single``, and its memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import msgspec

from shoal_codecs.secagg.single.sharing_records import MadeShares, Neighbourly
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import MaskOpening


class DeviceState(Enum):
    """Where a device stands in a round."""

    SHARING = "sharing"
    """Its shares are to be made."""
    SHARED = "shared"
    """Its shares are made; who else shared is awaited."""
    OPENING = "opening"
    """The members are named; the boxes from them are being opened."""
    MASKING = "masking"
    """Its masks are known; its vector is to be made and masked."""
    MASKED = "masked"
    """Its masked vector is made and may leave; the survivors are awaited."""
    CONSENTED = "consented"
    """It has signed one split of the members; its neighbours' signatures are awaited."""
    RELEASED = "released"
    """It has given what opens the masks of that split."""


@dataclass(frozen=True, slots=True)
class DeviceTerms:
    """What a device goes by: its plan, its ``neighbours`` in drawn order, their Ed25519 ``keys``.

    ``base_opened`` says that masks of another plan on this base were opened before.
    """

    device: str
    plan: Plan
    plan_hash: bytes
    neighbours: Sequence[str]
    keys: Mapping[str, bytes]
    base_opened: bool = False


class Split(msgspec.Struct, frozen=True, array_like=True):
    """The members in two sets, as bitmaps over the cohort."""

    alive: bytes
    dead: bytes


class DeviceMemory(msgspec.Struct, frozen=True, array_like=True):
    """All that a device must not forget of a round, secrets among it."""

    shares: MadeShares | None = None
    members: bytes = b""
    neighbourly: Neighbourly | None = None
    masked: bool = False
    consent: Split | None = None
    released: bool = False


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resumed:
    """Begin, or go on after a restart: what is to be done now is said again."""


@dataclass(frozen=True, slots=True)
class SharesMade:
    """The shares are made."""

    shares: MadeShares


@dataclass(frozen=True, slots=True)
class DeliveryCame:
    """The coordinator names the ``members`` (a bitmap) and hands over boxes and nonces by sender."""

    members: bytes
    draws: Mapping[str, bytes]
    boxes: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class BoxesOpened:
    """The boxes of the delivery are opened and everything about them was checked."""

    neighbourly: Neighbourly


@dataclass(frozen=True, slots=True)
class VectorMasked:
    """The masked vector is durable and has not left yet."""


@dataclass(frozen=True, slots=True)
class SurvivorsNamed:
    """The coordinator asks for consent to a split."""

    split: Split


@dataclass(frozen=True, slots=True)
class UnmaskAsked:
    """The coordinator shows who consented, by device, and asks for what opens the masks."""

    split: Split
    signatures: Mapping[str, bytes]


DeviceEvent: TypeAlias = (
    Resumed | SharesMade | DeliveryCame | BoxesOpened | VectorMasked | SurvivorsNamed | UnmaskAsked
)


# --- actions: to be done in order ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keep:
    """Make this durable before any later action."""

    memory: DeviceMemory


@dataclass(frozen=True, slots=True)
class MakeShares:
    """Draw a seed, share it and the mask key, and put the shares into boxes."""


@dataclass(frozen=True, slots=True)
class SayShares:
    """Send the boxes, and again from time to time until the members are named."""

    shares: MadeShares


@dataclass(frozen=True, slots=True)
class OpenBoxes:
    """Open the boxes of a delivery and find out with whom masks are shared."""

    members: bytes
    draws: Mapping[str, bytes]
    boxes: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class MaskVector:
    """Make the vector, put the masks on it and make it durable; nothing of it may leave before."""

    seed: bytes
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SayConsent:
    """Sign the split and send the signature."""

    split: Split


@dataclass(frozen=True, slots=True)
class SayOpening:
    """Seal this to the coordinator and send it."""

    opening: MaskOpening


DeviceAction: TypeAlias = Keep | MakeShares | SayShares | OpenBoxes | MaskVector | SayConsent | SayOpening
