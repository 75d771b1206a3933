"""Codecs that send every coordinate."""

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
from shoal_codecs.updates.errors import PayloadContentError
from shoal_codecs.updates.rounding import pack_blocks, unpack_blocks


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


class Int8Codec:
    """All D values as int8, rounded stochastically, with one scale per block: unbiased."""

    name: ClassVar[str] = "int8"
    error_feedback: ClassVar[bool] = False

    def encode(self, vector: Float32Vector, context: EncodeContext) -> Encoded:
        """Code float32[D] in D bytes and four for every block; needs `context.rng`."""
        check_vector(vector, context.dimension)
        payload, _ = pack_blocks(vector, context.block, context.required_rng())
        return Encoded(payload)

    def decode(self, payload: Payload, context: EncodeContext) -> Float32Vector:
        """Return float32[D]."""
        return unpack_blocks(payload, context.dimension, context.block)
