"""A device in one round of mode ``single``: a pure machine, events in, actions out.

``TRANSITIONS`` says for every state which events it knows; an unlisted event is an error, and an error
changes nothing. Two promises are kept on every path, also over restarts: a device consents to one split of
the members at most, and of nobody does it give both a share of the mask seed and a share of the mask key.

Why a signature over both whole sets (Bell et al. 2020, section 5, sign less): a threshold of more than half
of a device's neighbours and the corrupt ones must have signed the same sets before it answers. Each honest
device signs once, so a coordinator that shows different sets to different devices finds too few for all but
one.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from shoal_codecs.secagg.single.device_messages import (
    BoxesOpened,
    DeliveryCame,
    DeviceAction,
    DeviceEvent,
    DeviceMemory,
    DeviceState,
    DeviceTerms,
    Keep,
    MakeShares,
    MaskVector,
    OpenBoxes,
    Resumed,
    SayConsent,
    SayOpening,
    SayShares,
    SharesMade,
    Split,
    SurvivorsNamed,
    UnmaskAsked,
    VectorMasked,
)
from shoal_codecs.secagg.single.device_refusals import check_consents, check_members, check_split
from shoal_codecs.secagg.single.errors import (
    OtherSurvivorsError,
    SecondConsentError,
    SecondDeliveryError,
    SecondUnmaskError,
    UnlistedSingleEventError,
)
from shoal_codecs.secagg.single.sharing_records import MadeShares
from shoal_codecs.wire.single import SHARE_BYTES, MaskOpening, bitmap_of, names_in

S = DeviceState
_LATE = (DeliveryCame, SurvivorsNamed, UnmaskAsked)
TRANSITIONS: Mapping[DeviceState, frozenset[type]] = MappingProxyType(
    {
        S.SHARING: frozenset({Resumed, SharesMade}),
        S.SHARED: frozenset({Resumed, DeliveryCame}),
        S.OPENING: frozenset({Resumed, DeliveryCame, BoxesOpened}),
        S.MASKING: frozenset({Resumed, DeliveryCame, VectorMasked}),
        S.MASKED: frozenset({Resumed, DeliveryCame, SurvivorsNamed}),
        S.CONSENTED: frozenset({Resumed, *_LATE}),
        S.RELEASED: frozenset({Resumed, *_LATE}),
    }
)


class SingleDevice:
    """The machine; made with the memory of an earlier life it stands where that ended."""

    def __init__(self, terms: DeviceTerms, memory: DeviceMemory | None = None) -> None:
        self.terms = terms
        self.memory = memory or DeviceMemory()
        self._opening: OpenBoxes | None = None

    @property
    def state(self) -> DeviceState:
        """Where the device stands; follows from what it keeps."""
        memory = self.memory
        if memory.released:
            return S.RELEASED
        if memory.consent is not None:
            return S.CONSENTED
        if memory.masked:
            return S.MASKED
        if memory.neighbourly is not None:
            return S.MASKING
        if self._opening is not None:
            return S.OPENING
        return S.SHARING if memory.shares is None else S.SHARED

    def handle(self, event: DeviceEvent) -> tuple[DeviceAction, ...]:
        """Return what to do now that ``event`` happened, in order.

        Raises:
            UnlistedSingleEventError: it cannot happen in this state.
            DeliveryError, SurvivorError, UnmaskError: the coordinator asks for what this device refuses.
        """
        if type(event) not in TRANSITIONS[self.state]:
            raise UnlistedSingleEventError(
                f"{type(event).__name__} has no place while {self.state.value}: dropped; if it repeats, look "
                "at the coordinator"
            )
        match event:
            case Resumed():
                return self._latest()
            case SharesMade(shares):
                return self._keep(SayShares(shares), shares=shares)
            case DeliveryCame():
                return self._deliver(event)
            case BoxesOpened():
                return self._boxes_opened(event)
            case VectorMasked():
                return self._keep(masked=True)
            case SurvivorsNamed(split):
                return self._consent(split)
            case UnmaskAsked():
                return self._open_masks(event)

    def _latest(self) -> tuple[DeviceAction, ...]:
        """Return what this state calls for; consents and openings are said when they are asked for again."""
        match self.state:
            case S.SHARING:
                return (MakeShares(),)
            case S.SHARED:
                return (SayShares(self._shares()),)
            case S.OPENING:
                return (self._opening,) if self._opening else ()
            case S.MASKING:
                return (self._mask(),)
            case _:
                return ()

    def _deliver(self, event: DeliveryCame) -> tuple[DeviceAction, ...]:
        known = self._opening.members if self._opening else self.memory.members
        if known and known != event.members:
            raise SecondDeliveryError(
                "other members than were named before: the first word stands; look at the coordinator"
            )
        if known:
            return ()
        check_members(self.terms, event.members)
        self._opening = OpenBoxes(event.members, event.draws, event.boxes)
        return (self._opening,)

    def _boxes_opened(self, event: BoxesOpened) -> tuple[DeviceAction, ...]:
        members = self._opening.members if self._opening else b""
        kept = self._keep(neighbourly=event.neighbourly, members=members)
        return (*kept, self._mask())

    def _consent(self, split: Split) -> tuple[DeviceAction, ...]:
        if self.memory.consent == split:
            return (SayConsent(split),)
        check_split(self.terms, split, self.memory.members)
        if self.memory.consent is not None:
            raise SecondConsentError(
                "this device has consented to another split of this round: it does so once; look at the "
                "coordinator, and whether its folder was put back"
            )
        return self._keep(SayConsent(split), consent=split)

    def _open_masks(self, event: UnmaskAsked) -> tuple[DeviceAction, ...]:
        split = event.split
        if self.terms.base_opened:
            raise SecondUnmaskError(
                "masks on this base were opened in another round: two sums on one base show what differs"
            )
        if split != self.memory.consent:
            check_split(self.terms, split, self.memory.members)
            raise OtherSurvivorsError(
                "masks are to be opened for other sets than this device consented to: refused for good"
            )
        if not self.memory.released:
            check_consents(self.terms, split, event.signatures)
        return self._keep(SayOpening(self._opening_of(split)), released=True)

    def _opening_of(self, split: Split) -> MaskOpening:
        held = self.memory.neighbourly.held if self.memory.neighbourly else {}
        cohort = self.terms.plan.cohort
        alive, dead = (set(names_in(bitmap, cohort)) for bitmap in (split.alive, split.dead))
        given = [name for name in cohort if name in held and name in alive | dead]
        shares = [held[name][:SHARE_BYTES] if name in alive else held[name][SHARE_BYTES:] for name in given]
        return MaskOpening(self._shares().seed, bitmap_of(given, cohort), b"".join(shares))

    def _keep(self, *then: DeviceAction, **changes: object) -> tuple[DeviceAction, ...]:
        memory = msgspec.structs.replace(self.memory, **changes)
        if memory == self.memory:
            return then
        self.memory = memory
        return (Keep(memory), *then)

    def _mask(self) -> MaskVector:
        peers = self.memory.neighbourly.peers if self.memory.neighbourly else ()
        return MaskVector(self._shares().seed, peers)

    def _shares(self) -> MadeShares:
        if self.memory.shares is None:
            raise AssertionError("this state follows the making of shares")
        return self.memory.shares
