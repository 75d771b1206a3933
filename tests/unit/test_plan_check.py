"""What a device refuses about a plan, each with its own error."""

import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_parts import (
    FLEET,
    NOW_MS,
    TASK,
    codec_plan,
    invitation_to,
    make_fleet,
    make_plan,
    notice_of,
    offer_of,
)
from shoal_codecs.privacy.accountant import ORDERS, gaussian_rdp
from shoal_codecs.privacy.budget import noise_for
from shoal_codecs.privacy.charge import Charge
from shoal_codecs.privacy.plan_noise import device_variance
from shoal_codecs.secagg.errors import BadCertificateError, CertificateError, MissingCertificateError
from shoal_codecs.security.sealing import OVERHEAD_BYTES
from shoal_codecs.wire.blob import describe
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.hubs import NeverReleased, never_released_bytes
from shoal_codecs.wire.messages import PlanNotice
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import (
    HubOffer,
    Plan,
    PrivacyPlan,
    TrainingPlan,
    encode_plan,
    plan_hash,
    plan_signing_bytes,
)
from shoal_edge.errors import (
    AnsweredBaseError,
    CohortFloorError,
    ModeNotAllowedError,
    NormCheckError,
    NotInCohortError,
    OfferMismatchError,
    PlanHashMismatchError,
    PlanSignatureError,
    PlanWindowError,
    PuppetCohortError,
    RosterMismatchError,
    TellsTooMuchError,
    TrustedNoiseError,
    UnpinnedHubsError,
    UnsupportedCodecError,
    UnsupportedNoiseError,
    WrongFleetError,
    WrongRoundError,
)
from shoal_edge.plan_check import (
    Answer,
    DeviceRules,
    answer_to,
    check_plan,
    hubs_digest,
    report_bytes_bound,
)

PARTIES = make_fleet()
MODEL = offer_of(b"\1" * 4 * TASK.dimension)
RULES = DeviceRules(
    device="device-01", fleet=FLEET, modes=frozenset({"hubs", "plain"}), n_min=3, slack_ms=5000
)


HUBS = hubs_digest(("hub-1", "hub-2"))


def plan_of(**changes: Any) -> Plan:
    return make_plan(PARTIES, MODEL.digest, **changes)


def judge(plan: Plan, **changes: Any) -> Plan:
    rules = changes.pop("rules", RULES)
    invitation = changes.pop("invitation", None) or invitation_to(plan, MODEL)
    notice = changes.pop("notice", None) or notice_of(PARTIES, plan)
    values: dict[str, Any] = {"roster": PARTIES.roster, "answered": None, "now_ms": NOW_MS}
    return check_plan(notice, invitation, rules=rules, **(values | changes))


@pytest.mark.parametrize("mode", ["hubs", "plain"])
def test_an_honest_plan_is_taken(mode: str) -> None:
    codec = codec_plan(4, ring_bits=0 if mode == "plain" else 10)
    plan = plan_of(mode=mode, codec=codec)
    assert judge(plan) == plan


def test_a_step_that_is_not_the_plans_source_is_refused() -> None:
    step = describe(b"encoded step")
    plan = plan_of(codec=codec_plan(4, name="global_topk", source=step.digest))
    invitation = invitation_to(plan, MODEL)
    assert judge(plan, invitation=msgspec.structs.replace(invitation, source=step)) == plan
    # A device that applied the step itself needs no offer of it.
    assert judge(plan, invitation=invitation) == plan
    for other in (
        describe(b"another step"),
        msgspec.structs.replace(step, size=1 << 20, chunk_bytes=1 << 20),
    ):
        with pytest.raises(OfferMismatchError, match="step"):
            judge(plan, invitation=msgspec.structs.replace(invitation, source=other))
    with pytest.raises(InvalidPlanError, match="takes no coordinates"):
        plan_of(codec=codec_plan(4, source=step.digest))
    with pytest.raises(InvalidPlanError, match="takes no coordinates"):
        plan_of(mode="plain", codec=codec_plan(4, name="global_topk", source=step.digest, ring_bits=0))


