"""From sums or reports to the next version: numpy, run in a thread.

The next version is *defined* as the base plus a quantised step where there is one, so that every party that
applies the step holds the same bits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from shoal_codecs.secagg.additive import combine
from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.security.sealing import unseal
from shoal_codecs.updates.base import EncodeContext, Float32Vector, to_dense
from shoal_codecs.updates.errors import UpdateError
from shoal_codecs.updates.model_step import pack_leading
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import INDEXED, SEEDED, TOPK, codec
from shoal_codecs.updates.ring import RingSpec, RingSum, decode_sum, unpack_ring
from shoal_codecs.updates.selection import Selection, select_coordinates
from shoal_codecs.updates.step import Step, apply_step, step_from_sum
from shoal_codecs.updates.step import encode_step as pack_levels
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import unpack
from shoal_codecs.wire.plan import Plan, coordinate_seed
from shoal_codecs.wire.step import ModelStep, encode_step
from shoal_coordinator.round_errors import (
    AggregationError,
    InvalidReportError,
    NoUsableReportError,
)

MAX_INLINE_STEP_BYTES = 4096
STEP_LEVELS = 2047
"""Levels of a step that is quantised here: 12 bits, an error far under that of the updates."""
_NO_ROUNDING = 0.0
# A weight of zero has subnormal neighbours, which not every processor tells from zero.
_LEAST_MOVE = float(np.float32(1e-30))


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A version that is made and not yet committed.

    ``data`` is the little-endian float32 vector, ``digest`` its BLAKE3, ``step`` an encoded ``ModelStep``
    (empty where the whole is the only way), ``norm`` the L2 norm of the move, ``bounded`` whether the move
    was shortened to what honest devices can add up to, ``fault`` why the round moved nothing (empty: it did).
    """

    data: bytes
    digest: bytes
    step: bytes
    norm: float
    bounded: bool = False
    fault: str = ""


