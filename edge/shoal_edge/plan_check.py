"""Everything a device checks before it takes part: pure, each refusal with its own error.

A device believes the authority's roster and nothing else: the plan's hubs must be exactly the roster's, every
one of them and the coordinator must have signed these very bytes, and the promises in the plan must be ones
this agent can keep (mode ``hubs``, step 4).
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from shoal_codecs.privacy.errors import PrivacyError
from shoal_codecs.privacy.promise import check_promise
from shoal_codecs.secagg.certificates import check_certified
from shoal_codecs.secagg.norm_bound import norm_fault
from shoal_codecs.security.errors import BadSignatureError
from shoal_codecs.security.identity import verify
from shoal_codecs.security.roster import Roster
from shoal_codecs.updates.errors import UpdateError
from shoal_codecs.wire.control import most_control_bytes
from shoal_codecs.wire.hubs import NeverReleased
from shoal_codecs.wire.messages import Invitation, PlanNotice
from shoal_codecs.wire.packing import prefixed
from shoal_codecs.wire.plan import SHARED_CODECS, Plan, decode_plan, plan_hash, plan_signing_bytes
from shoal_codecs.wire.task import MAX_TASK_BYTES
from shoal_codecs.wire.task_check import MAX_DIMENSION
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

# Names only: the codecs themselves need numpy, which lives in the worker.
CODECS = {
    "hubs": SHARED_CODECS,
    "single": SHARED_CODECS,
    "plain": frozenset({"dense", "int8", "int4", "topk", "topk4", "randk", "randk4"}),
}
COUNTED = frozenset({"loss", "score"})
"""What a plan may ask to be told that is counted over a device's examples."""
FLOAT_BYTES = 4
_FLOAT_SLACK = 1e-9
_HUBS_LABEL = b"shoal/1 answered hubs\x00"


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """What this device insists on; ``slack_ms`` forgives that much between its clock and the plan's.

    ``corrupt_share`` of the fewest devices of a sum may keep their noise to themselves: no plan shall count
    on it. ``norm_check`` allows plans with one, which shows each hub projections of the update. A ``quiet``
    device does not tell how a model does on its data.
    """

    device: str
    fleet: str
    modes: frozenset[str]
    n_min: int
    slack_ms: int
    corrupt_share: float = 0.2
    norm_check: bool = False
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What this device has answered on a base: the latest round, its plan's hash, and among which hubs.

    ``hubs`` is a ``hubs_digest``: that of no hubs where the plan was of another mode than ``hubs``.
    """

    round: int
    plan_hash: bytes
    hubs: bytes


def hubs_digest(hubs: Iterable[str]) -> bytes:
    """Return what a device remembers (32 bytes) of the hubs it shared an update between."""
    return hashlib.sha256(_HUBS_LABEL + b"".join(map(prefixed, sorted(hubs)))).digest()


def answer_to(plan: Plan, digest: bytes) -> Answer:
    """Return what to remember of having answered ``plan``, whose hash is ``digest``."""
    hubs = [offer.hub for offer in plan.hubs] if plan.mode == "hubs" else []
    return Answer(plan.round, digest, hubs_digest(hubs))


def check_plan(
    notice: PlanNotice,
    invitation: Invitation,
    *,
    roster: Roster,
    rules: DeviceRules,
    answered: Answer | None,
    now_ms: int,
) -> Plan:
    """Return the plan of ``notice`` if this device can take part in it.

    ``answered`` is what the device answered on the invitation's base before, if it did.

    Raises:
        PlanRefusedError: one of its kinds, with the reason in words.
        InvalidPlanError: no plan, an unknown field, or parts that contradict each other.
        CertificateError: the earlier plan on this base is not given up by every hub.
    """
    if plan_hash(notice.plan) != invitation.plan_hash:
        raise PlanHashMismatchError("the retained plan is not the one of the invitation: invite again")
    plan = decode_plan(notice.plan)
    _check_place(plan, invitation, rules)
    _check_parties(plan, roster, rules)
    _check_signatures(notice, plan, roster)
    _check_window(plan, rules, now_ms)
    _check_promises(plan, rules)
    _check_offer(plan, invitation, roster)
    _check_answered(plan, invitation, answered, notice.certificates, roster)
    return plan


def report_bytes_bound(plan: Plan) -> int:
    """Return an upper bound in bytes on what the whole report of ``plan`` takes in the outbox."""
    per_hub = 512 + 64 * len(plan.hubs)
    if plan.shared:
        # A weight takes at most 32 limbs.
        return -(-(plan.codec.kept + 32) * plan.codec.ring_bits // 8) + per_hub * len(plan.hubs)
    vectors = 2 if plan.training.correction else 1
    return vectors * 2 * FLOAT_BYTES * plan.codec.dimension + per_hub


def most_step_bytes(dimension: int) -> int:
    """Return an upper bound in bytes on an encoded step: a level and a coordinate for every parameter."""
    return 2 * FLOAT_BYTES * dimension + 1024


def _check_place(plan: Plan, invitation: Invitation, rules: DeviceRules) -> None:
    if plan.fleet != rules.fleet:
        raise WrongFleetError(f"the plan is of fleet {plan.fleet!r}, this device of {rules.fleet!r}")
    if plan.round != invitation.round:
        raise WrongRoundError(f"the plan is of round {plan.round}, the invitation of {invitation.round}")
    if plan.mode not in rules.modes:
        raise ModeNotAllowedError(
            f"this device takes no part in mode {plan.mode!r}: its own settings allow "
            f"{', '.join(sorted(rules.modes)) or 'none'}"
        )


def _check_parties(plan: Plan, roster: Roster, rules: DeviceRules) -> None:
    if plan.roster != roster.digest:
        raise RosterMismatchError(
            "the plan is made for another roster: give every party the newest one and start it again"
        )
    pinned = set(roster.names("hub")) if plan.mode == "hubs" else {roster.sole("coordinator").name}
    named = {hub.hub for hub in plan.hubs}
    if named != pinned:
        raise UnpinnedHubsError(
            f"the plan shares among {', '.join(sorted(named))}, the roster names {', '.join(sorted(pinned))}"
            ": give everybody one roster"
        )
    if rules.device not in plan.cohort:
        raise NotInCohortError(
            f"the cohort of round {plan.round} does not name {rules.device!r}: invite whom the plan names"
        )
    strangers = sorted(name for name in plan.cohort if roster.role(name) != "device")
    if strangers:
        raise PuppetCohortError(
            f"the authority enrolled no device called {', '.join(strangers)[:200]}: invite enrolled ones"
        )


def _check_signatures(notice: PlanNotice, plan: Plan, roster: Roster) -> None:
    signed = plan_signing_bytes(notice.plan)
    for name in {roster.sole("coordinator").name, *(hub.hub for hub in plan.hubs)}:
        signature = notice.signatures.get(name)
        if signature is None:
            raise PlanSignatureError(f"{name!r} has not signed the plan: every hub and the coordinator must")
        try:
            verify(roster.party(name).key, signed, signature)
        except BadSignatureError as error:
            raise PlanSignatureError(f"the plan's signature by {name!r} is wrong: invite again") from error


def _check_window(plan: Plan, rules: DeviceRules, now_ms: int) -> None:
    if now_ms < plan.opens_ms - rules.slack_ms:
        raise PlanWindowError(
            f"the plan opens {plan.opens_ms - now_ms} ms from now: set this device's clock, or wait"
        )
    if now_ms >= plan.closes_ms:
        raise PlanWindowError(
            f"the plan closed {now_ms - plan.closes_ms} ms ago by this device's clock: set the clock, or wait"
        )


def _check_promises(plan: Plan, rules: DeviceRules) -> None:
    codec = plan.codec
    if codec.name not in CODECS[plan.mode]:
        raise UnsupportedCodecError(
            f"codec {codec.name!r} does not work in mode {plan.mode!r}: use "
            f"{', '.join(sorted(CODECS[plan.mode]))}"
        )
    if not codec.dimension <= MAX_DIMENSION:
        raise UnsupportedCodecError(
            f"{codec.dimension} parameters are over {MAX_DIMENSION}: take a smaller model"
        )
    if plan.norm_check and not rules.norm_check:
        raise NormCheckError(
            "a norm check shows each hub 16 projections of the update: this device takes no part unless its "
            "own settings say `norm_check = true`"
        )
    counted = sorted(COUNTED & set(plan.training.tells))
    if rules.quiet and counted:
        raise TellsTooMuchError(
            f"the plan asks for this device's {' and '.join(counted)}, which its own settings keep here: set "
            '`privacy.metrics = "clear"`, or choose an algorithm that asks for nothing'
        )
    if fault := norm_fault(plan):
        raise UnsupportedNoiseError(fault)
    try:
        check_promise(plan)
    except (PrivacyError, UpdateError) as error:
        raise UnsupportedNoiseError(f"{type(error).__name__}: {error}") from error
    _check_trust(plan, rules)
    if plan.n_min < rules.n_min:
        raise CohortFloorError(
            f"the plan sums {plan.n_min} devices, this one insists on {rules.n_min}: raise the coordinator's "
            "rounds.minimum, or lower this device's n_min"
        )


def _check_trust(plan: Plan, rules: DeviceRules) -> None:
    """Refuse a plan that takes for granted that nearly everybody adds noise."""
    privacy = plan.privacy
    if privacy is None or privacy.mechanism != "skellam":
        return
    least = math.ceil(rules.corrupt_share * plan.n_min - _FLOAT_SLACK)
    if privacy.corrupt < least:
        raise TrustedNoiseError(
            f"the plan counts on the noise of all but {privacy.corrupt} of {plan.n_min} devices, this one of "
            f"all but {least}: raise rounds.privacy.corrupt_share"
        )


def _check_offer(plan: Plan, invitation: Invitation, roster: Roster) -> None:
    model, task = invitation.model, invitation.task
    if task.digest != plan.task or model.digest != plan.base:
        raise OfferMismatchError("the invitation offers another task or model than the plan names: plan anew")
    if model.whole.digest != model.digest or model.whole.size != FLOAT_BYTES * plan.codec.dimension:
        raise OfferMismatchError(
            f"the model offered has {model.whole.size} bytes, {plan.codec.dimension} parameters take "
            f"{FLOAT_BYTES * plan.codec.dimension}: plan anew"
        )
    source = invitation.source
    if plan.codec.source and source is not None and source.digest != plan.codec.source:
        raise OfferMismatchError("the invitation offers another step than the plan takes coordinates from")
    if source is not None and source.size > most_step_bytes(plan.codec.dimension):
        raise OfferMismatchError(
            f"a step of {source.size} bytes is more than {plan.codec.dimension} parameters need: plan anew"
        )
    control = invitation.correction
    if plan.training.correction != (control.digest if control is not None else b""):
        raise OfferMismatchError("the invitation offers another control than the plan corrects by: plan anew")
    most = most_control_bytes(plan.codec.dimension, len(roster.names("device")))
    if control is not None and control.size > most:
        raise OfferMismatchError(f"a control of {control.size} bytes is over {most}: plan anew")
    if task.size > MAX_TASK_BYTES:
        raise OfferMismatchError(f"a task of {task.size} bytes is over {MAX_TASK_BYTES}: take a smaller one")


def _check_answered(
    plan: Plan,
    invitation: Invitation,
    answered: Answer | None,
    certificates: Iterable[NeverReleased],
    roster: Roster,
) -> None:
    """Refuse to answer a base twice, but for a later plan once every hub has given up the first for good.

    With one honest hub the first answer's sum then never comes out, so that a second one reveals nothing
    more, in whichever mode it is given. The device asks for the certificates itself: a hub that lost its log
    must not be believed for them, and no hub for a plan it had no part in, for it never signed that one.
    What was answered in mode ``single`` is closed by the masks this device has opened (``single_check``), and
    what was answered in mode ``plain`` was no secret.
    """
    if answered is None:
        return
    if answered.plan_hash == invitation.plan_hash:
        raise AnsweredBaseError(f"round {plan.round} was answered before: its report is not made twice")
    if plan.round <= answered.round:
        raise AnsweredBaseError(
            f"this base was answered in round {answered.round}, a plan of round {plan.round} cannot follow: "
            "plan on a newer version, or with a higher number"
        )
    if answered.hubs == hubs_digest(()):
        return
    names = roster.names("hub")
    if answered.hubs != hubs_digest(names):
        raise AnsweredBaseError(
            f"this base was answered in round {answered.round} among other hubs than the roster names, whose "
            "word on it counts: skip this base (`shoal rounds skip`)"
        )
    keys = {name: roster.party(name).key for name in names}
    check_certified(answered.plan_hash, names, certificates, keys)