@pytest.mark.parametrize("tells", [("loss",), ("score",), ("steps", "loss", "score")])
def test_a_quiet_device_does_not_tell_how_models_do_on_its_data(tells: tuple[Any, ...]) -> None:
    training = TrainingPlan(1, 0.1, 8, tells=tells)
    plan = plan_of(mode="plain", codec=codec_plan(4, ring_bits=0), training=training)
    assert judge(plan) == plan
    with pytest.raises(TellsTooMuchError, match=r"privacy\.metrics"):
        judge(plan, rules=replace(RULES, quiet=True))
    harmless = msgspec.structs.replace(plan, training=TrainingPlan(1, 0.1, 8, tells=("steps",)))
    assert judge(harmless, rules=replace(RULES, quiet=True)) == harmless


def test_a_control_that_is_not_the_plan_s_is_refused() -> None:
    control = describe(b"control")
    training = TrainingPlan(1, 0.1, 8, correction=control.digest, tells=("control",))
    plan = plan_of(mode="plain", codec=codec_plan(4, ring_bits=0), training=training)
    invitation = invitation_to(plan, MODEL)
    offered = msgspec.structs.replace(invitation, correction=control)
    assert judge(plan, invitation=offered) == plan
    huge = msgspec.structs.replace(control, size=1 << 20, chunk_bytes=1 << 20)
    for other in (None, describe(b"another"), huge):
        with pytest.raises(OfferMismatchError, match="control"):
            judge(plan, invitation=msgspec.structs.replace(invitation, correction=other))
    without = plan_of(mode="plain", codec=codec_plan(4, ring_bits=0))
    with pytest.raises(OfferMismatchError, match="control"):
        judge(without, invitation=msgspec.structs.replace(invitation_to(without, MODEL), correction=control))


def test_another_plan_than_the_invitation_s() -> None:
    plan = plan_of()
    with pytest.raises(PlanHashMismatchError):
        judge(plan, notice=notice_of(PARTIES, plan_of(round=8)))


def test_an_unknown_field_is_refused() -> None:
    data = pack(msgspec.to_builtins(plan_of(), builtin_types=(bytes,)) | {"noise_seed": 7})
    names = ("coordinator", "hub-1", "hub-2")
    signatures = {name: PARTIES.identities[name].sign(plan_signing_bytes(data)) for name in names}
    notice = msgspec.structs.replace(notice_of(PARTIES, plan_of()), plan=data, signatures=signatures)
    with pytest.raises(InvalidPlanError, match="noise_seed"):
        judge(plan_of(), notice=notice, invitation=invitation_to(plan_of(), MODEL, plan_hash=plan_hash(data)))


def test_another_fleet() -> None:
    with pytest.raises(WrongFleetError):
        judge(plan_of(fleet="elsewhere"))


def test_another_round_than_the_invitation_s() -> None:
    with pytest.raises(WrongRoundError):
        judge(plan_of(), invitation=invitation_to(plan_of(), MODEL, round=8))


def test_a_mode_the_device_did_not_allow() -> None:
    plan = plan_of(mode="plain", codec=codec_plan(4, ring_bits=0))
    with pytest.raises(ModeNotAllowedError, match="hubs"):
        judge(plan, rules=replace(RULES, modes=frozenset({"hubs"})))


def test_another_roster() -> None:
    with pytest.raises(RosterMismatchError):
        judge(plan_of(roster=b"\7" * 32))


def test_hubs_that_are_not_the_pinned_ones() -> None:
    own = PARTIES.offer("hub-1")
    puppet = HubOffer("hub-9", own.key, own.nonce)
    with pytest.raises(UnpinnedHubsError, match="hub-9"):
        judge(plan_of(hubs=(own, puppet)), notice=notice_of(PARTIES, plan_of(hubs=(own, puppet)), ()))


def test_a_hub_nobody_pinned_beside_the_pinned_ones() -> None:
    own = PARTIES.offer("hub-1")
    hubs = (own, PARTIES.offer("hub-2"), HubOffer("hub-9", own.key, own.nonce))
    with pytest.raises(UnpinnedHubsError, match="hub-9"):
        judge(plan_of(hubs=hubs), notice=notice_of(PARTIES, plan_of(hubs=hubs), ()))


