"""One hub in one round of mode ``hubs``: a pure machine, events in, actions out, the clock passed in.

``TRANSITIONS`` says for every state which events it knows and where each may lead; an unlisted event is an
error and changes nothing. Three promises are kept on every path, also over restarts: no sum is released over
fewer reports than the floor; a hub binds itself to one set at most, or to none once it has abandoned; and it
releases its sum only after every hub has agreed to that very set, or abandons, never both. So where two hubs
are bound to different sets no honest one ever releases, and any hub that has released nothing may abandon.
"""

from collections.abc import Mapping

from shoal_codecs.secagg.agreement import common_reports, set_digest
from shoal_codecs.secagg.hub_errors import (
    PeerContradictionError,
    SecondReportError,
    UninvitedReportError,
    UnknownPeerError,
    UnlistedEventError,
)
from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.secagg.hub_messages import (
    Aborted,
    Action,
    Committed,
    ComputeSum,
    DestroyKey,
    Event,
    LogAgreement,
    LogClosed,
    LogEnding,
    LogSettled,
    LogSum,
    NormsJudged,
    PeerAbandoned,
    PeerAgreement,
    PeerChallenge,
    PeerProjections,
    PeerSet,
    Projected,
    PublishAbandoned,
    PublishAgreement,
    PublishSet,
    PublishSigned,
    PublishSum,
    Reminded,
    ReportStored,
    RoundMemory,
    RoundTerms,
    State,
    SumSealed,
    Tick,
)
from shoal_codecs.secagg.hub_table import TRANSITIONS
from shoal_codecs.secagg.norm_check import NormCheck
from shoal_codecs.wire.plan import MORE_TIME, Plan

_SLOW = 10
S = State
FINISHED = frozenset({S.COMMITTED, S.SPENT, S.ABANDONED})
_SURE = frozenset({S.SUMMING, S.SUMMED, S.COMMITTED, S.SPENT})
"""Every peer has agreed to this hub's set."""
_PATIENT = frozenset({S.CHALLENGED, S.CHECKING, S.AGREED})
_REPEATING = frozenset({S.CLOSED, S.CHALLENGED, S.CHECKING, S.AGREED, S.SUMMING, S.SUMMED, S.ABANDONED})


def terms_of(plan: Plan, hub: str, floors: HubFloors) -> RoundTerms:
    """Return what ``hub`` goes by in the round of ``plan``."""
    return RoundTerms(
        peers=frozenset(one.hub for one in plan.hubs) - {hub},
        cohort=frozenset(plan.cohort),
        floor=max(plan.n_min, floors.least_reports(len(plan.cohort))),
        quorum=plan.quorum,
        patience_ms=plan.patience_ms,
        closes_ms=plan.closes_ms,
        linger_ms=int(floors.linger_s * 1000),
        silence_ms=int(floors.silence_s * 1000),
        checked=plan.norm_check > 0,
    )


