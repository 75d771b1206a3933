"""The participant's table: every transition, and that nothing else can happen."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_parts import codec_plan, evaluate_of, invitation_to, make_fleet, make_plan, offer_of
from shoal_codecs.wire.plan import Plan, PrivacyPlan, encode_plan, plan_hash
from shoal_edge.errors import UnexpectedEventError
from shoal_edge.participant import Participant
from shoal_edge.round_events import (
    Action,
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
    StartFit,
    StopWork,
    SubscribePlan,
    Trained,
    UnsubscribePlan,
)

FLEET = make_fleet()
MODEL = offer_of(b"\0" * 4 * 9610)
REPORT = SealedReport(b"r" * 32, {"hub-1": b"one", "hub-2": b"two"})


def plan_of(number: int) -> Plan:
    return make_plan(FLEET, MODEL.digest, round=number)


PLANS = {number: plan_of(number) for number in (6, 7, 8)}
HASHES = {number: plan_hash(encode_plan(plan)) for number, plan in PLANS.items()}


def invited(number: int = 7, *, answered: bool = False) -> Invited:
    return Invited(invitation_to(PLANS[number], MODEL), answered)


def job(number: int = 7) -> Job:
    return Job(invitation_to(PLANS[number], MODEL), PLANS[number], encode_plan(PLANS[number]))


def arrived(number: int = 7) -> PlanArrived:
    return PlanArrived(HASHES[number], PLANS[number], encode_plan(PLANS[number]))


def receipt(hub: str, report_id: bytes = REPORT.report_id) -> ReceiptArrived:
    return ReceiptArrived(HASHES[7], hub, report_id)


def at(phase: Phase) -> Participant:
    """A participant of round 7 that has come to ``phase`` by the usual way."""
    device = Participant()
    for event in (invited(), arrived(), ModelReady(HASHES[7]), Trained(HASHES[7], REPORT)):
        if device.phase is phase:
            break
        device.handle(event)
    assert device.phase is phase
    return device


def kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


def test_a_round_as_it_should_go() -> None:
    device = Participant()
    assert kinds(device.handle(invited())) == [SubscribePlan]
    assert device.handle(arrived()) == [
        UnsubscribePlan(7),
        PersistJob(job()),
        SayReply(job(), accepted=True),
        FetchModel(job()),
    ]
    assert device.handle(ModelReady(HASHES[7])) == [StartFit(job())]
    assert device.handle(Trained(HASHES[7], REPORT)) == [
        PersistReport(job(), REPORT),
        SendReport(job(), REPORT, frozenset({"hub-1", "hub-2"})),
    ]
    assert device.handle(receipt("hub-2")) == [ReceiptTaken("hub-2")]
    assert device.awaited == {"hub-1"}
    assert device.handle(receipt("hub-1")) == [ReceiptTaken("hub-1"), ForgetRound(HASHES[7])]
    assert device.phase is Phase.IDLE
    assert device.job is None


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TRAINING, Phase.REPORTING])
def test_a_plan_that_comes_twice_is_taken_once(phase: Phase) -> None:
    device = at(phase)
    assert device.handle(arrived()) == []
    assert device.phase is phase


def test_persisting_comes_before_sending() -> None:
    actions = at(Phase.TRAINING).handle(Trained(HASHES[7], REPORT))
    assert kinds(actions).index(PersistReport) < kinds(actions).index(SendReport)


@pytest.mark.parametrize("phase", [Phase.CHECKING, Phase.FETCHING, Phase.TRAINING])
@pytest.mark.parametrize("ending", [Deadline(HASHES[7]), Failed(HASHES[7], "the disk is full")])
def test_a_round_that_cannot_go_on_is_declined_and_left(phase: Phase, ending: Event) -> None:
    device = at(phase)
    actions = device.handle(ending)
    assert isinstance(actions[0], SayReply)
    assert not actions[0].accepted
    assert actions[0].reason
    stops = [UnsubscribePlan] if phase is Phase.CHECKING else [StopWork, ForgetRound]
    assert kinds(actions[1:]) == stops
    assert device.phase is Phase.IDLE


@pytest.mark.parametrize("phase", [Phase.CHECKING, Phase.FETCHING, Phase.TRAINING, Phase.REPORTING])
def test_a_cancelled_round_is_left_without_a_word(phase: Phase) -> None:
    device = at(phase)
    actions = device.handle(Cancelled(HASHES[7]))
    assert SayReply not in kinds(actions)
    assert device.phase is Phase.IDLE
    assert (ForgetRound in kinds(actions)) is (phase is not Phase.CHECKING)


def test_a_report_past_its_deadline_is_dropped_without_a_word() -> None:
    device = at(Phase.REPORTING)
    assert device.handle(Deadline(HASHES[7])) == [ForgetRound(HASHES[7])]


def test_a_report_that_cannot_be_kept_is_withdrawn() -> None:
    actions = at(Phase.REPORTING).handle(Failed(HASHES[7], "OutboxFullError: full"))
    assert actions == [
        SayReply(job(), accepted=False, reason="OutboxFullError: full"),
        ForgetRound(HASHES[7]),
    ]


@pytest.mark.parametrize("phase", [Phase.CHECKING, Phase.FETCHING, Phase.TRAINING, Phase.REPORTING])
def test_a_later_round_replaces_the_present_one(phase: Phase) -> None:
    device = at(phase)
    actions = device.handle(invited(8))
    assert kinds(actions)[-1] is SubscribePlan
    assert device.phase is Phase.CHECKING
    assert device.job is not None
    assert device.job.round == 8


@pytest.mark.parametrize("phase", [Phase.CHECKING, Phase.FETCHING, Phase.TRAINING, Phase.REPORTING])
def test_an_earlier_round_is_late(phase: Phase) -> None:
    device = at(phase)
    assert device.handle(invited(6)) == []
    assert device.phase is phase


@pytest.mark.parametrize("phase", [Phase.FETCHING, Phase.TRAINING, Phase.REPORTING])
def test_the_same_invitation_again_is_answered_again(phase: Phase) -> None:
    assert at(phase).handle(invited()) == [SayReply(job(), accepted=True)]


def test_the_same_invitation_asks_for_the_plan_again_while_that_is_missing() -> None:
    assert kinds(at(Phase.CHECKING).handle(invited())) == [SubscribePlan]


def test_a_round_answered_before_is_confirmed_and_not_begun() -> None:
    device = Participant()
    actions = device.handle(invited(answered=True))
    assert kinds(actions) == [SayReply]
    assert device.phase is Phase.IDLE


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.CHECKING, Phase.FETCHING, Phase.TRAINING])
def test_an_evaluation_disturbs_nothing(phase: Phase) -> None:
    device = at(phase) if phase is not Phase.IDLE else Participant()
    command = evaluate_of(7, MODEL)
    assert device.handle(EvaluateAsked(command)) == [EvaluateModel(command)]
    assert device.phase is phase


@pytest.mark.parametrize(("number", "left"), [(6, False), (7, True), (8, True)])
def test_the_round_s_own_model_says_that_its_report_was_used(number: int, *, left: bool) -> None:
    device = at(Phase.REPORTING)
    actions = device.handle(EvaluateAsked(evaluate_of(number, MODEL)))
    assert (ForgetRound(HASHES[7]) in actions) is left
    assert (device.phase is Phase.IDLE) is left


def test_a_restart_sends_a_finished_report_without_training_again() -> None:
    device = Participant()
    assert device.handle(Restored(job(), REPORT)) == [SendReport(job(), REPORT, frozenset(REPORT.parts))]
    assert device.phase is Phase.REPORTING


def test_a_restart_goes_on_with_an_accepted_round() -> None:
    device = Participant()
    assert kinds(device.handle(Restored(job(), None))) == [SayReply, FetchModel]
    assert device.phase is Phase.FETCHING


@pytest.mark.parametrize(
    "word",
    [receipt("hub-1", b"x" * 32), receipt("hub-3"), ReceiptArrived(HASHES[6], "hub-1", REPORT.report_id)],
)
def test_a_receipt_for_something_else_empties_nothing(word: ReceiptArrived) -> None:
    device = at(Phase.REPORTING)
    assert device.handle(word) == []
    assert device.awaited == {"hub-1", "hub-2"}


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.CHECKING, ModelReady(HASHES[7])),
        (Phase.CHECKING, Trained(HASHES[7], REPORT)),
        (Phase.CHECKING, receipt("hub-1")),
        (Phase.FETCHING, Trained(HASHES[7], REPORT)),
        (Phase.TRAINING, ModelReady(HASHES[7])),
        (Phase.REPORTING, Trained(HASHES[7], REPORT)),
        (Phase.REPORTING, Restored(job(), None)),
    ],
)
def test_what_the_table_does_not_list_is_a_named_error(phase: Phase, event: Event) -> None:
    device = at(phase)
    with pytest.raises(UnexpectedEventError, match=type(event).__name__):
        device.handle(event)
    assert device.phase is phase


@dataclass
class Service:
    """What the service would have on disk and in the air."""

    sending: bool = False
    persisted: set[bytes] = field(default_factory=set)
    job: bool = False
    subscribed: set[int] = field(default_factory=set)

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case SubscribePlan(job):
                    self.subscribed.add(job.round)
                case UnsubscribePlan(number):
                    self.subscribed.discard(number)
                case PersistJob():
                    self.job = True
                case PersistReport(job, _):
                    self.persisted.add(job.plan_hash)
                case SendReport(job, _, _):
                    assert job.plan_hash in self.persisted
                    self.sending = True
                case ForgetRound():
                    self.sending = self.job = False
                case _:
                    pass


def events() -> st.SearchStrategy[Event]:
    hashes = st.sampled_from(sorted(HASHES.values()))
    numbers = st.sampled_from(sorted(PLANS))
    made: list[st.SearchStrategy[Any]] = [
        st.builds(invited, numbers),
        st.builds(arrived, numbers),
        st.builds(ModelReady, hashes),
        st.builds(Trained, hashes, st.just(REPORT)),
        st.builds(ReceiptArrived, hashes, st.sampled_from(["hub-1", "hub-2"]), st.just(REPORT.report_id)),
        st.builds(Cancelled, hashes),
        st.builds(Deadline, hashes),
        st.builds(Failed, hashes, st.just("why")),
        st.builds(lambda n: EvaluateAsked(evaluate_of(n, MODEL)), numbers),
    ]
    return st.one_of(made)


@given(st.lists(events(), max_size=60))
def test_any_order_of_events_leaves_phase_job_and_disk_in_step(order: list[Event]) -> None:
    device, service = Participant(), Service()
    for event in order:
        before = (device.phase, device.job)
        try:
            service.perform(device.handle(event))
        except UnexpectedEventError:
            assert type(event) not in Participant.expected(device.phase)
            assert (device.phase, device.job) == before
            continue
        assert (device.job is None) is (device.phase is Phase.IDLE)
        assert service.sending is (device.phase is Phase.REPORTING)
        assert service.job is (device.phase in {Phase.FETCHING, Phase.TRAINING, Phase.REPORTING})
        assert service.subscribed == ({device.job.round} if device.job and device.job.plan is None else set())
        assert bool(device.awaited) is (device.phase is Phase.REPORTING)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_round_with_noise_that_ends_before_its_report_says_that_nothing_was_sent(steps: int) -> None:
    noisy = make_plan(
        FLEET,
        MODEL.digest,
        round=7,
        privacy=PrivacyPlan(mechanism="skellam", noise=1e6, corrupt=1, delta=1e-5),
        codec=codec_plan(4, ring_bits=20),
    )
    digest = plan_hash(encode_plan(noisy))
    machine = Participant()
    machine.handle(Invited(invitation_to(noisy, MODEL)))
    machine.handle(PlanArrived(digest, noisy, encode_plan(noisy)))
    for _ in range(steps):
        machine.handle(ModelReady(digest))
    first, *_ = machine.handle(Cancelled(digest))
    assert isinstance(first, SayReply)
    assert not first.accepted


def test_a_round_with_noise_that_ends_after_its_report_says_nothing() -> None:
    noisy = make_plan(
        FLEET,
        MODEL.digest,
        round=7,
        privacy=PrivacyPlan(mechanism="skellam", noise=1e6, corrupt=1, delta=1e-5),
        codec=codec_plan(4, ring_bits=20),
    )
    machine = Participant()
    machine.handle(Restored(Job(invitation_to(noisy, MODEL), noisy, encode_plan(noisy)), REPORT))
    actions = machine.handle(Cancelled(plan_hash(encode_plan(noisy))))
    assert [type(action) for action in actions] == [ForgetRound]