def test_a_hub_left_out() -> None:
    three = make_fleet(hubs=3)
    plan = make_plan(three, MODEL.digest, hubs=(three.offer("hub-1"), three.offer("hub-2")))
    with pytest.raises(UnpinnedHubsError, match="hub-3"):
        judge(plan, roster=three.roster, notice=notice_of(three, plan))


def test_in_mode_plain_the_share_goes_to_the_coordinator_only() -> None:
    plan = plan_of(mode="plain", codec=codec_plan(4, ring_bits=0), hubs=(PARTIES.offer("hub-1"),))
    with pytest.raises(UnpinnedHubsError):
        judge(plan)


@pytest.mark.parametrize("missing", ["coordinator", "hub-1", "hub-2"])
def test_a_missing_signature(missing: str) -> None:
    plan = plan_of()
    signers = tuple({"coordinator", "hub-1", "hub-2"} - {missing})
    with pytest.raises(PlanSignatureError, match=missing):
        judge(plan, notice=notice_of(PARTIES, plan, signers))


@pytest.mark.parametrize("forged", ["coordinator", "hub-1", "hub-2"])
def test_a_forged_signature(forged: str) -> None:
    notice = notice_of(PARTIES, plan_of())
    signatures = notice.signatures | {forged: PARTIES.identities["operator"].sign(b"anything")}
    with pytest.raises(PlanSignatureError, match=forged):
        judge(plan_of(), notice=msgspec.structs.replace(notice, signatures=signatures))


def test_a_signature_over_another_plan() -> None:
    plan, other = plan_of(), plan_of(n_min=4, quorum=4)
    stolen: PlanNotice = msgspec.structs.replace(
        notice_of(PARTIES, plan), signatures=notice_of(PARTIES, other).signatures
    )
    with pytest.raises(PlanSignatureError):
        judge(plan, notice=stolen)


def test_a_cohort_without_this_device() -> None:
    plan = plan_of(cohort=("device-02", "device-03", "device-04"))
    with pytest.raises(NotInCohortError):
        judge(plan)


@pytest.mark.parametrize("puppet", ["device-99", "hub-1"])
def test_a_cohort_with_a_puppet(puppet: str) -> None:
    with pytest.raises(PuppetCohortError, match=puppet):
        judge(plan_of(cohort=("device-01", "device-02", puppet)))


@pytest.mark.parametrize(("opens", "closes"), [(NOW_MS + 5001, NOW_MS + 90_000), (NOW_MS - 90_000, NOW_MS)])
def test_a_plan_out_of_its_window(opens: int, closes: int) -> None:
    with pytest.raises(PlanWindowError):
        judge(plan_of(opens_ms=opens, closes_ms=closes))


def test_a_clock_that_is_a_little_late_is_forgiven() -> None:
    assert judge(plan_of(opens_ms=NOW_MS + 4999)).round == 7


@pytest.mark.parametrize(
    ("mode", "name"), [("hubs", "topk"), ("hubs", "dense"), ("plain", "ring"), ("hubs", "")]
)
def test_a_codec_that_does_not_work_here(mode: str, name: str) -> None:
    codec = codec_plan(4, name=name, ring_bits=10 if mode == "hubs" else 0)
    with pytest.raises(UnsupportedCodecError):
        judge(plan_of(mode=mode, codec=codec))


@pytest.mark.parametrize("slack", [0.5, 100.0])
def test_a_norm_check_that_is_worth_nothing(slack: float) -> None:
    with pytest.raises(UnsupportedNoiseError, match="norm check"):
        judge(plan_of(norm_check=slack), rules=replace(RULES, norm_check=True))


def test_a_norm_check_is_the_device_s_own_to_allow() -> None:
    """It shows hubs projections of every update: no coordinator may order it."""
    plan = plan_of(norm_check=1.6, codec=codec_plan(4, ring_bits=20))
    with pytest.raises(NormCheckError, match="norm_check"):
        judge(plan)
    assert judge(plan, rules=replace(RULES, norm_check=True)) == plan


def private(noise: float = 1e6, **changes: Any) -> dict[str, Any]:
    codec = {"ring_bits": 20} | changes.pop("codec", {})
    return {"privacy": PrivacyPlan("skellam", noise, 1, 1e-5, **changes), "codec": codec_plan(4, **codec)}