class HubRound:
    """The machine: ``handle`` an event, carry out the actions in their order, each before the next.

    A machine made with the ``memory`` of its log stands where the log ends; ``Reminded`` then says the
    latest word again. A hub that could not make a ``Log`` action durable must go no further with it.
    """

    def __init__(self, terms: RoundTerms, memory: RoundMemory | None = None) -> None:
        memory = memory or RoundMemory()
        self.terms = terms
        self.reports = {device: name for device, name, _ in memory.reports}
        self._agreement = memory.agreement
        self._check = NormCheck(memory.challenged, memory.secrets)
        self._sealed = memory.sealed
        self._reason = memory.reason
        self._settled = memory.settled
        self.state = _restored_state(memory)
        self._peer_sets: dict[str, Mapping[str, bytes]] = {}
        self._peer_agreements: dict[str, tuple[bytes, tuple[str, ...]]] = {}
        self._gave_up = False
        self._now_ms = 0
        self._repeat_ms: int | None = None
        self._hush_ms = terms.resend_ms // 2
        self._hush_until_ms = 0
        times = sorted(at for _, _, at in memory.reports)
        self._silent_since_ms: int | None = None
        self._quorum_ms = times[terms.quorum - 1] if len(times) >= terms.quorum else None

    @property
    def finished(self) -> bool:
        """Whether the round has ended at this hub."""
        return self.state in FINISHED

    @property
    def idle(self) -> bool:
        """Whether time changes nothing any more."""
        return self.finished and (self.state is not S.ABANDONED or self._settled)

    def handle(self, event: Event) -> tuple[Action, ...]:
        """Return what to do now that ``event`` happened.

        Raises:
            UnlistedEventError: it cannot happen in this state.
            UnknownPeerError: a word from a hub outside the plan.
            PeerContradictionError: a peer's second, different word, or its agreement to another set.
            UninvitedReportError: a report from outside the cohort.
            SecondReportError: another report of a device that has one.
        """
        allowed = TRANSITIONS[self.state].get(type(event))
        if allowed is None:
            raise UnlistedEventError(
                f"{type(event).__name__} cannot happen in state {self.state.value!r}: check that its sender "
                "and this hub were not put back to older folders"
            )
        before = self.state
        actions = self._apply(event)
        while (more := self._move()) is not None:
            actions += more
        if self.state is not before:
            self._repeat_ms = self._silent_since_ms = None
        if self.state not in allowed:
            raise AssertionError(f"{before} --{type(event).__name__}--> {self.state} is not in the table")
        return tuple(actions)

    def _apply(self, event: Event) -> list[Action]:
        match event:
            case ReportStored():
                return self._take_report(event)
            case Tick(now_ms):
                self._now_ms = max(self._now_ms, now_ms)
                if self.state in _PATIENT and self._silent_since_ms is None:
                    # A hub that was away itself gives its peers their time anew.
                    self._silent_since_ms = max(self._now_ms, self.terms.closes_ms)
                return self._repeat()
            case PeerSet() | PeerAgreement() | PeerAbandoned() | PeerChallenge() | PeerProjections():
                return self._hear_peer(event)
            case Projected() | NormsJudged():
                return self._take_result(event)
            case SumSealed(sealed):
                return self._release(sealed)
            case Committed():
                return [] if self.state is S.COMMITTED else self._end(S.COMMITTED)
            case Aborted(reason, at_ms):
                return self._hear_aborted(reason, at_ms)
            case Reminded():
                return self._latest_word()

    # --- what each event does -------------------------------------------------------------------

    def _take_report(self, event: ReportStored) -> list[Action]:
        if event.device not in self.terms.cohort:
            raise UninvitedReportError(f"{event.device!r} is not in the cohort: only invited devices report")
        if self.reports.get(event.device, event.report_id) != event.report_id:
            raise SecondReportError(f"{event.device!r} has reported already: the first report stands")
        self.reports[event.device] = event.report_id
        self._now_ms = max(self._now_ms, event.at_ms)
        if len(self.reports) >= self.terms.quorum and self._quorum_ms is None:
            self._quorum_ms = event.at_ms
        return []

    def _hear_peer(
        self, event: PeerSet | PeerAgreement | PeerAbandoned | PeerChallenge | PeerProjections
    ) -> list[Action]:
        if event.hub not in self.terms.peers:
            raise UnknownPeerError(f"{event.hub!r} is no peer of this hub: only hubs in the plan have a say")
        match event:
            case PeerSet():
                return self._hear_set(event)
            case PeerAgreement():
                return self._hear_agreement(event)
            case PeerChallenge() | PeerProjections():
                self._check.hear(event)
                return []
            case PeerAbandoned(hub):
                return [] if self.finished else self._abandon(f"{hub} has abandoned the round")

    def _take_result(self, event: Projected | NormsJudged) -> list[Action]:
        if self.finished:
            return []
        match event:
            case Projected(data):
                return self._check.projected(data)
            case NormsJudged(members):
                return self._agree(members)

    def _hear_set(self, event: PeerSet) -> list[Action]:
        if self._peer_sets.get(event.hub, event.reports) != event.reports:
            raise PeerContradictionError(
                f"{event.hub} now says it closed with other reports: its first word stands"
            )
        self._peer_sets[event.hub] = dict(event.reports)
        # A peer that still shows its set has not heard that it is over.
        return [PublishAbandoned(self._reason)] if self.state is S.ABANDONED else []

    def _hear_agreement(self, event: PeerAgreement) -> list[Action]:
        said = (event.digest, event.members)
        if self.state is S.ABANDONED:
            return []
        if self._peer_agreements.get(event.hub, said) != said:
            raise PeerContradictionError(f"{event.hub} agrees to a second set: its first word stands")
        if self.state in _SURE and said != self._agreement:
            raise PeerContradictionError(
                f"{event.hub} agrees to another set than it did before: its first word stands"
            )
        self._peer_agreements[event.hub] = said
        # A peer that still shows its agreement may lack this hub's, which no clock repeats any more.
        if self.state is S.SPENT and self._may_answer(event.at_ms):
            return [PublishAgreement(*self._bound())]
        return []

    def _hear_aborted(self, reason: str, at_ms: int) -> list[Action]:
        # The coordinator repeats itself until it has heard either the abandonment or the sum.
        match self.state:
            case S.SIGNED | S.CLOSED | S.CHALLENGED | S.CHECKING:
                self._may_answer(at_ms)
                return [*self._abandon(f"the coordinator gave up: {reason}"), *self._settle()]
            case S.ABANDONED:
                again: list[Action] = [PublishAbandoned(self._reason)] if self._may_answer(at_ms) else []
                return [*again, *self._settle()]
            case S.SUMMED:
                self._may_answer(at_ms)
                return [*self._end(S.SPENT), *self._released_words()]
            case S.SPENT:
                return self._released_words() if self._may_answer(at_ms) else []
            case _:
                self._gave_up = True
                return []

    def _may_answer(self, at_ms: int) -> bool:
        """Return whether to answer now a word about a round that is over; more seldom each time.

        The answer is itself a word about a round that is over: two parties that always answered would
        never end.
        """
        if at_ms < self._hush_until_ms:
            return False
        self._hush_ms *= 2
        self._hush_until_ms = at_ms + self._hush_ms
        return True

    def _release(self, sealed: bytes) -> list[Action]:
        self._sealed = sealed
        self.state = S.SUMMED
        return [LogSum(sealed), PublishSum(self._bound()[0], sealed)]

    def _repeat(self) -> list[Action]:
        """Say the latest word again when it is due; seldom once the round should long be over."""
        if self.state not in _REPEATING or self._settled:
            return []
        if self._repeat_ms is not None and self._now_ms < self._repeat_ms:
            return []
        first = self._repeat_ms is None
        late = self._now_ms >= self.terms.closes_ms + self.terms.linger_ms
        self._repeat_ms = self._now_ms + self.terms.resend_ms * (_SLOW if late else 1)
        return [] if first else self._latest_word()

    def _latest_word(self) -> list[Action]:
        match self.state:
            case S.SIGNED:
                return [PublishSigned()]
            case S.CLOSED:
                return [PublishSet(dict(self.reports))]
            case S.CHALLENGED | S.CHECKING:
                return [PublishSet(dict(self.reports)), *self._check.latest_words()]
            case S.AGREED | S.SUMMING:
                checked = self._check.latest_words()
                return [PublishSet(dict(self.reports)), *checked, PublishAgreement(*self._bound())]
            case S.SUMMED:
                return self._released_words()
            case S.SPENT:
                return [DestroyKey(), *self._released_words()]
            case S.ABANDONED:
                return [DestroyKey(), PublishAbandoned(self._reason)]
            case _:
                return [DestroyKey(), PublishAgreement(*self._bound())]

    def _released_words(self) -> list[Action]:
        digest, members = self._bound()
        return [PublishAgreement(digest, members), PublishSum(digest, self._sealed or b"")]

    # --- moves that follow from what is known ---------------------------------------------------

    def _move(self) -> list[Action] | None:
        """Go one state on, if what is known calls for it."""
        match self.state:
            case S.SIGNED if self._should_close():
                return self._close()
            case S.CLOSED if self._peer_sets.keys() == self.terms.peers:
                return self._challenge() if self.terms.checked else self._agree()
            case S.CLOSED if self._now_ms >= self.terms.closes_ms + self.terms.linger_ms:
                silent = sorted(self.terms.peers - self._peer_sets.keys())
                return self._abandon(f"no set of reports came from {', '.join(silent)}")
            case S.CHALLENGED | S.CHECKING:
                return self._move_in_check()
            case S.AGREED:
                return self._move_bound()
            case S.SUMMED if self._gave_up:
                return self._end(S.SPENT)
            case _:
                return None

    def _move_in_check(self) -> list[Action] | None:
        if self.state is S.CHALLENGED and (others := self._check.parted()):
            return self._abandon(_parting(others))
        if self.state is S.CHALLENGED and self._check.secrets_of(self.terms.peers):
            self.state = S.CHECKING
            return self._check.begin()
        if self._waited_in_vain():
            return self._abandon("the norm check did not come to an end in time")
        judging = self._check.judge(self.terms.peers) if self.state is S.CHECKING else None
        return None if judging is None else [judging]

    def _move_bound(self) -> list[Action] | None:
        if others := self._parted(self._bound()):
            # Nothing is released yet, and without this hub's sum the others' are noise.
            return self._abandon(_parting(others))
        if self._all_agree():
            self.state = S.SUMMING
            return [ComputeSum(*self._bound())]
        if self._waited_in_vain():
            silent = sorted(self.terms.peers - self._peer_agreements.keys())
            return self._abandon(f"{', '.join(silent)} agreed to no set of reports in time")
        return None

    def _should_close(self) -> bool:
        if len(self.reports) == len(self.terms.cohort) or self._now_ms >= self.terms.closes_ms:
            return True
        return self._quorum_ms is not None and self._now_ms >= self._quorum_ms + self.terms.patience_ms

    def _close(self) -> list[Action]:
        if len(self.reports) < self.terms.floor:
            words = f"{len(self.reports)} reports came in time, the floor is {self.terms.floor}"
            return self._abandon(f"{words}: {MORE_TIME}")
        self.state = S.CLOSED
        own = dict(self.reports)
        return [LogClosed(own), PublishSet(own)]

    def _challenge(self) -> list[Action]:
        common = common_reports(self.reports, self._peer_sets.values())
        if len(common) < self.terms.floor:
            return self._abandon(f"{len(common)} reports reached every hub, the floor is {self.terms.floor}")
        self.state = S.CHALLENGED
        return self._check.challenge(set_digest(common), tuple(common))

    def _agree(self, short_enough: tuple[str, ...] | None = None) -> list[Action]:
        """Bind this hub to the common reports, or to those of them whose norms were found to be in order."""
        if short_enough is None:
            common = common_reports(self.reports, self._peer_sets.values())
        else:
            common = {device: self.reports[device] for device in sorted(short_enough)}
        if len(common) < self.terms.floor:
            what = "reached every hub" if short_enough is None else "are short enough"
            return self._abandon(f"{len(common)} reports {what}, the floor is {self.terms.floor}")
        agreement = set_digest(common), tuple(common)
        if others := self._parted(agreement):
            return self._abandon(_parting(others))
        self._agreement = agreement
        self.state = S.AGREED
        return [LogAgreement(*self._agreement), PublishAgreement(*self._agreement)]

    def _parted(self, agreement: tuple[bytes, tuple[str, ...]]) -> list[str]:
        """Return the peers that are bound to another set than ``agreement``."""
        return sorted(hub for hub, said in self._peer_agreements.items() if said != agreement)

    def _waited_in_vain(self) -> bool:
        since_ms = self._silent_since_ms
        return since_ms is not None and self._now_ms >= since_ms + self.terms.silence_ms

    def _all_agree(self) -> bool:
        return self._peer_agreements.keys() == self.terms.peers and all(
            said == self._agreement for said in self._peer_agreements.values()
        )

    def _abandon(self, reason: str) -> list[Action]:
        self._reason = reason
        return [*self._end(S.ABANDONED, reason), PublishAbandoned(reason)]

    def _end(self, state: State, reason: str = "") -> list[Action]:
        self.state = state
        return [LogEnding(state, reason), DestroyKey()]

    def _settle(self) -> list[Action]:
        if self._settled:
            return []
        self._settled = True
        return [LogSettled()]

    def _bound(self) -> tuple[bytes, tuple[str, ...]]:
        if self._agreement is None:
            raise AssertionError("bound states have an agreement")
        return self._agreement


def _parting(others: list[str]) -> str:
    return f"{', '.join(others)} agreed to another set of reports: nothing is released"


def _restored_state(memory: RoundMemory) -> State:
    if memory.ending is not None:
        return memory.ending
    if memory.sealed is not None:
        return S.SUMMED
    if memory.agreement is not None:
        return S.AGREED
    if memory.challenged is not None:
        return S.CHALLENGED if memory.secrets is None else S.CHECKING
    return S.CLOSED if memory.closed else S.SIGNED
