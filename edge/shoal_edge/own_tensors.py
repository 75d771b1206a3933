"""What a device keeps for itself of a task: tensors that never leave it. Worker only: needs numpy.

Personal data like the examples they are trained on: readable by the agent's user alone, in no message and no
log. The file is a BLAKE3 digest (32 bytes) and a packed map.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from shoal_codecs.updates.base import Float32Vector
from shoal_codecs.updates.shared_part import OwnTensors, SharedPart
from shoal_codecs.wire.blob import DIGEST_BYTES, digest_of
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.task import TaskBundle, TypedArray, initial_weights
from shoal_codecs.wire.task_errors import InvalidTaskError
from shoal_edge.errors import StoreError
from shoal_edge.files import write_durably


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tensors`` by parameter name; ``personal`` is a whole model of this device's, None for none."""

    tensors: dict[str, TypedArray]
    personal: TypedArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """``tensors`` that stay here, and ``personal`` (D,), this device's whole model (Ditto), or None.

    ``damaged`` says that there was a file which could not be used; it is set aside.
    """

    tensors: OwnTensors = field(default_factory=dict)
    personal: Float32Vector | None = None
    damaged: bool = False


def read_own(path: Path) -> Own:
    """Return what is kept at ``path``; nothing where there is no file, or a damaged one, which is set aside.

    Raises:
        StoreError: the disk does not give it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Own()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; mend the disk") from error
    digest, packed = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    with contextlib.suppress(msgspec.ValidationError, MalformedMessageError, InvalidTaskError):
        if digest_of(packed) == digest:
            kept = unpack(packed, _Kept)
            personal = None if kept.personal is None else _array("personal", kept.personal).reshape(-1)
            return Own({name: _array(name, one) for name, one in kept.tensors.items()}, personal)
    with contextlib.suppress(OSError):
        path.replace(path.with_name(path.name + ".damaged"))
    return Own(damaged=True)


def write_own(path: Path, own: Own) -> None:
    """Keep ``own`` at ``path``, whole or not at all, for this user alone.

    Raises:
        StoreError: the disk does not take it.
    """
    packed = pack(
        _Kept(
            {name: TypedArray.of(tensor) for name, tensor in own.tensors.items()},
            None if own.personal is None else TypedArray.of(own.personal),
        )
    )
    write_durably(path, digest_of(packed) + packed, private=True)


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


def _array(name: str, kept: TypedArray) -> Float32Vector:
    kept.check(name)
    return kept.numpy().astype(np.float32)
