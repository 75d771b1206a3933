"""Updates as integers modulo 2**w, so that hubs can add shares of them.

A sum needs one coordinate set, one scale and one ring for all devices of a round; all of them are
in the `RingSpec`, which follows from the signed plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from shoal_codecs.privacy.noise_table import skellam_table
from shoal_codecs.privacy.ring_width import bits_for, overflow, sum_reach
from shoal_codecs.privacy.sensitivity import rounded_l2_squared
from shoal_codecs.updates.base import (
    SEED_BYTES,
    Chance,
    Float32Vector,
    Indices,
    Payload,
    check_shape,
)
from shoal_codecs.updates.bitpack import (
    MAX_BITS,
    check_words,
    pack_words,
    packed_view,
    unpack_words,
    word_dtype,
)
from shoal_codecs.updates.errors import (
    ExampleCountError,
    RingOverflowError,
    RingSpecError,
    RingSumRangeError,
    WordWidthError,
)
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.ring_extras import DeviceMetrics, RoundTold, decode_extras, encode_extras
from shoal_codecs.updates.ring_levels import Chosen, add_noise, check_finite, write_levels
from shoal_codecs.updates.rounding import Draws
from shoal_codecs.updates.selection import NO_LEADING, Selection, select_coordinates
from shoal_codecs.updates.short_levels import MOST_LEVEL_BITS, write_short_levels

MIN_RING_BITS = 2


@dataclass(frozen=True, eq=False)
class RingSpec:
    """What every device and the coordinator of one round agree on about the numbers.

    `dimension` D and `kept` k: model parameters, and how many of them are sent. `clip_norm` C: L2
    bound on the weighted, rescaled update. `clamp` L: largest level. `ring_bits` w. `n_max`: the
    most devices whose words are ever added. `weight_cap` W: examples above which a device counts no
    more. `seed`: 32 bytes the coordinates derive from, `leading` those that the last step chose.
    `range_factor`: level L stands for range_factor * C / sqrt(k), a multiple of the root mean square
    of a vector at the clip norm.
    `noise`: variance of the Skellam noise that each device adds to each word, in squared levels; 0 for
    none. Under noise every device weighs the same, roundings that outgrow their norm bound are drawn
    again, and `clip_bit` and `metric_levels` are the levels of further coordinates (0: none).
    Raises RingOverflowError where the largest sum does not fit, RingSpecError for anything else.
    """

    dimension: int
    kept: int
    clip_norm: float
    clamp: int
    ring_bits: int
    n_max: int
    weight_cap: int
    seed: bytes
    range_factor: float = 6.0
    noise: float = 0.0
    clip_bit: int = 0
    metric_levels: int = 0
    leading: Indices = field(default_factory=lambda: NO_LEADING)

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.dimension:
            raise RingSpecError(f"kept {self.kept} is outside 1..{self.dimension}")
        for name in ("clip_norm", "range_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise RingSpecError(f"{name} must be a positive number, got {value}")
        for name in ("clamp", "n_max", "weight_cap"):
            if getattr(self, name) < 1:
                raise RingSpecError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.seed) != SEED_BYTES:
            raise RingSpecError(f"the coordinate seed has {SEED_BYTES} bytes, got {len(self.seed)}")
        if not MIN_RING_BITS <= self.ring_bits <= MAX_BITS:
            raise RingSpecError(f"ring_bits {self.ring_bits} is outside {MIN_RING_BITS}..{MAX_BITS}")
        self._check_extras()
        fault = overflow(self.ring_bits, self.n_max, self._highest, self.noise, self.words)
        if fault:
            raise RingOverflowError(fault)

    def _check_extras(self) -> None:
        levels = (self.clip_bit, self.metric_levels)
        if not 0 <= self.noise < math.inf or min(levels) < 0:
            raise RingSpecError(f"noise {self.noise} and levels {levels} of further coordinates make no ring")
        if max(levels) and not self.private:
            raise RingSpecError("clip bit and metrics travel under noise only: add noise, or leave them out")

    @property
    def levels_per_unit(self) -> float:
        """Scale S: quantiser levels per unit of the clipped update."""
        return self.clamp * math.sqrt(self.kept) / (self.range_factor * self.clip_norm)

    @property
    def clip_levels(self) -> float:
        """Levels of the clip norm, digit for digit those that the plan is charged for."""
        return self.clamp * math.sqrt(self.kept) / self.range_factor

    @property
    def private(self) -> bool:
        """Whether devices add noise."""
        return self.noise > 0

    @property
    def extras(self) -> int:
        """Words after the update's: the clip bit, then loss and accuracy."""
        return (self.clip_bit > 0) + 2 * (self.metric_levels > 0)

    @property
    def reach(self) -> int:
        """The largest level that a sum of n_max devices has."""
        return math.floor(sum_reach(self.n_max, self._highest, self.noise, self.words))

    @property
    def _highest(self) -> int:
        return max(self.clamp, self.clip_bit, self.metric_levels)

    @property
    def limb_base(self) -> int:
        """Base of the weight limbs: n_max limbs of base - 1 add up without a carry out of w."""
        return ((1 << self.ring_bits) - 1) // self.n_max + 1

    @property
    def limbs(self) -> int:
        """Words that carry the weight, least significant first; none under noise."""
        if self.private:
            return 0
        needed, reach = 1, self.limb_base
        while reach <= self.weight_cap:
            needed, reach = needed + 1, reach * self.limb_base
        return needed

    @property
    def words(self) -> int:
        """Words of one encoded update: k values, then the weight's limbs or the further coordinates."""
        return self.kept + self.limbs + self.extras

    @property
    def coordinates(self) -> Indices:
        """The round's coordinates, int64[k], increasing."""
        return self.selection.indices

    @cached_property
    def selection(self) -> Selection:
        """The round's coordinates and their rescale."""
        return select_coordinates(self.seed, self.dimension, self.kept, self.leading)


