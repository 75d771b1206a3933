"""Random coordinates that all devices of a round share, for updates sent in clear.

The secret-shared form of the same idea is in `ring`: there a sum needs one scale for all devices.
"""

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
from shoal_codecs.updates.blocks import MAX_SCALE, BlockCoder
from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.errors import NonFiniteUpdateError


@dataclass(frozen=True)
class RandKCodec:
    """k coordinates drawn from the round's seed, times D/k, as blocks of levels: unbiased, no indices.

    No error feedback: with masks that change every round a residual is stale when its coordinate
    comes up again, and it made training worse.
    """

    name: str
    levels: BlockCoder
    error_feedback: bool = False

    def encode(self, vector: Float32Vector, context: EncodeContext) -> Encoded:
        """Code float32[D] in k levels and four bytes for every block; needs `context.seed` and `rng`."""
        check_vector(vector, context.dimension)
        chosen = vector[rand_coordinates(context.seed, context.dimension, context.kept)]
        rescale = np.float32(context.dimension / context.kept)
        # Compared before the product, which would overflow.
        if np.abs(chosen).max() > MAX_SCALE / rescale:
            raise NonFiniteUpdateError("the rescaled update is too large to code; clip it first")
        return Encoded(self.levels.pack(chosen * rescale, context.block, context.required_rng()))

    def decode(self, payload: Payload, context: EncodeContext) -> SparseUpdate:
        """Return the rescaled values at the seed's coordinates."""
        values = self.levels.unpack(payload, context.kept, context.block)
        indices = rand_coordinates(context.seed, context.dimension, context.kept)
        return SparseUpdate(context.dimension, indices, values)
