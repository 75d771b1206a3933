"""A device's part in a round as one explicit transition table: events in, actions out, no I/O.

The service performs the actions in order. An event of a round the device is not in any more is late, not
wrong: it changes nothing. An event the table does not list for its phase is a defect and raises.
"""

from collections.abc import Callable
from typing import ClassVar

from shoal_edge.errors import UnexpectedEventError
from shoal_edge.round_events import (
    Actions,
    Cancelled,
    Deadline,
    EvaluateAsked,
    EvaluateModel,
    Event,
    Failed,
    FetchModel,
    ForgetRound,
    Invited,
    Job,
    MembersKnown,
    ModelReady,
    PersistJob,
    PersistReport,
    Phase,
    PlanArrived,
    ReceiptArrived,
    ReceiptTaken,
    Restored,
    SayReply,
    SealedReport,
    SendReport,
    ShareSecrets,
    StartFit,
    StopWork,
    SubscribePlan,
    TakeBundle,
    Trained,
    UnsubscribePlan,
)

_REPORTED = frozenset({Phase.REPORTING, Phase.OPENING})


class Participant:
    """The machine; ``phase`` and ``job`` are what heartbeats and the service read."""

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self.job: Job | None = None
        self.report: SealedReport | None = None
        self.awaited: frozenset[str] = frozenset()

    def handle(self, event: Event) -> Actions:
        """Return what is to be done about ``event``, in order.

        Raises:
            UnexpectedEventError: the table lists no such event for this phase.
        """
        if self.is_late(event):
            return []
        try:
            transition = self._table[self.phase, type(event)]
        except KeyError:
            raise UnexpectedEventError(
                f"{type(event).__name__} cannot happen while {self.phase}: report this as a defect"
            ) from None
        return transition(self, event)

    def is_late(self, event: Event) -> bool:
        """Return whether ``event`` is of a round this device is not in, or not any more."""
        if isinstance(event, Invited | EvaluateAsked | Restored):
            return False
        return self.job is None or event.plan_hash != self.job.plan_hash

    # Every transition below takes the event its table row names.

    def _begin(self, event: Invited) -> Actions:
        job = Job(event.invitation)
        if event.answered:
            # Its report is with the hubs: to say no now would take the device out of the round.
            return [SayReply(job, accepted=True)]
        self.phase, self.job = Phase.CHECKING, job
        return [SubscribePlan(job)]

    def _invited_again(self, event: Invited) -> Actions:
        """Answer the same invitation again; a later round replaces the present one, an older is late."""
        job = self._present()
        if event.invitation.plan_hash == job.plan_hash:
            if self.phase is Phase.CHECKING:
                return [SubscribePlan(job)]
            return [SayReply(job, accepted=True)]
        if event.invitation.round <= job.round:
            return []
        # There is one round at a time: with a later one the coordinator has finished the present.
        return [*self._unsent(), *self._leave(), *self._begin(event)]

    def _accept(self, event: PlanArrived) -> Actions:
        job = self._present()
        self.job = job = Job(job.invitation, event.plan, event.plan_bytes)
        taken: Actions = [TakeBundle(job, event.prekeys)] if job.single else []
        return [
            UnsubscribePlan(job.round),
            *taken,
            PersistJob(job),
            SayReply(job, accepted=True),
            *self._set_out(job),
        ]

    def _set_out(self, job: Job) -> Actions:
        """Begin the work: in mode ``single``, secrets are shared before anybody trains."""
        self.phase = Phase.SHARING if job.single else Phase.FETCHING
        return [ShareSecrets(job)] if job.single else [FetchModel(job)]

    def _members_known(self, _event: MembersKnown) -> Actions:
        self.phase = Phase.FETCHING
        return [FetchModel(self._present())]

    def _members_again(self, _event: MembersKnown) -> Actions:
        """Ignore it: a restarted device looks at what it kept, and its report may be made already."""
        return []

    def _train(self, _event: ModelReady) -> Actions:
        self.phase = Phase.TRAINING
        return [StartFit(self._present())]

    def _trained(self, event: Trained) -> Actions:
        return [PersistReport(self._present(), event.report), *self._send(event.report)]

    def _send(self, report: SealedReport) -> Actions:
        self.phase, self.report, self.awaited = Phase.REPORTING, report, frozenset(report.parts)
        return [SendReport(self._present(), report, self.awaited)]

    def _receipt(self, event: ReceiptArrived) -> Actions:
        if self.report is None or event.report_id != self.report.report_id or event.hub not in self.awaited:
            return []
        self.awaited -= {event.hub}
        taken: Actions = [ReceiptTaken(event.hub)]
        if self.awaited:
            return taken
        if self._present().single:
            # The masks are still to be opened: with the others' help, and others' with this device's.
            self.phase = Phase.OPENING
            return taken
        return [*taken, *self._leave()]

    def _early_receipt(self, _event: ReceiptArrived) -> Actions:
        """Ignore it: the report it names was made before a restart that lost it."""
        return []

    def _plan_again(self, _event: PlanArrived) -> Actions:
        """Ignore it: a retained plan comes once for each time it was asked for or refilled."""
        return []

    def _over(self, _event: Cancelled) -> Actions:
        return [*self._unsent(), *self._leave()]

    def _too_late(self, _event: Deadline) -> Actions:
        if self.phase in _REPORTED:
            return self._leave()
        what = "the plan did not come in time" if self.phase is Phase.CHECKING else "not finished in time"
        return self._give_up(what)

    def _failed(self, event: Failed) -> Actions:
        return self._give_up(event.reason)

    def _evaluate(self, event: EvaluateAsked) -> Actions:
        return [EvaluateModel(event.command)]

    def _evaluate_after(self, event: EvaluateAsked) -> Actions:
        """Evaluate; the model of this round or a later one says that the round's sum is taken."""
        over = event.command.round >= self._present().round
        return [*(self._leave() if over else []), EvaluateModel(event.command)]

    def _restore(self, event: Restored) -> Actions:
        self.job = event.job
        if event.report is not None:
            secrets: Actions = [ShareSecrets(self.job, reported=True)] if self.job.single else []
            return [*secrets, *self._send(event.report)]
        return [SayReply(self.job, accepted=True), *self._set_out(self.job)]

    def _present(self) -> Job:
        if self.job is None:
            raise UnexpectedEventError(f"no round while {self.phase}: report this as a defect")
        return self.job

    def _give_up(self, reason: str) -> Actions:
        return [SayReply(self._present(), accepted=False, reason=reason), *self._leave()]

    def _unsent(self) -> Actions:
        """Say that a round with noise has cost nothing here, where it ends before the report is made."""
        job, working = self._present(), self.phase in {Phase.FETCHING, Phase.TRAINING}
        if not working or job.plan is None or job.plan.privacy is None:
            return []
        return [SayReply(job, accepted=False, reason="the round was over before its report was made")]

    def _leave(self) -> Actions:
        job, phase = self._present(), self.phase
        self.phase, self.job, self.report, self.awaited = Phase.IDLE, None, None, frozenset()
        if phase is Phase.CHECKING:
            return [UnsubscribePlan(job.round)]
        stop: Actions = [] if phase in _REPORTED else [StopWork(job.plan_hash)]
        return [*stop, ForgetRound(job.plan_hash)]

    _table: ClassVar[dict[tuple[Phase, type], Callable[..., Actions]]] = {
        (Phase.IDLE, Invited): _begin,
        (Phase.IDLE, EvaluateAsked): _evaluate,
        (Phase.IDLE, Restored): _restore,
        (Phase.CHECKING, Invited): _invited_again,
        (Phase.CHECKING, PlanArrived): _accept,
        (Phase.CHECKING, Cancelled): _over,
        (Phase.CHECKING, Deadline): _too_late,
        (Phase.CHECKING, Failed): _failed,
        (Phase.CHECKING, EvaluateAsked): _evaluate,
        (Phase.SHARING, Invited): _invited_again,
        (Phase.SHARING, PlanArrived): _plan_again,
        (Phase.SHARING, MembersKnown): _members_known,
        (Phase.SHARING, ReceiptArrived): _early_receipt,
        (Phase.SHARING, Cancelled): _over,
        (Phase.SHARING, Deadline): _too_late,
        (Phase.SHARING, Failed): _failed,
        (Phase.SHARING, EvaluateAsked): _evaluate,
        (Phase.FETCHING, Invited): _invited_again,
        (Phase.FETCHING, PlanArrived): _plan_again,
        (Phase.FETCHING, MembersKnown): _members_again,
        (Phase.FETCHING, ModelReady): _train,
        (Phase.FETCHING, ReceiptArrived): _early_receipt,
        (Phase.FETCHING, Cancelled): _over,
        (Phase.FETCHING, Deadline): _too_late,
        (Phase.FETCHING, Failed): _failed,
        (Phase.FETCHING, EvaluateAsked): _evaluate,
        (Phase.TRAINING, Invited): _invited_again,
        (Phase.TRAINING, PlanArrived): _plan_again,
        (Phase.TRAINING, MembersKnown): _members_again,
        (Phase.TRAINING, Trained): _trained,
        (Phase.TRAINING, ReceiptArrived): _early_receipt,
        (Phase.TRAINING, Cancelled): _over,
        (Phase.TRAINING, Deadline): _too_late,
        (Phase.TRAINING, Failed): _failed,
        (Phase.TRAINING, EvaluateAsked): _evaluate,
        (Phase.REPORTING, Invited): _invited_again,
        (Phase.REPORTING, PlanArrived): _plan_again,
        (Phase.REPORTING, MembersKnown): _members_again,
        (Phase.REPORTING, ReceiptArrived): _receipt,
        (Phase.REPORTING, Cancelled): _over,
        (Phase.REPORTING, Deadline): _too_late,
        (Phase.REPORTING, Failed): _failed,
        (Phase.REPORTING, EvaluateAsked): _evaluate_after,
        (Phase.OPENING, Invited): _invited_again,
        (Phase.OPENING, PlanArrived): _plan_again,
        (Phase.OPENING, MembersKnown): _members_again,
        (Phase.OPENING, ReceiptArrived): _early_receipt,
        (Phase.OPENING, Cancelled): _over,
        (Phase.OPENING, Deadline): _too_late,
        (Phase.OPENING, Failed): _failed,
        (Phase.OPENING, EvaluateAsked): _evaluate_after,
    }

    @classmethod
    def expected(cls, phase: Phase) -> frozenset[type]:
        """Return the kinds of event that the table lists for ``phase``."""
        return frozenset(kind for at, kind in cls._table if at is phase)