def test_noise_that_can_be_added_as_promised_is_taken() -> None:
    plan = plan_of(**private(clip_bit=40, metric_levels=60))
    assert judge(plan) == plan


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (private(codec={"ring_bits": 13}), "RingOverflowError: 4 devices"),
        (private(metric_levels=200_000), "RingOverflowError"),
        (private(noise=1e-4), "NoiseSizeError"),
        (private(noise=1e12, codec={"ring_bits": 32}), "NoiseSizeError"),
        (private(codec={"range_factor": 600.0, "ring_bits": 20}), "CoarseScaleError"),
        (private(noise=1e300), "PrivacyNumberError"),
    ],
)
def test_noise_that_cannot_be_added_as_promised_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedNoiseError, match=why):
        judge(plan_of(**changes))


@pytest.mark.parametrize(("corrupt", "taken"), [(0, False), (1, True), (2, True)])
def test_a_plan_that_counts_on_nearly_everybody_s_noise(corrupt: int, *, taken: bool) -> None:
    """The noise of corrupt devices counted, epsilon 8 was 9.2 at 20 %."""
    plan = plan_of(**private() | {"privacy": PrivacyPlan("skellam", 1e6, corrupt, 1e-5)})
    if taken:
        assert judge(plan) == plan
    else:
        with pytest.raises(TrustedNoiseError, match="all but 0 of 3"):
            judge(plan)
    assert judge(plan, rules=replace(RULES, corrupt_share=0.0)) == plan


@pytest.mark.parametrize("mechanism", ["central", "local-gaussian", "local-laplace"])
def test_the_mechanisms_of_mode_plain(mechanism: Any) -> None:
    privacy = PrivacyPlan(mechanism, 2.0, 0, 1e-5)
    plan = plan_of(mode="plain", codec=codec_plan(4, ring_bits=0), privacy=privacy)
    assert judge(plan) == plan
    topk = plan_of(mode="plain", codec=codec_plan(4, ring_bits=0, name="topk"), privacy=privacy)
    if mechanism == "central":
        assert judge(topk) == topk
    else:
        with pytest.raises(UnsupportedNoiseError, match="PrivateCodecError"):
            judge(topk)


def test_a_cohort_filled_with_puppets_would_cost_207() -> None:
    """A victim among 166 puppets that add no noise has only its own part of it: hence the roster.

    The plan counts on 134 - 27 devices, so that each adds a 107th of the noise that 50 rounds need. The
    puppets are refused by name, for no authority enrolled them.
    """
    sigma, parts = noise_for(_gaussian, 8.0, 1e-5, 50), 134 - 27
    assert _gaussian(sigma / math.sqrt(parts)).times(50).epsilon(1e-5) == pytest.approx(207, abs=1)
    puppets = tuple(f"puppet-{n:03}" for n in range(166))
    plan = plan_of(
        cohort=("device-01", *puppets), n_min=134, quorum=134, n_max=167, codec=codec_plan(167, ring_bits=24),
        privacy=PrivacyPlan("skellam", 1e6, 27, 1e-5),
    )  # fmt: skip
    assert device_variance(plan) == 1e6 / parts
    with pytest.raises(PuppetCohortError, match="puppet-000"):
        judge(plan)


def _gaussian(sigma: float) -> Charge:
    return Charge(tuple(gaussian_rdp(sigma, order) for order in ORDERS))


def test_a_floor_under_the_device_s_own() -> None:
    with pytest.raises(CohortFloorError, match=r"insists on 3: raise the coordinator's rounds\.minimum"):
        judge(plan_of(n_min=2))


def test_another_model_than_the_plan_s() -> None:
    other = offer_of(b"\2" * 4 * TASK.dimension)
    with pytest.raises(OfferMismatchError):
        judge(plan_of(), invitation=invitation_to(plan_of(), other))


def test_another_task_than_the_plan_s() -> None:
    with pytest.raises(OfferMismatchError):
        judge(plan_of(), invitation=invitation_to(plan_of(), MODEL, task=describe(b"another")))


def test_a_model_of_another_size_than_the_plan_s() -> None:
    with pytest.raises(OfferMismatchError, match="parameters take"):
        judge(plan_of(codec=codec_plan(4, dimension=TASK.dimension + 1)))


