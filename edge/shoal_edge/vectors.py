"""Model vectors on disk: little-endian float32, named by their BLAKE3 digest. Worker only: needs numpy."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.levels import unpack_levels
from shoal_codecs.updates.model_step import step_selection
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.updates.step import Step, apply_step
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.step import ModelStep
from shoal_codecs.wire.step import decode_step as decode_model_step
from shoal_codecs.wire.task import initial_weights
from shoal_edge.errors import DivergedError, VectorFileError
from shoal_edge.files import write_durably

Vector = npt.NDArray[np.float32]


def read_vector(path: Path, digest: bytes) -> Vector:
    """Return the float32[D] at ``path``.

    Raises:
        VectorFileError: missing, damaged, or not the vector with ``digest``.
        DivergedError: it holds NaN or infinity.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VectorFileError(f"cannot read the model {path.name[:16]}: {error.strerror}") from error
    if digest_of(data) != digest or len(data) % 4:
        raise VectorFileError(f"the model {path.name[:16]} on disk is damaged: fetch it again")
    return check_finite(np.frombuffer(data, dtype="<f4").astype(np.float32))


def read_step(path: Path) -> bytes:
    """Return the encoded step at ``path``.

    Raises:
        VectorFileError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise VectorFileError(f"cannot read the step {path.name[:16]}: {error.strerror}") from error


def write_vector(path: Path, vector: Vector) -> None:
    """Put ``vector`` at ``path``, whole or not at all."""
    write_durably(path, vector.astype("<f4", copy=False).tobytes())


def check_finite(vector: Vector) -> Vector:
    """Return ``vector`` if every weight is a number.

    Raises:
        DivergedError: it holds NaN or infinity.
    """
    if not np.isfinite(vector).all():
        raise DivergedError("the model holds NaN or infinity: go back to an earlier version")
    return vector


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
