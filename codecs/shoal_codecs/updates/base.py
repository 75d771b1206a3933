"""What every update codec takes, gives and is called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.errors import (
    CodecContextError,
    NonFiniteUpdateError,
    PayloadLengthError,
    VectorShapeError,
)

Float32Vector: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]
Octets: TypeAlias = bytes
Payload: TypeAlias = bytes | bytearray | memoryview

# Positions stay within 31 bits, so that a gap always fits five varint bytes.
MAX_DIMENSION = 2**31 - 1
_AT_ONCE = 1 << 16
SEED_BYTES = 32


class Chance(Protocol):
    """What rounding draws of chance: ``numpy.random.Generator`` is one."""

    def bytes(self, length: int, /) -> Octets:
        """Return so many random bytes."""
        ...

    def random(self, size: int, /) -> npt.NDArray[np.float64]:
        """Return numbers from 0 to below 1: float64[size]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class EncodeContext:
    """What both ends know about an update without reading it, and the encoder's own state.

    `dimension` D: number of model parameters. `kept` k: how many of them sparse codecs send.
    `seed`: 32 bytes shared by all devices of a round, for codecs that draw coordinates from it.
    `block`: values per scale. `rng`: the encoder's source for stochastic rounding. `residual`:
    float32[D], what earlier encodings left out (error feedback); None at the start.
    Decoders read neither `rng` nor `residual`. Raises CodecContextError.
    """

    dimension: int
    kept: int
    seed: bytes = b""
    block: int = 256
    rng: Chance | None = None
    residual: Float32Vector | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise CodecContextError(
                f"dimension {self.dimension} is outside 1..{MAX_DIMENSION}; "
                "take it from the model's parameter count"
            )
        if not 1 <= self.kept <= self.dimension:
            raise CodecContextError(f"kept {self.kept} is outside 1..{self.dimension}")
        if not 1 <= self.block <= MAX_DIMENSION:
            raise CodecContextError(f"block {self.block} must be at least one value")

    def required_rng(self) -> Chance:
        """Return the generator for stochastic rounding; raises CodecContextError without one."""
        if self.rng is None:
            raise CodecContextError("stochastic rounding needs a generator: set context.rng")
        return self.rng


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A coded update and the state the next encoding starts from.

    `residual`: float32[D] for codecs with error feedback, else None.
    """

    payload: bytes
    residual: Float32Vector | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SparseUpdate:
    """Values at some coordinates, zero elsewhere.

    `indices`: int64[k], strictly increasing, below `dimension`. `values`: float32[k].
    """

    dimension: int
    indices: Indices
    values: Float32Vector

    def dense(self) -> Float32Vector:
        """Return the update as float32[dimension]."""
        out = np.zeros(self.dimension, dtype=np.float32)
        out[self.indices] = self.values
        return out


class Codec(Protocol):
    """One way to turn an update into bytes and back.

    `name` is what a round plan calls it. `error_feedback` tells whether `encode` returns a residual
    that belongs into the next context.
    """

    @property
    def name(self) -> str:
        """The wire name."""
        ...

    @property
    def error_feedback(self) -> bool:
        """Whether what was left out is handed back."""
        ...

    def encode(self, vector: Float32Vector, context: EncodeContext) -> Encoded:
        """Code `vector` (float32[D]).

        Raises VectorShapeError, NonFiniteUpdateError or CodecContextError.
        """
        ...

    def decode(self, payload: Payload, context: EncodeContext) -> SparseUpdate | Float32Vector:
        """Return the update, checked before anything the payload's size asks for is allocated.

        Raises PayloadLengthError, PayloadContentError, CoordinateError or CodecContextError.
        """
        ...


def kept_for(dimension: int, fraction: float) -> int:
    """Return how many of `dimension` coordinates a `fraction` is: rounded half up, at least one."""
    return min(dimension, max(1, math.floor(dimension * fraction + 0.5)))


def to_dense(update: SparseUpdate | Float32Vector) -> Float32Vector:
    """Return a decoded update as float32[D], whatever the codec gave."""
    return update.dense() if isinstance(update, SparseUpdate) else update


def all_finite(values: npt.NDArray[np.floating[Any]]) -> bool:
    """Return whether no value is NaN or infinity; no array as long as `values` is made."""
    if not values.size:
        return True
    # The least and the greatest are NaN where one value is.
    with np.errstate(invalid="ignore"):
        return math.isfinite(values.min()) and math.isfinite(values.max())


def length(values: Float32Vector) -> float:
    """Return the L2 norm of `values`, whose squares are added in float64, a piece at a time."""
    total = 0.0
    for start in range(0, values.size, _AT_ONCE):
        piece = values[start : start + _AT_ONCE].astype(np.float64)
        total += float(piece @ piece)
    return math.sqrt(total)


def check_vector(vector: Float32Vector, dimension: int) -> Float32Vector:
    """Return `vector` if it is a finite float32[dimension].

    Raises VectorShapeError or NonFiniteUpdateError.
    """
    check_shape(vector, dimension)
    if not all_finite(vector):
        raise NonFiniteUpdateError(
            "the update holds NaN or infinity: training diverged; drop it and lower the step size"
        )
    return vector


def check_shape(vector: Float32Vector, dimension: int) -> None:
    """Raise VectorShapeError unless `vector` is a float32[dimension]."""
    if vector.dtype != np.float32 or vector.shape != (dimension,):
        raise VectorShapeError(
            f"expected float32 of shape ({dimension},), got {vector.dtype} of {vector.shape}; "
            "flatten the model's weights in the task's order"
        )


def check_length(payload: Payload, expected: int, what: str) -> None:
    """Raise PayloadLengthError unless `payload` has exactly `expected` bytes."""
    if len(payload) != expected:
        raise PayloadLengthError(
            f"{what} takes {expected} bytes, got {len(payload)}: "
            "truncated, or coded with another dimension, kept or block"
        )
