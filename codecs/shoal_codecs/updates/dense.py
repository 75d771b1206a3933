"""Codecs that send every coordinate."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shoal_codecs.updates.base import (
    EncodeContext,
    Encoded,
    Float32Vector,
    Payload,
    check_length,
    check_vector,
)
from shoal_codecs.updates.blocks import BlockCoder
from shoal_codecs.updates.errors import PayloadContentError


class DenseCodec:
    """All D values as little-endian float32: exact, and the yardstick for the others."""

    name: ClassVar[str] = "dense"
    error_feedback: ClassVar[bool] = False

    def encode(self, vector: Float32Vector, context: EncodeContext) -> Encoded:
        """Code float32[D] in 4*D bytes."""
        check_vector(vector, context.dimension)
        return Encoded(vector.astype("<f4", copy=False).tobytes())

    def decode(self, payload: Payload, context: EncodeContext) -> Float32Vector:
        """Return float32[D], a copy that may be written to."""
        check_length(payload, 4 * context.dimension, f"{context.dimension} float32 values")
        vector = np.frombuffer(payload, dtype="<f4").astype(np.float32)
        if not np.isfinite(vector).all():
            raise PayloadContentError("the payload holds NaN or infinity, which no encoder writes")
        return vector


@dataclass(frozen=True)
class BlockCodec:
    """All D values as levels, rounded stochastically, with one scale per block: unbiased."""

    name: str
    levels: BlockCoder
    error_feedback: bool = False

    def encode(self, vector: Float32Vector, context: EncodeContext) -> Encoded:
        """Code float32[D] in D bytes (int8) or D/2 (int4) and four for every block; needs `context.rng`."""
        check_vector(vector, context.dimension)
        return Encoded(self.levels.pack(vector, context.block, context.required_rng()))

    def decode(self, payload: Payload, context: EncodeContext) -> Float32Vector:
        """Return float32[D]."""
        return self.levels.unpack(payload, context.dimension, context.block)
