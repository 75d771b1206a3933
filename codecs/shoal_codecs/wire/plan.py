"""The round plan: everything a round promises, decoded strictly and hashed as signed.

``M``, the plan's hash, is SHA-256 over a label and the bytes that were signed; every later message of the
round binds itself to it (secret sharing, step 3 of mode ``hubs``).
"""

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from shoal_codecs.wire.errors import InvalidPlanError, MalformedMessageError
from shoal_codecs.wire.packing import pack, prefixed, unpack
from shoal_codecs.wire.sha256 import sha256
from shoal_codecs.wire.told import Tell

PLAN_FORMAT = 3
MAX_PLAN_BYTES = 1 << 20
Mode: TypeAlias = Literal["hubs", "single", "plain"]
SHARED_MODES = frozenset({"hubs", "single"})
LED_CODEC = "global_topk"
SHARED_CODECS = frozenset({"randk", LED_CODEC})
"""What can be secret-shared: one coordinate set and one scale for all devices."""
SEEDED_CODECS = frozenset({"randk", "randk4"})
"""Codecs of mode ``plain`` whose coordinates the round's seed draws."""
INDEXED_CODECS = frozenset({"topk", "topk4"})
"""Codecs whose payloads hold coordinates of their own."""
PREKEY_ID_BYTES = 16
MORE_TIME = "see what keeps the others, or give a round more time (`window_s`)"
"""The remedy for reports that did not come while a plan was open, as hubs and coordinator say it."""
_LARGEST = 1 << 62
"""Round numbers and times are kept in databases and timers, which know no larger ones."""
_HASH_LABEL = b"shoal/1 plan hash\x00"
_SEED_LABEL = b"shoal/1 coordinates\x00"
_SIGN_LABEL = b"shoal/1 plan signature\x00"


class HubOffer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A receiver of reports, as one plan names it: its X25519 key and nonce for this round, 32 bytes each.

    In the modes ``single`` and ``plain`` the coordinator is the only one. ``challenge`` (mode ``hubs``) is
    the digest of the secret that the hub shows for the norm check once reports are fixed.
    """

    hub: str
    key: bytes
    nonce: bytes
    challenge: bytes = b""


class CodecPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How updates are encoded.

    ``name`` is a codec's wire name, ``dimension`` the length of the model vector, ``kept`` the coordinates
    sent. ``clip_norm`` bounds the L2 norm after the rescale, ``clamp`` the integer levels, ``ring_bits`` the
    ring (0 in mode ``plain``), ``weight_cap`` the examples beyond which a device weighs no more. Level
    ``clamp`` stands for ``range_factor * clip_norm / sqrt(kept)``. ``source`` (codec ``global_topk``) is the
    digest of the encoded step to the base, whose largest coordinates are half of the round's.
    """

    name: str
    dimension: int
    kept: int
    clip_norm: float
    clamp: int
    ring_bits: int
    weight_cap: int
    range_factor: float = 6.0
    source: bytes = b""


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device does with its examples.

    With ``example_noise`` it trains by DP-SGD: each example's gradient is shortened to the L2 norm
    ``example_clip``, and a batch's sum gets Gaussian noise of ``example_noise * example_clip``. Both are 0
    where it does not. ``local`` names the task's parameters that stay on each device; the plan's vector is
    the others. ``ditto`` is how strongly a model of the device's own is pulled to the base, 0 for none.
    ``algorithm`` is the coordinator's, by name: for people and logs, for what it asks of a device stands in
    the other fields. ``mu`` pulls the weights back to the base (FedProx); ``correction`` is the digest of the
    blob with the fleet's control (SCAFFOLD), empty for none; with ``even_steps`` above 0 an update is
    multiplied by that over the device's own number of steps (FedNova). ``tells`` is what a share says beside
    the update (mode ``plain`` without noise).
    """

    epochs: int
    learning_rate: float
    batch_size: int
    example_clip: float = 0.0
    example_noise: float = 0.0
    local: tuple[str, ...] = ()
    algorithm: str = "fedavg"
    mu: float = 0.0
    correction: bytes = b""
    even_steps: float = 0.0
    tells: tuple[Tell, ...] = ()
    ditto: float = 0.0


class PrivacyPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The noise of a round; what it costs follows from the plan alone.

    ``noise`` is, for ``skellam``, the variance in squared levels of the noise of ``n_min - corrupt`` devices
    together, of which each adds its part; for ``central`` the standard deviation and for the local mechanisms
    the scale, in units of what one device can add: the clip norm (L1 for ``local-laplace``) and rounding.
    ``corrupt`` devices' noise does not count. ``clip_bit`` and ``metric_levels`` are the levels of the
    coordinates that carry whether an update was clipped, and loss and accuracy; 0 where they do not travel.
    """

    mechanism: Literal["skellam", "central", "local-gaussian", "local-laplace"]
    noise: float
    corrupt: int
    delta: float
    clip_bit: int = 0
    metric_levels: int = 0


class SinglePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What mode ``single`` adds: ``neighbours`` hold shares of a device's secrets, ``threshold`` open them.

    With the first ``edges`` of them it shares masks too. ``prekeys`` are the ids (16 bytes) of the key
    bundles used, in the cohort's order. Shares are taken until ``shares_ms``, masked vectors until
    ``masked_ms``; consents and unmasking until the plan closes.
    """

    neighbours: int
    threshold: int
    edges: int
    prekeys: tuple[bytes, ...]
    shares_ms: int
    masked_ms: int


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round, as coordinator and hubs sign it.

    ``task``, ``base`` and ``roster`` are digests; ``hubs`` is ordered (in the modes ``single`` and ``plain``
    it holds the coordinator alone). A hub closes when every device of ``cohort`` has reported,
    ``patience_ms`` after the ``quorum``-th report, or at ``closes_ms``; fewer than ``n_min`` reports are
    never summed.
    ``norm_check`` is the slack of the check of shares against the clip norm, 0 for none (mode ``hubs``).
    ``variants`` has a byte for each device of the cohort: 0, it trains the full model, n, the task's n-th
    variant; empty: all train the full one. Where single updates are not seen all train the same.
    """

    format: int = PLAN_FORMAT
    mode: Mode
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
    privacy: PrivacyPlan | None = None
    single: SinglePlan | None = None
    norm_check: float = 0.0
    variants: bytes = b""

    @property
    def shared(self) -> bool:
        """Whether nobody sees one device's update."""
        return self.mode in SHARED_MODES

    @property
    def sliced(self) -> bool:
        """Whether an update has the length of its device's variant, and not of the full model."""
        seen = self.mode == "plain" and self.privacy is None
        return bool(self.variants) and seen and self.codec.name not in SEEDED_CODECS

    def level_of(self, device: str) -> int:
        """Return which variant ``device``, one of the cohort, trains; 0: the full model."""
        return self.variants[self.cohort.index(device)] if self.variants else 0

    def __post_init__(self) -> None:
        """Refuse a plan whose parts contradict each other.

        Raises:
            InvalidPlanError: with the numbers that do not fit.
        """
        _check(self)


def _check(plan: Plan) -> None:
    for holds, fault in (*_form(plan), *_numbers(plan), *_extras(plan)):
        if not holds:
            raise InvalidPlanError(fault)


def _form(plan: Plan) -> tuple[tuple[bool, str], ...]:
    hubs = [hub.hub for hub in plan.hubs]
    digests = (
        plan.task,
        plan.base,
        plan.roster,
        *(part for hub in plan.hubs for part in (hub.key, hub.nonce)),
        *(
            part
            for part in (
                plan.codec.source,
                plan.training.correction,
                *(hub.challenge for hub in plan.hubs),
            )
            if part
        ),
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
            1 <= plan.round < _LARGEST
            and 0 < plan.opens_ms < plan.closes_ms < _LARGEST
            and 0 <= plan.patience_ms < _LARGEST,
            f"round {plan.round} opens at {plan.opens_ms} and closes at {plan.closes_ms}",
        ),
    )


def _numbers(plan: Plan) -> tuple[tuple[bool, str], ...]:
    codec, training = plan.codec, plan.training
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
        (0 < codec.range_factor < math.inf, "the range factor must be positive and finite"),
        # With noise the ring has to hold more: ``privacy.promise`` sees to that.
        (
            not plan.shared or plan.n_max * codec.clamp < ring // 2,
            (
                f"{plan.n_max} devices at clamp {codec.clamp} overflow a ring of {codec.ring_bits} bits: "
                "widen the ring or lower the clamp"
            ),
        ),
        (
            not plan.shared or plan.n_max < ring,
            f"{plan.n_max} devices leave no room for weights in a ring of {codec.ring_bits} bits",
        ),
        (
            training.epochs >= 1 and training.batch_size >= 1 and 0 < training.learning_rate < math.inf,
            "epochs, batch size and learning rate must be positive and finite",
        ),
        (
            0 <= training.example_clip < math.inf
            and 0 <= training.example_noise < math.inf
            and (training.example_clip > 0) == (training.example_noise > 0),
            (
                f"example clip {training.example_clip:g} with noise {training.example_noise:g} protects "
                "nothing: set both, or neither"
            ),
        ),
        (
            len(set(training.local)) == len(training.local) and all(training.local),
            "a parameter that stays on the device has a name, and is named once",
        ),
        (0 <= training.ditto < math.inf, "a pull to the base is finite, and at least zero"),
    )


