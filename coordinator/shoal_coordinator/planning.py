"""From settings, cohort and the hubs' offers to the plan of one round."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec

from shoal_codecs.privacy.errors import PrivacyError
from shoal_codecs.privacy.plan_noise import extra_levels
from shoal_codecs.privacy.promise import check_promise
from shoal_codecs.secagg.norm_bound import checked_ring_bits, norm_fault
from shoal_codecs.updates.base import kept_for
from shoal_codecs.updates.bitpack import MAX_BITS
from shoal_codecs.updates.blocks import INT4, INT8
from shoal_codecs.updates.errors import RingOverflowError
from shoal_codecs.updates.registry import SPARSE
from shoal_codecs.updates.ring import handy_bits, ring_bits_for
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.plan import (
    LED_CODEC,
    SHARED_CODECS,
    SHARED_MODES,
    CodecPlan,
    HubOffer,
    Plan,
    PrivacyPlan,
    TrainingPlan,
)
from shoal_codecs.wire.single import Prekey
from shoal_codecs.wire.told import Tell
from shoal_coordinator.privacy_terms import PrivacyTerms
from shoal_coordinator.round_errors import CohortTooSmallError, InvalidRoundPlanError, MissingOfferError
from shoal_coordinator.single_planning import single_floor, single_part

LEAST_HUBS = 2
RING_LEVELS = {8: (INT8.peak, 6.0), 4: (INT4.peak, 3.0)}
"""Largest level and what it stands for, by bits: with few levels it pays to cut the rare large values off."""


class PlanSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What rounds have in common.

    ``kept_share`` of the coordinates are sent by sparse codecs. ``clamp`` is the largest level of one device
    in the ring and stands for ``range_factor`` times the root mean square of a value at the clip norm.
    ``minimum`` devices are the floor; ``quorum_share`` of the cohort starts ``patience_ms``.
    ``window_ms`` is how long a round is open. ``clock_slack_ms`` opens it that much in the past, for devices
    whose clocks are late. In mode ``single``, ``corrupt_share`` of a cohort may be corrupt and
    ``dropout_share`` of it vanish; shares are taken for ``shares_ms``, and ``unmask_ms`` of the window are
    left to take masks off. ``privacy`` are the terms of every round, None for rounds without noise.
    ``example_clip`` and ``example_noise`` are DP-SGD on the devices, 0 for plain training. ``local`` names
    the parameters that stay on each device, ``ditto`` is the pull of models of their own to the fleet's.
    ``algorithm`` is the coordinator's, ``refused_codecs`` what it cannot be coded in, and ``mu``,
    ``even_steps`` and ``tells`` what it asks of devices. The first ``buffer`` reports end a
    round, 0: it waits for all.
    """

    fleet: str
    mode: Literal["hubs", "single", "plain"]
    codec: str = "randk"
    kept_share: float = 0.05
    clip_norm: float = 4.0
    clamp: int = INT8.peak
    range_factor: float = 6.0
    weight_cap: int = 150
    epochs: int = 5
    learning_rate: float = 0.2
    batch_size: int = 16
    example_clip: float = 0.0
    example_noise: float = 0.0
    local: tuple[str, ...] = ()
    algorithm: str = "fedavg"
    refused_codecs: frozenset[str] = frozenset()
    mu: float = 0.0
    even_steps: float = 0.0
    tells: tuple[Tell, ...] = ()
    buffer: int = 0
    ditto: float = 0.0
    minimum: int = 3
    floor_share: float = 0.8
    norm_check: float = 0.0
    quorum_share: float = 0.8
    patience_ms: int = 2_000
    window_ms: int = 60_000
    clock_slack_ms: int = 60_000
    privacy: PrivacyTerms | None = None
    corrupt_share: float = 0.1
    dropout_share: float = 0.2
    shares_ms: int = 15_000
    unmask_ms: int = 15_000


