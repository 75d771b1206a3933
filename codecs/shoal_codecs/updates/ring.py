"""Updates as integers modulo 2**w, so that hubs can add shares of them.

A sum needs one coordinate set, one scale and one ring for all devices of a round; all of them are
in the `RingSpec`, which follows from the signed plan.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from shoal_codecs.privacy.sensitivity import rounded_l2_squared
from shoal_codecs.updates.base import (
    SEED_BYTES,
    Float32Vector,
    Indices,
    Payload,
    check_vector,
)
from shoal_codecs.updates.bitpack import (
    MAX_BITS,
    check_words,
    pack_words,
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
from shoal_codecs.updates.rounding import round_stochastically
from shoal_codecs.updates.selection import NO_LEADING, Selection, select_coordinates

MIN_RING_BITS = 2
# Conditional rounding accepts a draw with probability 1 - exp(-1/2) or more: 64 draws do not fail.
_ROUNDING_DRAWS = 64


@dataclass(frozen=True, eq=False)
class RingSpec:
    """What every device and the coordinator of one round agree on about the numbers.

    `dimension` D and `kept` k: model parameters, and how many of them are sent. `clip_norm` C: L2
    bound on the weighted, rescaled update. `clamp` L: largest level. `ring_bits` w. `n_max`: the
    most devices whose words are ever added. `weight_cap` W: examples above which a device counts no
    more. `seed`: 32 bytes the coordinates derive from, `leading` those that the last step chose.
    `range_factor`: level L stands for range_factor * C / sqrt(k), a multiple of the root mean square
    of a vector at the clip norm.
    `conditional`: redraw a rounding that outgrows the norm bound; needed for sensitivity under
    noise, a slight bias otherwise.
    Raises RingOverflowError where n_max * L does not fit, RingSpecError for anything else.
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
    conditional: bool = False
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
        if self.n_max * self.clamp >= 1 << (self.ring_bits - 1):
            raise RingOverflowError(
                f"{self.n_max} devices at level {self.clamp} add up to {self.n_max * self.clamp}, "
                f"and a ring of {self.ring_bits} bits holds less than {1 << (self.ring_bits - 1)}: "
                "use a wider ring, fewer devices or a lower clamp"
            )

    @property
    def levels_per_unit(self) -> float:
        """Scale S: quantiser levels per unit of the clipped update."""
        return self.clamp * math.sqrt(self.kept) / (self.range_factor * self.clip_norm)

    @property
    def limb_base(self) -> int:
        """Base of the weight limbs: n_max limbs of base - 1 add up without a carry out of w."""
        return ((1 << self.ring_bits) - 1) // self.n_max + 1

    @property
    def limbs(self) -> int:
        """Words that carry the weight, least significant first."""
        needed, reach = 1, self.limb_base
        while reach <= self.weight_cap:
            needed, reach = needed + 1, reach * self.limb_base
        return needed

    @property
    def words(self) -> int:
        """Words of one encoded update: k values, then the weight's limbs."""
        return self.kept + self.limbs

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
    """A lifted sum: `q` int32[k] in levels, `weight` the total of min(n_i, W)."""

    q: npt.NDArray[np.int32]
    weight: int


def ring_bits_for(n_max: int, clamp: int) -> int:
    """Return the narrowest ring in which `n_max` devices at +-`clamp` cannot overflow.

    Raises RingOverflowError where not even 32 bits suffice.
    """
    if n_max < 1 or clamp < 1:
        raise RingSpecError(f"n_max {n_max} and clamp {clamp} must both be at least 1")
    bits = max(MIN_RING_BITS, (n_max * clamp).bit_length() + 1)
    if bits > MAX_BITS:
        raise RingOverflowError(
            f"{n_max} devices at level {clamp} need {bits} bits, and a ring has at most {MAX_BITS}"
        )
    return bits


