"""The round plan: everything a round promises, decoded strictly and hashed as signed.

``M``, the plan's hash, is SHA-256 over a label and the bytes that were signed; every later message of the
round binds itself to it (secret sharing, step 3 of mode ``hubs``).
"""

import hashlib
import math
from typing import Literal

import msgspec

from shoal_codecs.wire.errors import InvalidPlanError, MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack

PLAN_FORMAT = 1
MAX_PLAN_BYTES = 1 << 20
_HASH_LABEL = b"shoal/1 plan hash\x00"
_SEED_LABEL = b"shoal/1 coordinates\x00"
_SIGN_LABEL = b"shoal/1 plan signature\x00"


class HubOffer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A hub's X25519 key (32 bytes) and nonce (32 bytes) for one round, named in the plan."""

    hub: str
    key: bytes
    nonce: bytes


class CodecPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How updates are encoded.

    ``name`` is a codec's wire name, ``dimension`` the length of the model vector, ``kept`` the coordinates
    sent. ``clip_norm`` bounds the L2 norm after the rescale, ``clamp`` the integer levels, ``ring_bits`` the
    ring (0 in mode ``plain``), ``weight_cap`` the examples beyond which a device weighs no more.
    """

    name: str
    dimension: int
    kept: int
    clip_norm: float
    clamp: int
    ring_bits: int
    weight_cap: int


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device does with its examples."""

    epochs: int
    learning_rate: float
    batch_size: int


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round, as coordinator and hubs sign it.

    ``task``, ``base`` and ``roster`` are digests; ``hubs`` is ordered (in mode ``plain`` it holds the
    coordinator alone). A hub closes when every device of ``cohort`` has reported, ``patience_ms`` after
    the ``quorum``-th report, or at ``closes_ms``; fewer than ``n_min`` reports are never summed.
    ``noise_mu`` and ``corrupt`` belong to differential privacy and are 0 without it.
    """

    format: int = PLAN_FORMAT
    mode: Literal["hubs", "plain"]
    fleet: str
    round: int
    task: bytes
    base: bytes
    roster: bytes
    cohort: tuple[str, ...]
    hubs: tuple[HubOffer, ...]
    codec: CodecPlan
    training: TrainingPlan
    n_min: int
    n_max: int
    quorum: int
    patience_ms: int
    opens_ms: int
    closes_ms: int
    noise_mu: float = 0.0
    corrupt: int = 0

    def __post_init__(self) -> None:
        """Refuse a plan whose parts contradict each other.

        Raises:
            InvalidPlanError: with the numbers that do not fit.
        """
        _check(self)


def _check(plan: Plan) -> None:
    for holds, fault in (*_form(plan), *_numbers(plan)):
        if not holds:
            raise InvalidPlanError(fault)


def _form(plan: Plan) -> tuple[tuple[bool, str], ...]:
    hubs = [hub.hub for hub in plan.hubs]
    digests = (
        plan.task,
        plan.base,
        plan.roster,
        *(part for hub in plan.hubs for part in (hub.key, hub.nonce)),
    )
    return (
        (plan.format == PLAN_FORMAT, f"plan format {plan.format} is not {PLAN_FORMAT}: update this party"),
        (all(len(d) == 32 for d in digests), "a digest, key or nonce in the plan is not 32 bytes"),
        (len(set(hubs)) == len(hubs), "a hub stands twice in the plan"),
        (len(set(plan.cohort)) == len(plan.cohort), "a device stands twice in the cohort"),
        (
            len(hubs) >= 2 if plan.mode == "hubs" else len(hubs) == 1,
            f"mode {plan.mode!r} does not work with {len(hubs)} hubs",
        ),
        (
            1 <= plan.n_min <= plan.quorum <= len(plan.cohort) <= plan.n_max,
            (
                f"need 1 <= n_min {plan.n_min} <= quorum {plan.quorum} <= cohort {len(plan.cohort)} "
                f"<= n_max {plan.n_max}"
            ),
        ),
        (
            plan.round >= 1 and 0 < plan.opens_ms < plan.closes_ms and plan.patience_ms >= 0,
            f"round {plan.round} opens at {plan.opens_ms} and closes at {plan.closes_ms}",
        ),
    )


def _numbers(plan: Plan) -> tuple[tuple[bool, str], ...]:
    codec, training = plan.codec, plan.training
    shared = plan.mode == "hubs"
    ring = 1 << codec.ring_bits if 2 <= codec.ring_bits <= 32 else 0
    return (
        (
            1 <= codec.kept <= codec.dimension,
            f"cannot keep {codec.kept} of {codec.dimension} coordinates",
        ),
        (
            0 < codec.clip_norm < math.inf and codec.clamp >= 1 and codec.weight_cap >= 1,
            "clip norm, clamp and weight cap must be positive and finite",
        ),
        (
            not shared or plan.n_max * codec.clamp < ring // 2,
            (
                f"{plan.n_max} devices at clamp {codec.clamp} overflow a ring of {codec.ring_bits} bits: "
                "widen the ring or lower the clamp"
            ),
        ),
        (
            not shared or plan.n_max < ring,
            f"{plan.n_max} devices leave no room for weights in a ring of {codec.ring_bits} bits",
        ),
        (
            training.epochs >= 1 and training.batch_size >= 1 and 0 < training.learning_rate < math.inf,
            "epochs, batch size and learning rate must be positive and finite",
        ),
        (
            0 <= plan.noise_mu < math.inf and plan.corrupt >= 0,
            "noise and corrupt share are neither negative nor infinite",
        ),
    )


def encode_plan(plan: Plan) -> bytes:
    """Return the bytes that everybody signs; never encode a received plan again."""
    return pack(plan)


def decode_plan(data: bytes) -> Plan:
    """Return the plan in ``data``, refusing any field this party does not know.

    Raises:
        InvalidPlanError: not a plan, an unknown field, or parts that contradict each other.
    """
    if len(data) > MAX_PLAN_BYTES:
        raise InvalidPlanError(f"a plan of {len(data)} bytes is over {MAX_PLAN_BYTES}: invite fewer devices")
    try:
        return unpack(data, Plan)
    except msgspec.ValidationError as error:
        raise InvalidPlanError(
            f"not a plan this party can keep ({error}): update this party, or mend the coordinator's rounds"
        ) from error
    except MalformedMessageError as error:
        raise InvalidPlanError(f"not a plan: {error}") from error


def plan_hash(data: bytes) -> bytes:
    """Return M, the SHA-256 (32 bytes) over the plan as it was signed."""
    return hashlib.sha256(_HASH_LABEL + data).digest()


def plan_signing_bytes(data: bytes) -> bytes:
    """Return what coordinator and hubs sign for the plan ``data``."""
    return _SIGN_LABEL + plan_hash(data)


def coordinate_seed(plan: Plan) -> bytes:
    """Return the 32-byte seed of the round's coordinates.

    It hangs on every hub's nonce and on nothing that the coordinator chooses: with the round's number or the
    base in it, one could be searched for that reveals wanted coordinates. A hub that saw the others' nonces
    before it offered its own could still search; commitments to nonces come with the hubs' log heads.
    """
    digest = hashlib.sha256(_SEED_LABEL)
    for hub in sorted(plan.hubs, key=lambda offer: offer.hub):
        digest.update(len(hub.hub).to_bytes(2, "big") + hub.hub.encode() + hub.nonce)
    return digest.digest()
