"""The coordinator in one round of mode ``single``: a pure machine, events and a clock in, actions out.

It hands boxes on that it cannot open, names the members and then the survivors, once each, and puts the sum
together from what a threshold of neighbours gives. What it was told is kept before anything follows from it,
and so is what a device would refuse to hear otherwise a second time.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

from shoal_codecs.secagg.single.device_messages import Split
from shoal_codecs.secagg.single.errors import (
    ConsentSignatureError,
    InvalidSharesError,
    OutsideCohortError,
    SecondWordError,
    UnlistedSingleEventError,
)
from shoal_codecs.secagg.single.neighbours import drawn_by
from shoal_codecs.secagg.single.opening_records import Answer
from shoal_codecs.secagg.single.server_counts import Consents, Drawers, drawers_of
from shoal_codecs.secagg.single.server_messages import (
    AskOpening,
    ConsentCame,
    Deliver,
    DeviceOut,
    Dismiss,
    GiveUp,
    KeepAnswer,
    KeepAsked,
    KeepConsent,
    KeepMembers,
    KeepShares,
    KeepSplit,
    MasksOpened,
    MasksShut,
    NameSurvivors,
    OpeningCame,
    OpenMasks,
    PublishedShares,
    ServerAction,
    ServerEvent,
    ServerMemory,
    ServerResumed,
    ServerState,
    ServerTerms,
    ServerTick,
    SharesCame,
    VectorStored,
)
from shoal_codecs.security.errors import BadSignatureError
from shoal_codecs.security.identity import verify
from shoal_codecs.wire.plan import SinglePlan
from shoal_codecs.wire.single import BOX_BYTES, bitmap_of, consent_bytes, names_in

S = ServerState
Actions = list[ServerAction]
FINISHED = frozenset({S.OPENED, S.FAILED})
_ALWAYS = (ServerResumed, ServerTick, SharesCame, VectorStored, DeviceOut)
_LATER = (*_ALWAYS, ConsentCame)
TRANSITIONS: Mapping[ServerState, frozenset[type]] = MappingProxyType(
    {
        S.SHARING: frozenset(_ALWAYS),
        S.MASKING: frozenset(_ALWAYS),
        S.CONSENTING: frozenset(_LATER),
        S.OPENING: frozenset({*_LATER, OpeningCame}),
        S.COMPUTING: frozenset({*_LATER, OpeningCame, MasksOpened, MasksShut}),
        S.OPENED: frozenset({*_LATER, OpeningCame}),
        S.FAILED: frozenset({*_LATER, OpeningCame}),
    }
)


class SingleServer:
    """The machine; made with the memory of an earlier life it goes on where that ended."""

    def __init__(self, terms: ServerTerms, memory: ServerMemory | None = None) -> None:
        self.terms = terms
        self.memory = memory or ServerMemory()
        self.vectors: set[str] = set()
        self._places = {device: place for place, device in enumerate(terms.plan.cohort)}
        self.holders: dict[str, tuple[str, ...]] = {
            device: self._drawn(device, shares) for device, shares in self.memory.shares.items()
        }
        self._out: set[str] = set()
        self._tried = 0
        self._enough_ms: int | None = None
        self._resend_ms: int | None = None
        cohort = terms.plan.cohort
        split = self.memory.split
        self.members = (
            frozenset(names_in(self.memory.members, cohort)) if self.memory.members else frozenset()
        )
        self.alive = names_in(split.alive, cohort) if split else ()
        self.dead = names_in(split.dead, cohort) if split else ()
        self._drawers: Drawers = drawers_of(self.holders, self._ordered(self.members))
        self._consents = Consents(self._drawers, self._single.threshold)
        for device in self.memory.consents:
            self._consents.add(device)
        self.state = S.CONSENTING if split else S.MASKING if self.members else S.SHARING
        if self.memory.asked:
            self.state = S.OPENING

    @property
    def finished(self) -> bool:
        """Whether the round has ended, one way or the other."""
        return self.state in FINISHED

    @property
    def wake_ms(self) -> int | None:
        """When the next Tick is due, None for never."""
        if self.finished:
            return None
        plan, single = self.terms.plan, self._single
        ends = {S.SHARING: single.shares_ms, S.MASKING: single.masked_ms}
        due = [ends.get(self.state, plan.closes_ms)]
        due += [] if self._enough_ms is None else [self._enough_ms + plan.patience_ms]
        due += [] if self._resend_ms is None else [self._resend_ms]
        return min(due)

    def handle(self, event: ServerEvent, now_ms: int) -> tuple[ServerAction, ...]:
        """Return what to do now that ``event`` happened, in order.

        Raises:
            UnlistedSingleEventError: it cannot happen in this state.
            OutsideCohortError: from a device that has no say here.
            InvalidSharesError, DrawError: shares that do not fit the plan.
            SecondWordError: other shares than the device's first.
            ConsentSignatureError: a consent to something else.
        """
        if type(event) not in TRANSITIONS[self.state]:
            raise UnlistedSingleEventError(
                f"{type(event).__name__} has no place while {self.state.value}: early or late, dropped"
            )
        device = getattr(event, "device", None)
        if device is not None and device not in self._places:
            raise OutsideCohortError(f"{device!r} is not in the cohort: only invited devices take part")
        actions = self._apply(event, now_ms)
        while (more := self._move(now_ms)) is not None:
            actions += more
        return tuple(actions)

    def _apply(self, event: ServerEvent, now_ms: int) -> Actions:
        match event:
            case ServerResumed():
                return self._say_again(now_ms)
            case SharesCame(device, shares):
                return self._take_shares(device, shares)
            case VectorStored(device):
                # A vector that comes after the survivors were named stays masked for good.
                self.vectors |= {device} if self.state is S.MASKING and device in self.members else set()
            case DeviceOut(device):
                self._out.add(device)
            case ConsentCame(device, signature):
                return self._take_consent(device, signature)
            case OpeningCame(device, answer):
                return self._take_answer(device, answer)
            case MasksOpened():
                self._enter(S.OPENED)
            case MasksShut(reason):
                return self._shut(reason)
            case ServerTick():
                due = self._resend_ms is not None and now_ms >= self._resend_ms
                return self._say_again(now_ms) if due else []
        return []

    # --- what each event does -------------------------------------------------------------------

    def _take_shares(self, device: str, shares: PublishedShares) -> Actions:
        known = self.memory.shares.get(device)
        if known is not None and known != shares:
            raise SecondWordError(f"{device!r} sends other shares than before: the first stand")
        if self.state is not S.SHARING:
            # A member that repeats its shares has not heard who the members are.
            if self.state is S.MASKING and device in self.members:
                return [self._delivery(device)]
            return [] if device in self.members else [Dismiss((device,), "its shares came too late")]
        if known is not None:
            return []
        if len(shares.boxes) != self._single.neighbours or any(len(b) != BOX_BYTES for b in shares.boxes):
            raise InvalidSharesError(
                f"{device!r} sends {len(shares.boxes)} boxes, the plan asks for {self._single.neighbours} of "
                f"{BOX_BYTES} bytes: update the device"
            )
        self.holders[device] = self._drawn(device, shares)
        self.memory.shares[device] = shares
        self._out.discard(device)
        return [KeepShares(device, shares)]

    def _take_consent(self, device: str, signature: bytes) -> Actions:
        if device not in self.alive:
            raise OutsideCohortError(f"{device!r} is not among the survivors: its consent does not count")
        split = self._split()
        try:
            signed = consent_bytes(self.terms.plan_hash, split.alive, split.dead)
            verify(self.terms.keys[device], signed, signature)
        except BadSignatureError as error:
            raise ConsentSignatureError(
                f"{device!r} signed other sets than were named: look at the device, and at its key"
            ) from error
        if device in self.memory.consents or self.finished:
            return []
        self.memory.consents[device] = signature
        self._consents.add(device)
        asking: Actions = [] if self.state is S.CONSENTING else [self._asking(device)]
        return [KeepConsent(device, signature), *asking]

    def _take_answer(self, device: str, answer: Answer) -> Actions:
        if device not in self.alive:
            raise OutsideCohortError(f"{device!r} is not among the survivors: what it gives is not taken")
        if self.finished or device in self.memory.answers:
            return []
        self.memory.answers[device] = answer
        return [KeepAnswer(device, answer)]

    def _shut(self, reason: str) -> Actions:
        # What did not open the masks is tried again with every further answer.
        self._enter(S.OPENING)
        return self._fail(reason) if self._tried == len(self.alive) else []

    # --- moves that follow from what is known ---------------------------------------------------

    def _move(self, now_ms: int) -> Actions | None:
        """Go one state on, if what is known calls for it."""
        match self.state:
            case S.SHARING:
                return self._close(self.memory.shares.keys(), self._places.keys(), now_ms)
            case S.MASKING:
                return self._close(self.vectors, self.members, now_ms)
            # What can be opened is, however late: the devices do it for no other sum on this base.
            case S.OPENING if len(self.memory.answers) > self._tried and self._opens(self.memory.answers):
                self._tried = len(self.memory.answers)
                self._enter(S.COMPUTING)
                return [OpenMasks(self.alive, self.dead)]
            case S.CONSENTING | S.OPENING if now_ms >= self.terms.plan.closes_ms:
                return self._fail("too few survivors answered in time")
            case S.CONSENTING if self._may_ask(now_ms):
                return self._ask(now_ms)
            case _:
                return None

    def _close(self, here: AbstractSet[str], awaited: AbstractSet[str], now_ms: int) -> Actions | None:
        """Close a collecting phase when nobody is waited for any more; ``here`` are some of those awaited."""
        plan, sharing = self.terms.plan, self.state is S.SHARING
        what = "devices shared their secrets" if sharing else "masked vectors came"
        out = sum(1 for device in self._out if device in awaited and device not in here)
        waiting = len(awaited) - len(here) - out
        if len(here) + waiting < plan.n_min:
            return self._fail(f"{len(here)} {what} and {waiting} may come, the floor is {plan.n_min}")
        if len(here) >= min(plan.quorum, len(awaited)) and self._enough_ms is None:
            self._enough_ms = now_ms
        late = now_ms >= (self._single.shares_ms if sharing else self._single.masked_ms)
        patient = self._enough_ms is None or now_ms < self._enough_ms + plan.patience_ms
        if waiting and patient and not late:
            return None
        if len(here) < plan.n_min:
            return self._fail(f"{len(here)} {what} in time, the floor is {plan.n_min}")
        return self._name_members(here) if sharing else self._name_survivors(here, now_ms)

    def _name_members(self, here: AbstractSet[str]) -> Actions:
        self.members = frozenset(here)
        self._drawers = drawers_of(self.holders, self._ordered(here))
        self._consents = Consents(self._drawers, self._single.threshold)
        self.memory.members = bitmap_of(here, self.terms.plan.cohort)
        self._enter(S.MASKING)
        late = tuple(device for device in self.terms.plan.cohort if device not in here)
        deliveries = [self._delivery(device) for device in self._ordered(here)]
        dismissed: Actions = [Dismiss(late, "its shares did not come in time")] if late else []
        return [KeepMembers(self.memory.members), *deliveries, *dismissed]

    def _name_survivors(self, here: AbstractSet[str], now_ms: int) -> Actions:
        cohort = self.terms.plan.cohort
        self.alive, self.dead = self._ordered(here), self._ordered(self.members - here)
        split = self.memory.split = Split(bitmap_of(self.alive, cohort), bitmap_of(self.dead, cohort))
        self._enter(S.CONSENTING, now_ms)
        dismissed: Actions = (
            [Dismiss(self.dead, "its masked vector did not come in time")] if self.dead else []
        )
        return [KeepSplit(split), NameSurvivors(self.alive, split), *dismissed]

    def _may_ask(self, now_ms: int) -> bool:
        ready = self._consents.ready
        if self._enough_ms is None:
            if not self._opens(ready):
                return False
            self._enough_ms = now_ms
        complete = len(ready) == len(self.alive)
        return complete or now_ms >= self._enough_ms + self.terms.plan.patience_ms

    def _ask(self, now_ms: int) -> Actions:
        self.memory.asked = True
        self._enter(S.OPENING, now_ms)
        return [KeepAsked(), *(self._asking(device) for device in self._ordered(self.memory.consents))]

    def _opens(self, given: Mapping[str, Answer | None]) -> bool:
        """Return whether every secret can be had from these devices; None stands for all they hold."""

        def count(device: str) -> int:
            holders = (holder for holder in self.holders[device] if holder in given)
            return sum(1 for holder in holders if (one := given[holder]) is None or device in one.shares)

        threshold = self._single.threshold
        # The dead first: until most have answered, one of them is enough to say no.
        return all(count(device) >= threshold for device in self.dead) and all(
            device in given or count(device) >= threshold for device in self.alive
        )

    def _say_again(self, now_ms: int) -> Actions:
        """Say the latest word again to everybody who has not answered it."""
        if self.state is S.MASKING:
            return [self._delivery(device) for device in self._ordered(self.members - self.vectors)]
        if self.state not in {S.CONSENTING, S.OPENING}:
            return []
        self._resend_ms = now_ms + self.terms.resend_ms
        silent = self._ordered(set(self.alive) - set(self.memory.consents))
        named: Actions = [NameSurvivors(silent, self._split())] if silent else []
        unheard = (
            self._ordered(set(self.memory.consents) - set(self.memory.answers))
            if self.state is S.OPENING
            else ()
        )
        return [*named, *(self._asking(device) for device in unheard)]

    def _fail(self, reason: str) -> Actions:
        self._enter(S.FAILED)
        return [GiveUp(reason, self.memory.asked)]

    # --- small parts ----------------------------------------------------------------------------

    def _enter(self, state: ServerState, now_ms: int | None = None) -> None:
        self.state = state
        self._enough_ms = None
        self._resend_ms = None if now_ms is None else now_ms + self.terms.resend_ms

    def _delivery(self, device: str) -> Deliver:
        draws, boxes = {}, {}
        for sender, place in self._drawers[device]:
            shares = self.memory.shares[sender]
            draws[sender], boxes[sender] = shares.draw, shares.boxes[place]
        return Deliver(device, self.memory.members, draws, boxes)

    def _asking(self, device: str) -> AskOpening:
        shown = {
            name: self.memory.consents[name] for name in self.holders[device] if name in self.memory.consents
        }
        return AskOpening(device, self._split(), shown)

    def _drawn(self, device: str, shares: PublishedShares) -> tuple[str, ...]:
        prekey = self.terms.prekeys[self._places[device]]
        return drawn_by(device, shares.draw, prekey, self.terms.plan, self.terms.plan_hash)

    def _ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        chosen = frozenset(names)
        return tuple(name for name in self.terms.plan.cohort if name in chosen)

    def _split(self) -> Split:
        if self.memory.split is None:
            raise AssertionError("this state follows the naming of survivors")
        return self.memory.split

    @property
    def _single(self) -> SinglePlan:
        if self.terms.plan.single is None:
            raise OutsideCohortError("a plan of another mode: this machine serves mode 'single'")
        return self.terms.plan.single
