"""What a device keeps for itself, as arrays that complete the fleet's vector. Worker only: needs numpy."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shoal_codecs.updates.base import Float32Vector
from shoal_codecs.updates.shared_part import OwnTensors, SharedPart
from shoal_codecs.wire.task import TaskBundle, TypedArray, initial_weights
from shoal_edge.own_file import OwnFile, read_own_file, write_own_file


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """``tensors`` that stay here, and ``personal`` (D,), this device's whole model (Ditto), or None.

    ``damaged`` says that there was a file which could not be used; it was set aside.
    """

    tensors: OwnTensors = field(default_factory=dict)
    personal: Float32Vector | None = None
    damaged: bool = False


def read_own(path: Path) -> Own:
    """Return what is kept at ``path``; nothing where there is no file, or a damaged one, which is set aside.

    Raises:
        StoreError: the disk does not give it.
    """
    kept = read_own_file(path)
    personal = None if kept.personal is None else _array(kept.personal).reshape(-1)
    return Own({name: _array(one) for name, one in kept.tensors.items()}, personal, kept.damaged)


def read_tensors(path: str) -> OwnTensors:
    """Return the tensors kept at ``path``; none where that is empty.

    Raises:
        StoreError: the disk does not give them.
    """
    return read_own(Path(path)).tensors if path else {}


def write_own(path: Path, own: Own) -> None:
    """Keep ``own`` at ``path``, whole or not at all, for this user alone.

    Raises:
        StoreError: the disk does not take it.
    """
    tensors = {name: TypedArray.of(tensor) for name, tensor in own.tensors.items()}
    write_own_file(path, OwnFile(tensors, None if own.personal is None else TypedArray.of(own.personal)))


def begun(part: SharedPart, own: Own, bundle: TaskBundle) -> dict[str, Float32Vector]:
    """Return a tensor for each parameter of ``part`` that stays here: the kept one, else the task's first."""
    first: dict[str, Float32Vector] = {}
    if part.own:
        first = part.own_of(initial_weights(bundle.parameters, bundle.reference.seed))
    for one in part.own:
        kept = own.tensors.get(one.name)
        if kept is not None and kept.shape == one.shape and np.isfinite(kept).all():
            first[one.name] = kept
    return first


def part_for(bundle: TaskBundle, own: Own, length: int) -> SharedPart:
    """Return which part of the task a fleet's vector of ``length`` is: all of it, or all but ``own``."""
    if length == bundle.dimension or not own.tensors:
        return SharedPart(bundle.parameters)
    return SharedPart(bundle.parameters, tuple(own.tensors))


def _array(kept: TypedArray) -> Float32Vector:
    return kept.numpy().astype(np.float32)