def encode_ring(update: Float32Vector, examples: int, spec: RingSpec, rng: np.random.Generator) -> Words:
    """Encode one device's update and weight as uint[spec.words] modulo 2**w, ready to be shared.

    `update`: float32[D], new weights minus base. `examples` n_i: what it was trained on.
    Raises VectorShapeError, NonFiniteUpdateError or ExampleCountError.
    """
    check_vector(update, spec.dimension)
    if examples < 1:
        raise ExampleCountError(f"{examples} examples carry no update; decline the round instead")
    weight = min(examples, spec.weight_cap)
    chosen = update[spec.coordinates].astype(np.float64)
    # Clipping comes after weight and rescale: clipping first would let the rescale multiply the
    # norm, and with it what one device can do to the sum, by 1/p.
    chosen *= weight / spec.weight_cap
    spec.selection.rescale(chosen)
    norm = float(np.linalg.norm(chosen))
    chosen *= min(1.0, spec.clip_norm / norm) * spec.levels_per_unit if norm else 0.0
    np.clip(chosen, -spec.clamp, spec.clamp, out=chosen)
    levels = (
        _round_within_norm(chosen, spec, rng) if spec.conditional else (round_stochastically(chosen, rng))
    )
    words = np.empty(spec.words, dtype=word_dtype(spec.ring_bits))
    words[: spec.kept] = levels.astype(np.int64) & ((1 << spec.ring_bits) - 1)
    for limb in range(spec.limbs):
        weight, words[spec.kept + limb] = divmod(weight, spec.limb_base)
    return words


def decode_sum(words: Words, spec: RingSpec) -> RingSum:
    """Lift the sum modulo 2**w of up to n_max encoded updates to signed levels and a weight.

    `words`: uint[spec.words]. Raises VectorShapeError, WordWidthError, or RingSumRangeError for
    sums that n_max devices cannot reach: a share is missing or was damaged.
    """
    check_words(words, spec.words, spec.ring_bits)
    unused = 32 - spec.ring_bits
    # Shifting the ring's top bit into the sign bit and back is the centred lift.
    lifted = (words[: spec.kept].astype(np.uint32) << np.uint32(unused)).view(np.int32)
    q: npt.NDArray[np.int32] = lifted >> np.int32(unused)
    reach = spec.n_max * spec.clamp
    if int(q.max()) > reach or int(q.min()) < -reach:
        raise RingSumRangeError(
            f"a summed level is beyond +-{reach}: a hub's sum is missing, doubled or damaged"
        )
    weight = sum(int(limb) * spec.limb_base**place for place, limb in enumerate(words[spec.kept :]))
    if not 1 <= weight <= spec.n_max * spec.weight_cap:
        raise RingSumRangeError(
            f"a total weight of {weight} is outside 1..{spec.n_max * spec.weight_cap}: "
            "a hub's sum is missing, doubled or damaged"
        )
    return RingSum(q, weight)


def pack_ring(words: Words, bits: int) -> bytes:
    """Pack ring words of `bits` (2..32) without gaps. Raises VectorShapeError, WordWidthError."""
    return pack_words(words, _ring_width(bits))


def unpack_ring(data: Payload, count: int, bits: int) -> Words:
    """Return the uint[count] ring words of `bits` (2..32) in `data`.

    Raises PayloadLengthError, PayloadContentError or WordWidthError.
    """
    return unpack_words(data, count, _ring_width(bits))


def _ring_width(bits: int) -> int:
    if not MIN_RING_BITS <= bits <= MAX_BITS:
        raise WordWidthError(f"a ring has {MIN_RING_BITS} to {MAX_BITS} bits, not {bits}")
    return bits


def _round_within_norm(
    scaled: npt.NDArray[np.float64], spec: RingSpec, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Round stochastically until the norm keeps its bound (Kairouz et al. 2021, section 4.2)."""
    bound = rounded_l2_squared(spec.clip_norm * spec.levels_per_unit, spec.kept)
    for _ in range(_ROUNDING_DRAWS):
        levels = round_stochastically(scaled, rng)
        if float(np.dot(levels, levels)) <= bound:
            return levels
    return np.trunc(scaled)