class _PlainShare(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    examples: int
    payload: bytes


@dataclass(frozen=True, slots=True, eq=False)
class PlainUpdate:
    """One device's update in mode ``plain``: ``weight`` min(n, W), ``update`` float32[D], bounded."""

    weight: int
    update: Float32Vector


def vector_of(data: bytes) -> Float32Vector:
    """Return the vector (float32[D]) that a model blob holds.

    Raises:
        AggregationError: not whole float32 values.
    """
    if not data or len(data) % 4:
        raise AggregationError(f"a model blob of {len(data)} bytes is no float32 vector: restore the store")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def vector_bytes(vector: Float32Vector) -> bytes:
    """Return the model blob of ``vector``."""
    return vector.astype("<f4", copy=False).tobytes()


def aggregate_sums(
    plan: Plan,
    plan_hash: bytes,
    base: bytes,
    set_digest: bytes,
    sums: Mapping[str, bytes],
    private: bytes,
    server_lr: float = 1.0,
    source: bytes = b"",
) -> Candidate:
    """Open the hubs' ``sums``, add them up and apply the mean to ``base`` (a model blob).

    ``private`` is the coordinator's X25519 key, ``source`` the encoded step that a ``global_topk`` plan
    takes coordinates from.

    Raises:
        UnsealError: a sum sealed for another key, set, plan or hub.
        UpdateError: a sum of the wrong length, or one no set of honest devices adds up to.
        SecAggError: sums that do not belong together.
        AggregationError: ``base`` is no vector.
    """
    spec = ring_spec(plan, source)
    words = []
    for offer in plan.hubs:
        clear = unseal(private, sums[offer.hub], sum_context(plan_hash, set_digest, offer.hub))
        words.append(unpack_ring(clear, spec.words, spec.ring_bits))
    total = decode_sum(combine(words, spec.ring_bits), spec)
    step, bounded = _bounded(step_from_sum(total, spec, server_lr), total, spec, server_lr)
    payload = pack_levels(step.q, step.scale, spec.n_max * spec.clamp)
    candidate = _stepped(plan, vector_of(base), spec.selection, step, payload, bounded=bounded)
    if candidate.digest == plan.base:
        return unmoved(plan, base, "the devices' updates add up to nothing")
    return candidate


def unmoved(plan: Plan, base: bytes, fault: str) -> Candidate:
    """Return a version that is ``base`` (a model blob) but for the last place of one weight.

    Once hubs have released their sums they never sum for that base again: the round must lead to another
    version, whatever the sums are worth, or it would be the fleet's last.

    Raises:
        AggregationError: ``base`` is no vector.
    """
    start = vector_of(base)
    selection = _drawn(plan)
    chosen = start[selection.indices]
    place = int(np.argmin(np.abs(chosen)))
    levels = np.zeros(chosen.size, dtype=np.int32)
    levels[place] = 1
    step = Step(levels, max(float(np.spacing(np.abs(chosen[place]))), _LEAST_MOVE))
    payload = pack_levels(levels, step.scale, 1)
    return replace(_stepped(plan, start, selection, step, payload), fault=fault)


def open_update(plan: Plan, share: bytes) -> PlainUpdate:
    """Return a device's update from its share in clear, ``[examples, payload]`` packed.

    An update longer than ``clip_norm`` (for random coordinates, after their rescale) is shortened to it.

    Raises:
        InvalidReportError: not an update of this plan, or one with NaN or infinity.
    """
    try:
        opened = unpack(share, _PlainShare)
        update = to_dense(codec(plan.codec.name).decode(opened.payload, _context(plan)))
    except (msgspec.ValidationError, MalformedMessageError, UpdateError) as error:
        raise InvalidReportError(f"not an update of this round ({error}): update the device") from error
    if opened.examples < 1:
        raise InvalidReportError(f"an update of {opened.examples} examples: decline the round instead")
    norm = float(np.linalg.norm(update.astype(np.float64)))
    if not math.isfinite(norm):
        raise InvalidReportError(
            "the update holds NaN or infinity: lower the learning rate, or look at the device"
        )
    limit = plan.codec.clip_norm * math.sqrt(plan.codec.dimension / plan.codec.kept)
    if norm > limit:
        update = (update * np.float64(limit / norm)).astype(np.float32)
    return PlainUpdate(min(opened.examples, plan.codec.weight_cap), update)


def aggregate_reports(
    plan: Plan, base: bytes, shares: Mapping[str, bytes], server_lr: float = 1.0
) -> Candidate:
    """Apply the weighted mean of the updates in ``shares`` (device to share in clear) to ``base``.

    Raises:
        NoUsableReportError: there is no usable update.
        AggregationError: ``base`` is no vector, or the result is not finite.
    """
    total = np.zeros(plan.codec.dimension, dtype=np.float64)
    weight = 0
    for share in shares.values():
        update = open_update(plan, share)
        total += update.weight * update.update.astype(np.float64)
        weight += update.weight
    if not weight:
        raise NoUsableReportError("not one usable update: the version stays as it is")
    total *= server_lr / weight
    start = vector_of(base)
    if start.shape != total.shape:
        raise AggregationError(f"the plan has {total.size} weights, the model {start.size}: plan anew")
    if plan.codec.name in SEEDED:
        selection = _drawn(plan)
        step = _quantised(total[selection.indices])
        return _stepped(plan, start, selection, step, pack_levels(step.q, step.scale, STEP_LEVELS))
    if plan.codec.name in INDEXED:
        return _sparse(plan, start, total.astype(np.float32))
    return _whole(start, total.astype(np.float32))


def _bounded(step: Step, total: RingSum, spec: RingSpec, server_lr: float) -> tuple[Step, bool]:
    """Shorten a step that no honest devices can have made: each adds at most the clip norm and rounding.

    The move itself is bounded alike, for the weight it is divided by is a device's word too: one that takes
    the others' weights away would multiply the mean. Shortened and not refused: the hubs never sum for this
    base again, so a refusal would let one device stop the fleet for good.
    """
    honest = spec.n_max * (spec.clip_norm * spec.levels_per_unit + math.sqrt(spec.kept))
    found = float(np.linalg.norm(total.q.astype(np.float64)))
    longest = min(found, honest) * step.scale
    longest = min(longest, server_lr * honest / spec.levels_per_unit)
    if found * step.scale <= longest:
        return step, False
    return Step(step.q, float(np.float32(longest / found))), True


def _quantised(values: npt.NDArray[np.float64]) -> Step:
    peak = float(np.abs(values).max())
    scale = float(np.float32(peak / STEP_LEVELS)) or 1.0
    levels = np.clip(np.rint(values / scale), -STEP_LEVELS, STEP_LEVELS).astype(np.int32)
    return Step(levels, scale)


def _drawn(plan: Plan) -> Selection:
    """Return the coordinates that the plan's seed draws, none of them leading."""
    return select_coordinates(coordinate_seed(plan), plan.codec.dimension, plan.codec.kept)


def _stepped(
    plan: Plan,
    start: Float32Vector,
    selection: Selection,
    step: Step,
    payload: bytes,
    *,
    bounded: bool = False,
) -> Candidate:
    child = apply_step(start, selection.indices, step)
    data = vector_bytes(child)
    encoded = encode_step(
        ModelStep(
            kind="randk",
            parent=plan.base,
            child=digest_of(data),
            seed=coordinate_seed(plan),
            kept=plan.codec.kept,
            scale=step.scale,
            payload=payload,
            led=selection.leading.size,
            leading=pack_leading(selection),
        )
    )
    return _candidate(start, child, _inline(encoded), bounded=bounded)


def _sparse(plan: Plan, start: Float32Vector, mean: Float32Vector) -> Candidate:
    moved = int(np.count_nonzero(mean))
    if not moved:
        return _whole(start, mean)
    context = EncodeContext(dimension=start.size, kept=moved)
    payload = TOPK.encode(mean, context).payload
    child = _sum(start, to_dense(TOPK.decode(payload, context)))
    step = ModelStep(
        kind="sparse",
        parent=plan.base,
        child=digest_of(vector_bytes(child)),
        seed=b"",
        kept=moved,
        scale=_NO_ROUNDING,
        payload=payload,
    )
    encoded = _inline(encode_step(step))
    return _candidate(start, child, encoded) if encoded else _whole(start, mean)


def _whole(start: Float32Vector, mean: Float32Vector) -> Candidate:
    return _candidate(start, _sum(start, mean), b"")


def _sum(start: Float32Vector, move: Float32Vector) -> Float32Vector:
    with np.errstate(over="ignore"):
        child: Float32Vector = start + move
    if not np.isfinite(child).all():
        raise AggregationError("the mean update takes a weight out of float32: the version stays as it is")
    return child


def _candidate(
    start: Float32Vector, child: Float32Vector, step: bytes, *, bounded: bool = False
) -> Candidate:
    data = vector_bytes(child)
    norm = float(np.linalg.norm(child.astype(np.float64) - start))
    return Candidate(data, digest_of(data), step, norm, bounded)


def _inline(step: bytes) -> bytes:
    return step if len(step) <= MAX_INLINE_STEP_BYTES else b""


def _context(plan: Plan) -> EncodeContext:
    return EncodeContext(dimension=plan.codec.dimension, kept=plan.codec.kept, seed=coordinate_seed(plan))