def test_a_base_answered_in_this_very_plan() -> None:
    plan = plan_of()
    with pytest.raises(AnsweredBaseError, match="not made twice"):
        judge(plan, answered=answer_to(plan, plan_hash(encode_plan(plan))))


@pytest.mark.parametrize("number", [7, 8])
def test_a_second_plan_on_a_base_that_is_not_later(number: int) -> None:
    with pytest.raises(AnsweredBaseError, match="cannot follow"):
        judge(plan_of(), answered=Answer(number, b"\3" * 32, HUBS))


def certificate(*hubs: str, plan: bytes = b"\3" * 32, about: bytes = b"\3" * 32) -> NeverReleased:
    return NeverReleased(
        about, {hub: PARTIES.identities[hub].sign(never_released_bytes(plan)) for hub in hubs}
    )


def judge_again(*certificates: NeverReleased) -> Plan:
    """Judge a plan of round 7 on a base that was answered in round 6."""
    notice = msgspec.structs.replace(notice_of(PARTIES, plan_of()), certificates=certificates)
    return judge(plan_of(), answered=Answer(6, b"\3" * 32, HUBS), notice=notice)


def test_a_later_plan_on_an_answered_base_needs_every_hubs_certificate() -> None:
    assert judge_again(certificate("hub-1", "hub-2")).round == 7
    assert judge_again(certificate("hub-1"), certificate("hub-2")).round == 7


@pytest.mark.parametrize(
    ("certificates", "error"),
    [
        ((), MissingCertificateError),
        ((certificate("hub-1"),), MissingCertificateError),
        ((certificate("hub-1", "coordinator"),), MissingCertificateError),
        ((certificate("hub-1", "hub-2", plan=b"\4" * 32, about=b"\4" * 32),), MissingCertificateError),
        ((certificate("hub-1"), certificate("hub-2", plan=b"\4" * 32)), BadCertificateError),
        ((NeverReleased(b"\3" * 32, {"hub-1": bytes(64), "hub-2": bytes(64)}),), BadCertificateError),
    ],
)
def test_an_uncertified_second_plan(
    certificates: tuple[NeverReleased, ...], error: type[CertificateError]
) -> None:
    with pytest.raises(error):
        judge_again(*certificates)


@pytest.mark.parametrize("mode", ["hubs", "plain"])
def test_what_hubs_summed_is_certified_whatever_the_mode_of_the_second_plan(mode: str) -> None:
    """A sum among hubs less the same devices' answers in another mode is the one device that differs."""
    plan = plan_of(mode=mode)
    judge(plan, answered=Answer(6, b"\3" * 32, hubs_digest(())))
    with pytest.raises(MissingCertificateError):
        judge(plan, answered=Answer(6, b"\3" * 32, HUBS))


def test_hubs_that_had_no_part_in_the_first_plan_certify_nothing_of_it() -> None:
    """A hub on a newer roster never signed the plan, and the one it replaced may have released its sum."""
    before = answer_to(make_plan(make_fleet(hubs=3), MODEL.digest, round=6), b"\3" * 32)
    notice = msgspec.structs.replace(
        notice_of(PARTIES, plan_of()), certificates=(certificate("hub-1", "hub-2"),)
    )
    with pytest.raises(AnsweredBaseError, match="shoal rounds skip"):
        judge(plan_of(), answered=before, notice=notice)


@given(kept=st.integers(1, TASK.dimension), devices=st.integers(3, 12), hubs=st.integers(2, 4))
def test_the_room_asked_for_is_enough_for_the_report(kept: int, devices: int, hubs: int) -> None:
    fleet = make_fleet(devices, hubs)
    codec = codec_plan(devices, kept=kept)
    plan = make_plan(fleet, MODEL.digest, codec=codec, n_max=devices)
    share = -(-(kept + 16) * codec.ring_bits // 8) + OVERHEAD_BYTES
    seeds = (hubs - 1) * (32 + OVERHEAD_BYTES)
    signatures_and_digests = hubs * (64 + 32 * (hubs - 1))
    assert report_bytes_bound(plan) > share + seeds + signatures_and_digests