def make_plan(
    settings: PlanSettings,
    *,
    number: int,
    task: bytes,
    base: bytes,
    roster: bytes,
    dimension: int,
    cohort: Sequence[str],
    offers: Mapping[str, HubOffer],
    hubs: Sequence[str],
    now_ms: int,
    source: bytes = b"",
    prekeys: Mapping[str, Prekey] = MappingProxyType({}),
    variants: bytes = b"",
    correction: bytes = b"",
) -> Plan:
    """Return the plan of round ``number``.

    ``task``, ``base`` and ``roster`` are 32-byte digests, ``dimension`` the length of the model vector.
    ``hubs`` are the roster's hubs in their order (the coordinator alone in the other modes) and ``offers``
    what each offers now. ``source`` is the digest of the encoded step to the base, empty where there is none.
    ``prekeys`` are the key bundles of everybody in the cohort (mode ``single``). ``correction`` is the digest
    of the fleet's control, empty for algorithms without one, ``variants`` what each device trains, by name.

    Raises:
        CohortTooSmallError: fewer devices than the floor.
        MissingOfferError: a hub offers no key.
        InvalidRoundPlanError: settings from which no plan can be made.
    """
    size = len(cohort)
    floor = settings.buffer or max(settings.minimum, _share(size, settings.floor_share))
    if settings.mode == "single":
        floor = max(floor, single_floor(size, settings.dropout_share))
    if size < floor or not size:
        raise CohortTooSmallError(
            f"{size} devices can take part and the floor is {floor}: wait for more, or lower the minimum"
        )
    missing = [hub for hub in hubs if hub not in offers]
    if missing:
        raise MissingOfferError(f"{', '.join(missing)} offers no key for a round: is it running?")
    codec, terms = codec_plan(settings, dimension, size, source), settings.privacy
    single = None
    if settings.mode == "single":
        single = single_part(
            settings.fleet,
            sorted(cohort),
            prekeys,
            floor=floor,
            corrupt_share=settings.corrupt_share,
            shares_ms=now_ms + settings.shares_ms,
            masked_ms=now_ms + settings.window_ms - settings.unmask_ms,
        )
    try:
        privacy = terms.part(codec, size) if terms is not None else None
        plan = Plan(
            mode=settings.mode,
            fleet=settings.fleet,
            round=number,
            task=task,
            base=base,
            roster=roster,
            cohort=tuple(sorted(cohort)),
            hubs=tuple(offers[hub] for hub in hubs),
            codec=_with_norm_check(
                _with_noise(codec, privacy, size, floor, settings.mode), settings.norm_check
            ),
            training=TrainingPlan(
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                batch_size=settings.batch_size,
                example_clip=settings.example_clip,
                example_noise=settings.example_noise,
                local=settings.local,
                algorithm=settings.algorithm,
                mu=settings.mu,
                correction=correction,
                even_steps=settings.even_steps,
                tells=settings.tells,
                ditto=settings.ditto,
            ),
            n_min=floor,
            n_max=size,
            quorum=settings.buffer or max(floor, _share(size, settings.quorum_share)),
            patience_ms=0 if settings.buffer else settings.patience_ms,
            opens_ms=now_ms - settings.clock_slack_ms,
            closes_ms=now_ms + settings.window_ms,
            privacy=privacy,
            single=single,
            norm_check=settings.norm_check,
            variants=variants,
        )
        check_promise(plan)
        if fault := norm_fault(plan):
            raise InvalidRoundPlanError(f"these settings make no plan: {fault}")
    except (InvalidPlanError, PrivacyError, RingOverflowError) as error:
        raise InvalidRoundPlanError(f"these settings make no plan: {error}") from error
    return plan


def refuse_mode(settings: PlanSettings, hubs: int | None = None) -> None:
    """Refuse a mode that does not have the codec, or too few ``hubs`` on the roster where they are told.

    Raises:
        InvalidRoundPlanError: with what goes together.
    """
    shared = settings.mode in SHARED_MODES
    if shared and settings.codec not in SHARED_CODECS:
        raise InvalidRoundPlanError(
            f"codec {settings.codec!r} cannot be secret-shared: each device's coordinates or scales differ; "
            f"use {' or '.join(sorted(SHARED_CODECS))}, or mode plain"
        )
    if not shared and settings.codec == LED_CODEC:
        raise InvalidRoundPlanError(f"codec {LED_CODEC!r} is for secret sharing: use topk in mode plain")
    if settings.mode == "hubs" and hubs is not None and hubs < LEAST_HUBS:
        raise InvalidRoundPlanError(
            f"mode hubs needs {LEAST_HUBS} hubs on the roster and there are {hubs}: enrol them, or set "
            "rounds.mode to single"
        )


def codec_plan(settings: PlanSettings, dimension: int, size: int, source: bytes = b"") -> CodecPlan:
    """Return the codec of a plan for ``size`` devices, its ring wide enough without noise.

    Raises:
        InvalidRoundPlanError: a codec that the mode does not have.
    """
    refuse_mode(settings)
    shared = settings.mode in SHARED_MODES
    sparse = settings.codec in SPARSE
    return CodecPlan(
        name=settings.codec,
        dimension=dimension,
        kept=kept_for(dimension, settings.kept_share) if sparse else dimension,
        clip_norm=settings.clip_norm,
        clamp=settings.clamp,
        ring_bits=handy_bits(ring_bits_for(size, settings.clamp), settings.mode) if shared else 0,
        weight_cap=settings.weight_cap,
        range_factor=settings.range_factor,
        source=source if settings.codec == LED_CODEC else b"",
    )


def _with_norm_check(codec: CodecPlan, slack: float) -> CodecPlan:
    """Return ``codec`` with a ring in which the norm check tells long updates from short ones."""
    if slack <= 0 or not codec.ring_bits:
        return codec
    bits = max(codec.ring_bits, checked_ring_bits(codec, slack))
    if bits > MAX_BITS:
        raise InvalidRoundPlanError(
            f"a norm check of {codec.kept} coordinates needs a ring of {bits} bits, {MAX_BITS} are the most: "
            "lower the clamp"
        )
    return msgspec.structs.replace(codec, ring_bits=handy_bits(bits, "hubs"))


def _with_noise(codec: CodecPlan, privacy: PrivacyPlan | None, size: int, floor: int, mode: str) -> CodecPlan:
    """Return ``codec`` with a ring that holds the noise of ``size`` devices, of which ``floor`` suffice."""
    if privacy is None or not codec.ring_bits or privacy.corrupt >= floor:
        return codec
    extra = extra_levels(privacy)
    drawn = privacy.noise / (floor - privacy.corrupt)
    bits = ring_bits_for(size, max(codec.clamp, *extra, 0), drawn, codec.kept + len(extra))
    return msgspec.structs.replace(codec, ring_bits=handy_bits(bits, mode))


def _share(size: int, share: float) -> int:
    """Return the smallest count that is at least ``share`` of ``size``, rounded as the hubs round it."""
    return min(size, math.ceil(size * share - 1e-9))
