"""The largest coordinates of an update, with error feedback."""

from dataclasses import dataclass

import numpy as np

from shoal_codecs.updates.base import (
    EncodeContext,
    Encoded,
    Float32Vector,
    Payload,
    SparseUpdate,
    check_vector,
)
from shoal_codecs.updates.blocks import BlockCoder
from shoal_codecs.updates.errors import NonFiniteUpdateError, PayloadLengthError
from shoal_codecs.updates.indexcode import HEADER_BYTES, pack_indices, unpack_indices
from shoal_codecs.updates.selection import largest


@dataclass(frozen=True)
class TopKCodec:
    """The k largest magnitudes of update plus residual, as blocks of levels, and coded coordinates.

    What is not sent, rounding included, is the next residual (error feedback: Stich et al. 2018,
    "Sparsified SGD with Memory"), so values are rounded to nearest. Each device sends coordinates
    of its own, which tell about its data: never secret-shared.
    """

    name: str
    levels: BlockCoder
    error_feedback: bool = True

    def encode(self, vector: Float32Vector, context: EncodeContext) -> Encoded:
        """Code float32[D] plus `context.residual`; returns the residual for the next context."""
        check_vector(vector, context.dimension)
        wanted = vector.copy()
        if context.residual is not None:
            check_vector(context.residual, context.dimension)
            with np.errstate(over="ignore"):
                wanted += context.residual
            if not np.isfinite(wanted).all():
                raise NonFiniteUpdateError("update plus residual overflow; start a new residual")
        indices = largest(np.abs(wanted), context.kept)
        blocks = self.levels.pack(wanted[indices], context.block, rng=None)
        wanted[indices] -= self.levels.unpack(blocks, context.kept, context.block)
        return Encoded(blocks + pack_indices(indices, context.dimension), wanted)

    def decode(self, payload: Payload, context: EncodeContext) -> SparseUpdate:
        """Return the values at the coordinates the payload names."""
        view = memoryview(payload)
        split = self.levels.size(context.kept, context.block)
        if len(view) <= split + HEADER_BYTES:
            raise PayloadLengthError(
                f"{len(view)} bytes cannot hold {context.kept} values and their coordinates"
            )
        indices = unpack_indices(view[split:], context.kept, context.dimension)
        values = self.levels.unpack(view[:split], context.kept, context.block)
        return SparseUpdate(context.dimension, indices, values)
