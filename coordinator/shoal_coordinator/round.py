"""One round as the coordinator decides it: a transition table, events and a clock in, actions out.

Hubs mode: IDLE -> REVEALING -> PROPOSING -> COLLECTING -> SUMMING -> AGGREGATING -> EVALUATING ->
COMMITTED. In REVEALING the hubs show the nonces they promised; the plan is a draft until then. In mode
``plain`` there is nothing to reveal, to propose or to sum; in mode ``single`` the phases between two events
are a machine of their own (``shoal_codecs.secagg.single.server``). A plan that was published is never simply
dropped: in WITHDRAWING every hub first says that it never will release its sum, for only then may the same
base be planned again (secret sharing, step 11 of mode ``hubs``). A hub that had already agreed brings the
round back to SUMMING instead, however late its word arrives.
"""

from collections.abc import Callable, Mapping
from typing import Any

from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.plan import MORE_TIME, HubOffer, decode_plan
from shoal_coordinator.round_errors import (
    ConflictingAgreementError,
    StrangerToRoundError,
    UnexpectedRoundEventError,
)
from shoal_coordinator.round_steps import (
    FINAL,
    Abort,
    Aggregate,
    Aggregated,
    AggregationFailed,
    AskEvaluation,
    AskReveal,
    Commit,
    DeviceBack,
    DeviceEvaluated,
    DeviceGone,
    DeviceReplied,
    DeviceShows,
    Evaluation,
    GivenUp,
    HubAbandoned,
    HubAgreed,
    HubRefused,
    HubRevealed,
    HubSigned,
    HubSummed,
    Invite,
    LateStored,
    MasksOpened,
    Persist,
    ProposePlan,
    PublishPlan,
    ReportStored,
    RoundAction,
    RoundEvent,
    RoundFacts,
    RoundSnapshot,
    RoundState,
    RoundTimings,
    Tick,
    Withdraw,
)
from shoal_coordinator.round_table import TRANSITIONS

Actions = list[RoundAction]
Judge = Callable[[Mapping[str, Evaluation]], str]
_UNPUBLISHED = frozenset({RoundState.REVEALING, RoundState.PROPOSING})


def _content(_evaluations: Mapping[str, Evaluation]) -> str:
    return ""