@dataclass(frozen=True, slots=True, eq=False)
class RingSum:
    """A lifted sum: `q` int32[k] in levels, `weight` the total of min(n_i, W).

    Under noise `weight` is n_max * W, whoever took part: the denominator must not tell who did, and a
    device that is missing counts as one that moved nothing. `extras` int64 are the further coordinates.
    """

    q: npt.NDArray[np.int32]
    weight: int
    extras: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def ring_bits_for(n_max: int, clamp: int, noise: float = 0.0, words: int = 1) -> int:
    """Return the narrowest ring in which `n_max` devices at +-`clamp` do not overflow.

    `clamp`: the largest level of any coordinate. `noise`: variance of each device's noise, in squared
    levels; `words`: length of the vector, further coordinates included.
    Raises RingOverflowError where not even 32 bits suffice.
    """
    if n_max < 1 or clamp < 1:
        raise RingSpecError(f"n_max {n_max} and clamp {clamp} must both be at least 1")
    bits = max(MIN_RING_BITS, bits_for(n_max, clamp, noise, words))
    if bits > MAX_BITS:
        noisy = f" and noise of {math.sqrt(n_max * noise):.6g} levels" if noise else ""
        raise RingOverflowError(
            f"{n_max} devices at level {clamp}{noisy} need {bits} bits, and a ring has at most {MAX_BITS}"
        )
    return bits


def handy_bits(bits: int, mode: str) -> int:
    """Return `bits`, or the width of the word that holds them where that is less than an eighth more.

    Words as wide as their type are neither packed nor unpacked, and add up several times as fast. In mode
    `single` that is little beside the masks, so that bytes count for more.
    """
    if mode != "hubs":
        return bits
    whole = 8 * word_dtype(bits).itemsize
    return whole if 8 * whole < 9 * bits else bits


def encode_ring(
    update: Float32Vector,
    examples: int,
    spec: RingSpec,
    rng: Chance,
    metrics: DeviceMetrics | None = None,
) -> Words:
    """Encode one device's update and weight as uint[spec.words] modulo 2**w, ready to be shared.

    `update`: float32[D], new weights minus base. `examples` n_i: what it was trained on. `metrics`: what
    the device has measured, for rings that carry it. Under noise each call draws its own, from the
    system's generator: words are made once and thrown away once shared.
    Raises VectorShapeError, NonFiniteUpdateError, ExampleCountError or NoiseSizeError.
    """
    check_shape(update, spec.dimension)
    if examples < 1:
        raise ExampleCountError(f"{examples} examples carry no update; decline the round instead")
    weight = spec.weight_cap if spec.private else min(examples, spec.weight_cap)
    # Before the words: making it takes memory of its own for a moment.
    table = skellam_table(spec.noise) if spec.private else None
    words = np.empty(spec.words, dtype=word_dtype(spec.ring_bits))
    clipped = _write_update(words[: spec.kept], update, weight / spec.weight_cap, spec, rng)
    if table is None:
        for limb in range(spec.limbs):
            weight, words[spec.kept + limb] = divmod(weight, spec.limb_base)
        return words
    extras = encode_extras(
        clipped=clipped,
        metrics=metrics,
        clip_bit=spec.clip_bit,
        metric_levels=spec.metric_levels,
        rng=rng,
    )
    words[spec.kept :] = extras & ((1 << spec.ring_bits) - 1)
    add_noise(words, table, spec.ring_bits)
    return words


