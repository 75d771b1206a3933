"""Steps between versions of the fleet's vector, as the device makes them. Worker only: needs numpy."""

import math
from collections.abc import Iterable
from pathlib import Path

from shoal_codecs.updates.levels import unpack_levels
from shoal_codecs.updates.model_step import step_selection
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.updates.step import Step, apply_step
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.step import ModelStep
from shoal_codecs.wire.step import decode_step as decode_model_step
from shoal_codecs.wire.task import initial_weights
from shoal_edge.errors import VectorFileError
from shoal_edge.vectors import Vector, check_finite, read_vector


def read_step(path: Path) -> bytes:
    """Return the encoded step at ``path``.

    Raises:
        VectorFileError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise VectorFileError(f"cannot read the step {path.name[:16]}: {error.strerror}") from error


def step_vector(base_path: Path, encoded: bytes) -> Vector:
    """Return the child that an encoded ``ModelStep`` makes of the vector at ``base_path``.

    Raises:
        VectorFileError: the base is damaged, or the step leads elsewhere than it says.
        UpdateError, MalformedMessageError: not a step for this vector.
    """
    step = decode_model_step(encoded)
    base = read_vector(base_path, step.parent)
    if step.kind == "initial":
        raise MalformedMessageError("a step from a parent that needs none: fetch the whole model")
    fewest = base.size if step.kind == "dense" else 1
    if not fewest <= step.kept <= base.size or not math.isfinite(step.scale):
        raise MalformedMessageError("a step for another model: fetch the whole model")
    levels = Step(unpack_levels(step.payload, step.kept), step.scale)
    chosen = step_selection(step, base.size).indices if step.kind == "randk" else None
    return _arrived(apply_step(base, chosen, levels), step)


def first_vector(encoded: bytes, parts: Iterable[SharedPart]) -> Vector:
    """Return the initial vector that an encoded ``ModelStep`` draws: of the one of ``parts`` that it means.

    Raises:
        VectorFileError: the seed leads elsewhere than the step says.
        MalformedMessageError: not a step, or one that needs a parent.
    """
    step = decode_model_step(encoded)
    if step.kind != "initial":
        raise MalformedMessageError("a step without the parent it needs: fetch the whole model")
    seed = int.from_bytes(step.seed, "big")
    drawn = [part.of(initial_weights(part.parameters, seed)) for part in parts]
    meant = [vector for vector in drawn if _digest(vector) == step.child]
    return _arrived((meant or drawn)[0], step)


def _arrived(child: Vector, step: ModelStep) -> Vector:
    if _digest(child) != step.child:
        raise VectorFileError("the step does not lead to the version it names: fetch the whole model")
    return check_finite(child)


def _digest(vector: Vector) -> bytes:
    return digest_of(vector.astype("<f4", copy=False).tobytes())
