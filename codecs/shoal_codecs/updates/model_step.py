"""A model step's coordinates and levels: what a step moved, and which of it the next round looks at again."""

import numpy as np

from shoal_codecs.updates.base import Indices
from shoal_codecs.updates.errors import CoordinateError, UnledRoundError
from shoal_codecs.updates.indexcode import pack_indices, unpack_indices
from shoal_codecs.updates.levels import unpack_levels
from shoal_codecs.updates.selection import (
    NO_LEADING,
    Selection,
    largest,
    leading_count,
    select_coordinates,
)
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.plan import CodecPlan
from shoal_codecs.wire.step import ModelStep, decode_step


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
    if step.kind == "initial":
        return NO_LEADING
    levels = unpack_levels(step.payload, step.kept)
    if step.kind == "randk":
        return step_selection(step, dimension).largest(levels, count)
    if levels.size != dimension:
        raise CoordinateError(f"a step over {levels.size} parameters leads none of {dimension}: plan anew")
    magnitudes = np.abs(levels.astype(np.int64))
    return largest(magnitudes, min(count, int(np.count_nonzero(magnitudes))))