def _write_update(words: Words, update: Float32Vector, share: float, spec: RingSpec, rng: Chance) -> bool:
    """Write the levels of ``share`` times ``update``, clipped, into ``words``; return whether it was."""
    factor = share * spec.levels_per_unit
    if spec.kept == spec.dimension and not spec.private and spec.clamp.bit_length() <= MOST_LEVEL_BITS:
        short = write_short_levels(
            words, update, factor, Draws(rng), clamp=spec.clamp, bits=spec.ring_bits, bound=spec.clip_levels
        )
        # What is known to be short is known to be finite.
        if short:
            return False
    check_finite(update)
    # Clipping comes after weight and rescale: clipping first would let the rescale multiply the
    # norm, and with it what one device can do to the sum, by 1/p.
    chosen = Chosen(update, _travelling(spec))
    norm = chosen.norm() * share
    clipped = norm > spec.clip_norm
    write_levels(
        words,
        chosen,
        factor * (spec.clip_norm / norm if clipped else 1.0),
        rng,
        clamp=spec.clamp,
        bits=spec.ring_bits,
        bound=rounded_l2_squared(spec.clip_levels, spec.kept) if spec.private else math.inf,
    )
    return clipped


def _travelling(spec: RingSpec) -> Selection | None:
    """Return the selection, None for all coordinates: their numbers would take more than the update."""
    return None if spec.kept == spec.dimension else spec.selection


def decode_sum(words: Words, spec: RingSpec) -> RingSum:
    """Lift the sum modulo 2**w of up to n_max encoded updates to signed levels and a weight.

    `words`: uint[spec.words]. Raises VectorShapeError, WordWidthError, or RingSumRangeError for
    sums that n_max devices cannot reach: a share is missing or was damaged.
    """
    check_words(words, spec.words, spec.ring_bits)
    signed = spec.kept + spec.extras
    unused = 32 - spec.ring_bits
    lifted = words[:signed].astype(np.uint32)
    # Shifting the ring's top bit into the sign bit and back is the centred lift.
    lifted <<= np.uint32(unused)
    q: npt.NDArray[np.int32] = lifted.view(np.int32)
    q >>= np.int32(unused)
    if int(q.max()) > spec.reach or int(q.min()) < -spec.reach:
        raise RingSumRangeError(
            f"a summed level is beyond +-{spec.reach}: a hub's sum is missing, doubled or damaged"
        )
    extras = q[spec.kept :].astype(np.int64)
    if spec.private:
        return RingSum(q[: spec.kept], spec.n_max * spec.weight_cap, extras)
    weight = sum(int(limb) * spec.limb_base**place for place, limb in enumerate(words[spec.kept :]))
    if not 1 <= weight <= spec.n_max * spec.weight_cap:
        raise RingSumRangeError(
            f"a total weight of {weight} is outside 1..{spec.n_max * spec.weight_cap}: "
            "a hub's sum is missing, doubled or damaged"
        )
    return RingSum(q[: spec.kept], weight, extras)


def told_by(total: RingSum, spec: RingSpec, reports: int) -> RoundTold:
    """Return what the further coordinates of a sum of `reports` devices say, with the noise's error."""
    return decode_extras(
        total.extras,
        clip_bit=spec.clip_bit,
        metric_levels=spec.metric_levels,
        reports=reports,
        variance=spec.noise,
    )


def pack_ring(words: Words, bits: int) -> bytes:
    """Pack ring words of `bits` (2..32) without gaps. Raises VectorShapeError, WordWidthError."""
    return pack_words(words, _ring_width(bits))


def packed_ring(words: Words, bits: int) -> bytes | memoryview:
    """Return what `pack_ring` does; where `words` are packed as they lie, they themselves, uncopied.

    Raises VectorShapeError, WordWidthError.
    """
    return packed_view(words, _ring_width(bits))


def unpack_ring(data: Payload, count: int, bits: int) -> Words:
    """Return the uint[count] ring words of `bits` (2..32) in `data`.

    Raises PayloadLengthError, PayloadContentError or WordWidthError.
    """
    return unpack_words(data, count, _ring_width(bits))


def _ring_width(bits: int) -> int:
    if not MIN_RING_BITS <= bits <= MAX_BITS:
        raise WordWidthError(f"a ring has {MIN_RING_BITS} to {MAX_BITS} bits, not {bits}")
    return bits
