"""A model step's coordinates and levels: what a step moved, and which of it the next round looks at again."""

import numpy as np

from shoal_codecs.updates.base import EncodeContext, Indices, SparseUpdate
from shoal_codecs.updates.errors import CoordinateError, UnledRoundError
from shoal_codecs.updates.indexcode import pack_indices, unpack_indices
from shoal_codecs.updates.registry import TOPK
from shoal_codecs.updates.selection import (
    NO_LEADING,
    Selection,
    largest,
    leading_count,
    select_coordinates,
)
from shoal_codecs.updates.step import decode_step as decode_levels
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.plan import CodecPlan
from shoal_codecs.wire.step import ModelStep, decode_step

# The digest of the child says whether the levels are right; this only keeps them in 32 bits.
ANY_LEVEL = (1 << 31) - 1


def step_selection(step: ModelStep, dimension: int) -> Selection:
    """Return the coordinates of a ``randk`` step of a model with `dimension` parameters.

    Raises UpdateError where the step's parts do not fit together.
    """
    if not 0 <= step.led < max(1, step.kept) or bool(step.led) != bool(step.leading):
        raise CoordinateError(f"{step.led} of {step.kept} coordinates cannot lead: fetch the whole model")
    leading = unpack_indices(step.leading, step.led, dimension) if step.led else NO_LEADING
    return select_coordinates(step.seed, dimension, step.kept, leading)


def pack_leading(selection: Selection) -> bytes:
    """Return the leading coordinates as a step carries them, empty where none lead."""
    return pack_indices(selection.leading, selection.dimension) if selection.leading.size else b""


def leading_coordinates(source: bytes, codec: CodecPlan, base: bytes) -> Indices:
    """Return the coordinates that lead a ``global_topk`` round on `base` (a digest): int64[<= kept // 2].

    `source` is the encoded step that led to `base`, named in the plan by ``codec.source``; with none the
    round is plain rand-k, as the first one of a task is. Raises UnledRoundError for a step that is not the
    one in the plan or does not lead to the base, UpdateError or MalformedMessageError for what is no step.
    """
    if not codec.source:
        return NO_LEADING
    if digest_of(source) != codec.source:
        raise UnledRoundError(
            "the step that the round's coordinates come from is missing or another one: fetch it again"
        )
    step = decode_step(source)
    if step.child != base:
        raise UnledRoundError(
            "the plan takes its coordinates from a step that does not lead to its base: plan anew"
        )
    return largest_moves(step, codec.dimension, leading_count(codec.kept))


def largest_moves(step: ModelStep, dimension: int, count: int) -> Indices:
    """Return the int64[<= count] coordinates that `step` moved most, increasing; none of an initial step.

    Raises UpdateError for a step of another model.
    """
    if step.kind == "randk":
        selection = step_selection(step, dimension)
        return selection.largest(decode_levels(step.payload, step.kept, ANY_LEVEL).q, count)
    if step.kind == "sparse":
        moved = TOPK.decode(step.payload, EncodeContext(dimension=dimension, kept=step.kept))
        return _largest_sparse(moved, count)
    return NO_LEADING


def _largest_sparse(moved: SparseUpdate, count: int) -> Indices:
    magnitudes = np.abs(moved.values)
    return moved.indices[largest(magnitudes, min(count, int(np.count_nonzero(magnitudes))))]
