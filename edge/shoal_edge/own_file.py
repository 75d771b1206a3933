"""The file of what a device keeps for itself of a task: tensors, and perhaps a model, that never leave it.

Personal data like the examples they are trained on: readable by the agent's user alone, in no message and no
log. The file is a BLAKE3 digest (32 bytes) and a packed map.
"""

import contextlib
from pathlib import Path

import msgspec

from shoal_codecs.wire.blob import DIGEST_BYTES, digest_of
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.task import TypedArray
from shoal_codecs.wire.task_errors import InvalidTaskError
from shoal_edge.errors import StoreError
from shoal_edge.files import write_durably


class OwnFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tensors`` by parameter name; ``personal`` is a whole model (D,) of this device's, None for none.

    ``damaged`` says that there was a file which could not be used; it was set aside.
    """

    tensors: dict[str, TypedArray] = {}
    personal: TypedArray | None = None
    damaged: bool = False


def read_own_file(path: Path) -> OwnFile:
    """Return what is kept at ``path``; nothing where there is no file, or a damaged one, which is set aside.

    Raises:
        StoreError: the disk does not give it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return OwnFile()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; mend the disk") from error
    digest, packed = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    with contextlib.suppress(msgspec.ValidationError, MalformedMessageError, InvalidTaskError):
        if digest_of(packed) == digest:
            kept = unpack(packed, OwnFile)
            for name, one in (*kept.tensors.items(), ("personal", kept.personal)):
                if one is not None:
                    one.check(name)
            return kept
    with contextlib.suppress(OSError):
        path.replace(path.with_name(path.name + ".damaged"))
    return OwnFile(damaged=True)


def write_own_file(path: Path, kept: OwnFile) -> None:
    """Keep ``kept`` at ``path``, whole or not at all, for this user alone.

    Raises:
        StoreError: the disk does not take it.
    """
    packed = pack(kept)
    write_durably(path, digest_of(packed) + packed, private=True)