def _extras(plan: Plan) -> Iterator[tuple[bool, str]]:
    training = plan.training
    yield (
        0 <= training.mu < math.inf and 0 <= training.even_steps < math.inf,
        f"mu {training.mu:g} and even steps {training.even_steps:g} must be finite and at least 0",
    )
    yield (
        not training.tells or (plan.mode == "plain" and plan.privacy is None),
        f"to tell {', '.join(training.tells)} beside an update is for mode 'plain' without noise",
    )
    yield (
        len(set(training.tells)) == len(training.tells),
        f"{', '.join(training.tells)}: each is told once",
    )
    yield (
        bool(training.correction) == ("control" in training.tells),
        "a correction and a control that is told of belong together",
    )
    yield (
        (plan.single is not None) == (plan.mode == "single"),
        f"mode {plan.mode!r} and a part for mode 'single' do not belong together",
    )
    yield (
        not plan.codec.source or (plan.shared and plan.codec.name == LED_CODEC),
        f"codec {plan.codec.name!r} in mode {plan.mode!r} takes no coordinates from a step",
    )
    yield (
        0 <= plan.norm_check < math.inf
        and (not plan.norm_check or (plan.mode == "hubs" and plan.privacy is None)),
        "the norm check belongs to mode 'hubs' without noise: switch one of them off",
    )
    yield (
        not plan.variants or len(plan.variants) == len(plan.cohort),
        f"{len(plan.variants)} variants for a cohort of {len(plan.cohort)}: name one for each device",
    )
    yield (
        plan.sliced or len(set(plan.variants)) <= 1,
        "devices whose updates are added up unseen, or at a round's coordinates, train one variant",
    )
    yield (
        not plan.variants or not (plan.training.local or plan.training.ditto or plan.training.correction),
        "variants of a model go neither with parameters of a device's own nor with corrections",
    )
    if plan.privacy is not None:
        yield from _private(plan, plan.privacy)
    if plan.single is not None:
        yield from _single(plan, plan.single)


def _private(plan: Plan, privacy: PrivacyPlan) -> Iterator[tuple[bool, str]]:
    levels = (privacy.clip_bit, privacy.metric_levels)
    yield (
        0 < privacy.noise < math.inf and 0 < privacy.delta < 1,
        f"noise {privacy.noise:g} with delta {privacy.delta:g} protects nothing: set both, or neither",
    )
    yield (
        0 <= privacy.corrupt < plan.n_min,
        f"{privacy.corrupt} corrupt devices of {plan.n_min} leave nobody whose noise counts",
    )
    yield (
        all(level >= 0 for level in levels) and (plan.shared or not any(levels)),
        "clip bit and metrics are coordinates of the ring: they need a shared mode",
    )
    fits = plan.shared == (privacy.mechanism == "skellam")
    yield fits, f"mechanism {privacy.mechanism!r} does not work in mode {plan.mode!r}"


def _single(plan: Plan, single: SinglePlan) -> Iterator[tuple[bool, str]]:
    others = len(plan.cohort) - 1
    yield (
        1 <= single.threshold <= single.neighbours <= others and 1 <= single.edges <= single.neighbours,
        (
            f"{single.threshold} of {single.neighbours} neighbours among {others} others, "
            f"{single.edges} of them with masks, cannot open secrets"
        ),
    )
    yield (
        others >= 2,
        f"a sum of {others + 1} devices shows each of them the other: invite three at least",
    )
    yield (
        len(single.prekeys) == len(plan.cohort)
        and all(len(name) == PREKEY_ID_BYTES for name in single.prekeys)
        and len(set(single.prekeys)) == len(single.prekeys),
        "the plan must name one prekey of its own for every device of the cohort",
    )
    yield (
        plan.opens_ms < single.shares_ms < single.masked_ms < plan.closes_ms,
        "shares, masked vectors and unmasking must follow each other within the plan's window",
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
    return sha256(_HASH_LABEL + data)


def plan_signing_bytes(data: bytes) -> bytes:
    """Return what coordinator and hubs sign for the plan ``data``."""
    return _SIGN_LABEL + plan_hash(data)


def whole_share_place(plan: Plan, device: str) -> int:
    """Return the place (from 0) of the hub that gets ``device``'s share whole; the others get seeds.

    The cohort takes turns, so that hubs work and receive alike. ``device`` is one of the cohort.
    """
    return plan.cohort.index(device) % len(plan.hubs)


def whole_share_devices(plan: Plan, place: int) -> frozenset[str]:
    """Return the devices whose shares the hub at ``place`` gets whole (``whole_share_place``)."""
    return frozenset(plan.cohort[place :: len(plan.hubs)])


def coordinate_seed(plan: Plan) -> bytes:
    """Return the 32-byte seed of the round's coordinates.

    It hangs on every hub's nonce and on nothing that the coordinator chooses: with the round's number or the
    base in it, one could be searched for that reveals wanted coordinates. Hubs promise their nonces before
    any of them shows one (``wire.hubs``), so that none can search either.
    """
    hubs = sorted(plan.hubs, key=lambda offer: offer.hub)
    return sha256(_SEED_LABEL + b"".join(prefixed(hub.hub) + hub.nonce for hub in hubs))
