"""A device's part of a data set that many share: described in a small file instead of copied."""

from pathlib import Path

import msgspec

from shoal_edge.swarm.errors import PartFileError

PART_SUFFIX = ".part"


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part ``index`` (from 0) of ``parts``, into which ``partition`` splits ``source`` by ``seed``.

    ``held_out`` is the share of it that is not trained on; ``training`` and ``testing`` are how many examples
    that makes, told by heartbeats before the data is read.
    """

    source: str
    partition: str
    parts: int
    index: int
    seed: int
    held_out: float = 0.2
    training: int = 0
    testing: int = 0


def read_part(path: Path) -> Part:
    """Return what the file at ``path`` describes.

    Raises:
        PartFileError: it cannot be read, or describes no part.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Part)
    except OSError as error:
        raise PartFileError(f"cannot read {path} ({error.strerror}): start the swarm again") from error
    except msgspec.DecodeError as error:
        raise PartFileError(f"{path} describes no part ({error}): start the swarm again") from error


def write_part(path: Path, part: Part) -> None:
    """Write ``part`` where it is not there already."""
    data = msgspec.json.encode(part)
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