class RoundMachine:
    """The decisions of one round; ``state`` and ``facts`` are for reading only."""

    def __init__(
        self,
        plan: bytes,
        timings: RoundTimings,
        snapshot: RoundSnapshot | None = None,
        promises: tuple[HubPromise, ...] = (),
        judge: Judge = _content,
    ) -> None:
        """Start at IDLE, or with a snapshot where it was left; the first event is Begun or Restored.

        ``promises`` are of the plan's hubs, whose nonces ``plan`` lacks (mode ``hubs``). ``judge`` returns
        why a candidate that was evaluated so is not kept, or nothing.

        Raises:
            InvalidPlanError: ``plan`` is no plan.
        """
        self.timings = timings
        self._judge = judge
        self.state = RoundState.IDLE
        self.facts = RoundFacts(decode_plan(plan), plan, promises)
        self._restored_state = RoundState.IDLE
        self._deadline_ms: int | None = None
        self._resend_ms: int | None = None
        if snapshot is not None:
            self._restored_state = snapshot.state
            self.facts.signatures = dict(snapshot.signatures)
            self.facts.members = snapshot.members
            self.facts.reason = snapshot.reason
            self.facts.promises = snapshot.promises
            if snapshot.state is RoundState.EVALUATING:
                self.facts.late, self.facts.joined = set(snapshot.late), True

    @property
    def wake_ms(self) -> int | None:
        """When the next Tick is due, None for never."""
        return min((t for t in (self._deadline_ms, self._resend_ms) if t is not None), default=None)

    @property
    def finished(self) -> bool:
        """Whether nothing more can happen."""
        return self.state in FINAL

    def handle(self, event: RoundEvent, now_ms: int) -> Actions:
        """Return what is to be done, in order, because of ``event``.

        Raises:
            UnexpectedRoundEventError: the table has no such event in this state.
            StrangerToRoundError: from a device or hub that the plan does not name.
            ConflictingAgreementError: a hub agrees to what it cannot agree to.
        """
        name = TRANSITIONS[self.state].get(type(event))
        if name is None:
            raise UnexpectedRoundEventError(
                f"{type(event).__name__} has no place in a round that is {self.state}: "
                "a late or early word, dropped"
            )
        self._check_party(event)
        step: Callable[[RoundEvent, int], Actions] = getattr(self, f"_{name}")
        return step(event, now_ms)

    def _check_party(self, event: Any) -> None:
        device, hub = getattr(event, "device", None), getattr(event, "hub", None)
        if (device is not None and device not in self.facts.plan.cohort) or (
            hub is not None and hub not in self.facts.hubs
        ):
            raise StrangerToRoundError(
                f"{device or hub!r} is not in the plan of round {self.facts.plan.round}: dropped, it will be "
                "invited to another"
            )

    # --- beginning and going on -----------------------------------------------------------------

    def _begin(self, _event: Any, now_ms: int) -> Actions:
        if self.facts.hubs:
            self._enter(RoundState.REVEALING, now_ms + self.timings.sign_ms, now_ms)
            return [Persist(self._snapshot()), AskReveal(self.facts.hubs)]
        return self._publish(now_ms)

    def _restore(self, _event: Any, now_ms: int) -> Actions:
        facts = self.facts
        match self._restored_state:
            case RoundState.REVEALING:
                # What was shown before is shown again: a hub answers the same question alike.
                self._enter(RoundState.REVEALING, now_ms + self.timings.sign_ms, now_ms)
                return [AskReveal(self._unrevealed())]
            case RoundState.PROPOSING:
                self._enter(RoundState.PROPOSING, now_ms + self.timings.sign_ms, now_ms)
                return [ProposePlan(self._unsigned())]
            case RoundState.COLLECTING | RoundState.SUMMING | RoundState.AGGREGATING:
                # Hubs repeat agreement and sum until they hear of the end, so nothing else was kept.
                self._enter(RoundState.COLLECTING, self._collecting_until(), now_ms)
                return [PublishPlan(dict(facts.signatures)), Invite(facts.plan.cohort)]
            case RoundState.EVALUATING:
                self._enter(RoundState.EVALUATING, now_ms + self.timings.evaluate_ms, now_ms)
                return [AskEvaluation(facts.members)]
            case RoundState.WITHDRAWING:
                return self._withdraw(facts.reason, now_ms)
            case _:
                return self._abort("restarted before the plan was proposed")

    def _revealed(self, event: HubRevealed, now_ms: int) -> Actions:
        facts = self.facts
        key = next(promise.key for promise in facts.promises if promise.hub == event.hub)
        facts.revealed[event.hub] = HubOffer(event.hub, key, event.nonce, event.challenge)
        if self._unrevealed():
            return []
        facts.finish_plan()
        self._enter(RoundState.PROPOSING, now_ms + self.timings.sign_ms, now_ms)
        return [Persist(self._snapshot()), ProposePlan(facts.hubs)]

    def _signed(self, event: HubSigned, now_ms: int) -> Actions:
        self.facts.signatures[event.hub] = event.signature
        return [] if self._unsigned() else self._publish(now_ms)

    def _publish(self, now_ms: int) -> Actions:
        self._enter(RoundState.COLLECTING, self._collecting_until(), now_ms)
        facts = self.facts
        return [
            Persist(self._snapshot()),
            PublishPlan(dict(facts.signatures)),
            Invite(facts.plan.cohort),
        ]

    def _refused(self, event: HubRefused, _now_ms: int) -> Actions:
        self.facts.refused = True
        # Nobody but hubs has seen this plan, so no report of it exists and none has to let go first.
        return self._abort(f"{event.hub} refused the plan: {event.reason}")

    # --- collecting -----------------------------------------------------------------------------

    def _replied(self, event: DeviceReplied, now_ms: int) -> Actions:
        facts = self.facts
        facts.replied[event.device] = event.accepted
        left = len(facts.plan.cohort) - len(facts.declined)
        if left < facts.plan.n_min:
            facts.refused = True
            why = f"only {left} of {len(facts.plan.cohort)} devices are left, the floor is {facts.plan.n_min}"
            return self._give_up(f"{why}; {event.device}: {event.reason}", now_ms)
        return self._close_if_complete()

    def _shows(self, event: DeviceShows, _now_ms: int) -> Actions:
        self.facts.showing.add(event.device)
        return []

    def _back(self, event: DeviceBack, _now_ms: int) -> Actions:
        self.facts.replied.pop(event.device, None)
        self.facts.showing.discard(event.device)
        return []

    def _reported(self, event: ReportStored, now_ms: int) -> Actions:
        facts = self.facts
        facts.reported.add(event.device)
        if len(facts.reported) == facts.plan.quorum and facts.plan.mode != "single":
            self._deadline_ms = min(facts.plan.closes_ms, now_ms + facts.plan.patience_ms)
        return self._close_if_complete()

    def _late_stored(self, event: LateStored, _now_ms: int) -> Actions:
        """Count a report to an earlier round: a version comes of the first that are there (FedBuff)."""
        facts = self.facts
        facts.late.add((event.sender, event.round))
        return self._close_reports() if self._counted() >= facts.plan.quorum else []

    def _counted(self) -> int:
        return len(self.facts.reported) + len(self.facts.late)

    def _close_if_complete(self) -> Actions:
        facts = self.facts
        if facts.late and self._counted() >= facts.plan.quorum:
            return self._close_reports()
        if facts.plan.mode == "plain" and len(facts.reported) >= facts.plan.n_min:
            waiting = set(facts.plan.cohort) - facts.reported - facts.declined
            return [] if waiting else self._close_reports()
        return []

    def _close_reports(self) -> Actions:
        facts = self.facts
        facts.members, facts.joined = tuple(sorted(facts.reported)), True
        self._enter(RoundState.AGGREGATING)
        return [Aggregate(facts.members, b"", {}, tuple(sorted(facts.late)))]

    def _collecting_due(self, _event: Tick, now_ms: int) -> Actions:
        facts = self.facts
        if self._past(self._deadline_ms, now_ms):
            if facts.plan.mode == "plain" and self._counted() >= facts.plan.n_min:
                return self._close_reports()
            why = (
                "the hubs agreed on no set of reports in time"
                if facts.hubs
                else f"{self._counted()} reports in time, the floor is {facts.plan.n_min}: {MORE_TIME}"
            )
            return self._give_up(why, now_ms)
        if self._past(self._resend_ms, now_ms):
            self._resend_ms = now_ms + self.timings.resend_ms
            heard = set(facts.replied) | facts.showing | facts.reported
            again = tuple(device for device in facts.plan.cohort if device not in heard)
            # What a heartbeat showed is true of its moment only.
            facts.showing.clear()
            return [Invite(again)] if again else []
        return []

    def _survivors_named(self, _event: Any, _now_ms: int) -> Actions:
        self._enter(RoundState.SUMMING)
        return [Persist(self._snapshot())]

    def _masks_opened(self, event: MasksOpened, _now_ms: int) -> Actions:
        self.facts.members = tuple(sorted(event.members))
        self._enter(RoundState.AGGREGATING)
        return [Aggregate(self.facts.members, b"", {})]

    # --- agreement and sums ---------------------------------------------------------------------

    def _agreed(self, event: HubAgreed, _now_ms: int) -> Actions:
        facts, plan = self.facts, self.facts.plan
        known = facts.agreements.get(event.hub)
        if known is not None and known != event:
            raise ConflictingAgreementError(
                f"{event.hub} bound itself to two sets in round {plan.round}: look at its folder and key"
            )
        members = set(event.members)
        if len(members) < plan.n_min or not members <= set(plan.cohort):
            raise ConflictingAgreementError(
                f"{event.hub} agreed to {len(members)} reports; the plan of round {plan.round} "
                f"has a floor of {plan.n_min} and its own cohort: look at that hub"
            )
        facts.agreements[event.hub] = event
        if facts.abandoned:
            return []
        # No deadline from here on: a hub that has agreed cannot let go, so its sum is waited for.
        self._enter(RoundState.SUMMING)
        return self._sum_if_complete()

    def _summed(self, event: HubSummed, _now_ms: int) -> Actions:
        self.facts.sums[event.hub] = event
        return self._sum_if_complete()

    def _sum_if_complete(self) -> Actions:
        facts = self.facts
        sets = {facts.agreements[hub].set_digest if hub in facts.agreements else b"" for hub in facts.hubs}
        sets |= {facts.sums[hub].set_digest if hub in facts.sums else b"" for hub in facts.hubs}
        if b"" in sets or len(sets) != 1:
            return []
        facts.members = tuple(sorted(facts.agreements[facts.hubs[0]].members))
        self._enter(RoundState.AGGREGATING)
        sealed = {hub: facts.sums[hub].sealed for hub in facts.hubs}
        return [Aggregate(facts.members, sets.pop(), sealed)]

    # --- candidate ------------------------------------------------------------------------------

    def _aggregated(self, _event: Aggregated, now_ms: int) -> Actions:
        if self.facts.plan.privacy is not None or not self.timings.evaluate_ms:
            # Under noise, hits and losses in clear would tell what it hides; else nobody wants them.
            return self._commit()
        if not self.facts.members:
            # Of late reports alone: only who has reported to this round scores what came of it.
            return self._commit()
        self._enter(RoundState.EVALUATING, now_ms + self.timings.evaluate_ms, now_ms)
        return [Persist(self._snapshot()), AskEvaluation(self.facts.members)]

    def _aggregation_failed(self, event: AggregationFailed, _now_ms: int) -> Actions:
        return self._abort(f"no version came of the round: {event.reason}")

    def _evaluated(self, event: DeviceEvaluated, now_ms: int) -> Actions:
        facts = self.facts
        facts.evaluations[event.device] = event.evaluation
        enough = self.timings.evaluate_share * len(facts.members)
        if len(facts.evaluations) >= enough and self._deadline_ms is not None:
            self._deadline_ms = min(self._deadline_ms, now_ms + self.timings.evaluate_patience_ms)
        return self._commit_if_complete()

    def _gone(self, event: DeviceGone, _now_ms: int) -> Actions:
        self.facts.gone.add(event.device)
        return self._commit_if_complete()

    def _commit_if_complete(self) -> Actions:
        return [] if self._unevaluated() else self._commit()

    def _commit(self) -> Actions:
        facts = self.facts
        fault = self._judge(facts.evaluations)
        if fault and not facts.plan.shared:
            return self._abort(f"unstable: {fault}")
        self._enter(RoundState.COMMITTED)
        members = tuple(sorted({*facts.members, *(device for device, _ in facts.late)}))
        # What was evaluated is the candidate: where it goes, the version has no score.
        return [Commit(members, {} if fault else dict(facts.evaluations), fault)]

    def _evaluating_due(self, _event: Tick, now_ms: int) -> Actions:
        if self._past(self._deadline_ms, now_ms):
            return self._commit()
        if self._past(self._resend_ms, now_ms):
            self._resend_ms = now_ms + self.timings.resend_ms
            return [AskEvaluation(self._unevaluated())]
        return []

    # --- giving up ------------------------------------------------------------------------------

    def _revealing_due(self, _event: Tick, now_ms: int) -> Actions:
        if self._past(self._deadline_ms, now_ms):
            return self._abort(f"{', '.join(self._unrevealed())} did not show a nonce in time")
        if self._past(self._resend_ms, now_ms):
            self._resend_ms = now_ms + self.timings.resend_ms
            return [AskReveal(self._unrevealed())]
        return []

    def _proposing_due(self, _event: Tick, now_ms: int) -> Actions:
        if self._past(self._deadline_ms, now_ms):
            silent = ", ".join(self._unsigned())
            return self._abort(f"{silent} did not sign the plan in time")
        if self._past(self._resend_ms, now_ms):
            self._resend_ms = now_ms + self.timings.resend_ms
            return [ProposePlan(self._unsigned())]
        return []

    def _hub_abandoned(self, event: HubAbandoned, now_ms: int) -> Actions:
        self.facts.abandoned.add(event.hub)
        return self._give_up(f"{event.hub} abandoned it: {event.reason}", now_ms)

    def _hub_let_go(self, event: HubAbandoned, _now_ms: int) -> Actions:
        self.facts.abandoned.add(event.hub)
        return [] if self._holding() else self._abort(self.facts.reason)

    def _given_up(self, event: GivenUp, now_ms: int) -> Actions:
        return self._give_up(event.reason, now_ms)

    def _give_up(self, reason: str, now_ms: int) -> Actions:
        if not self.facts.hubs or not self._holding() or self.state in _UNPUBLISHED:
            return self._abort(reason)
        return self._withdraw(reason, now_ms)

    def _withdraw(self, reason: str, now_ms: int) -> Actions:
        self.facts.reason = reason
        self._enter(RoundState.WITHDRAWING, now_ms + self.timings.let_go_ms, now_ms)
        return [Persist(self._snapshot()), Withdraw(self._holding(), reason)]

    def _withdrawing_due(self, _event: Tick, now_ms: int) -> Actions:
        if self._past(self._deadline_ms, now_ms):
            return self._abort(self.facts.reason)
        if self._past(self._resend_ms, now_ms):
            self._resend_ms = now_ms + self.timings.resend_ms
            return [Withdraw(self._holding(), self.facts.reason)]
        return []

    def _abort(self, reason: str) -> Actions:
        self.facts.reason = reason
        self._enter(RoundState.ABORTED)
        return [Abort(reason, self.facts.plan.cohort, self.facts.refused)]

    def _ignore(self, _event: Any, _now_ms: int) -> Actions:
        """Do nothing: a repeated or late word that honest parties do send."""
        return []

    # --- small parts ----------------------------------------------------------------------------

    def _enter(self, state: RoundState, deadline_ms: int | None = None, now_ms: int | None = None) -> None:
        self.state = state
        self._deadline_ms = deadline_ms
        self._resend_ms = None if now_ms is None else now_ms + self.timings.resend_ms

    def _collecting_until(self) -> int:
        linger = 0 if self.facts.plan.mode == "plain" else self.timings.linger_ms
        return self.facts.plan.closes_ms + linger

    def _snapshot(self) -> RoundSnapshot:
        return self.facts.snapshot(self.state)

    def _unrevealed(self) -> tuple[str, ...]:
        return tuple(hub for hub in self.facts.hubs if hub not in self.facts.revealed)

    def _unsigned(self) -> tuple[str, ...]:
        return tuple(hub for hub in self.facts.hubs if hub not in self.facts.signatures)

    def _holding(self) -> tuple[str, ...]:
        return tuple(hub for hub in self.facts.hubs if hub not in self.facts.abandoned)

    def _unevaluated(self) -> tuple[str, ...]:
        done: set[str] = set(self.facts.evaluations) | self.facts.gone
        return tuple(device for device in self.facts.members if device not in done)

    @staticmethod
    def _past(moment_ms: int | None, now_ms: int) -> bool:
        return moment_ms is not None and now_ms >= moment_ms
