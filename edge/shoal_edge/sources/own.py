"""The device's examples for a model that is deployed already, whose task may be here or not."""

from pathlib import Path

import msgspec
import numpy as np

from shoal_codecs.wire.task import decode_task
from shoal_edge.data import Examples, read_arrays
from shoal_edge.sources.registry import divide, open_source
from shoal_edge.sources.settings import unpack_data
from shoal_edge.sources.source import Wanted
from shoal_edge.trainers.errors import UnreadableDataError


def own_examples(place: Path, data: bytes, task_path: str, *, held_out: bool) -> Examples | None:
    """Return the examples at ``place``, or their held-out part; None where there are none to be had.

    With the task at ``task_path`` the source is read as ``data`` (packed settings) says. Without it only an
    archive can be read, as it is: nobody knows what any other source is to become; the model looks at what it
    is given. A label of -1 is not known.

    Raises:
        DataError: examples that cannot be read.
    """
    # A model that runs is judged by what there is, be it little.
    settings = msgspec.structs.replace(unpack_data(data), min_examples=1)
    if not place.exists():
        return None
    if task_path and Path(task_path).is_file():
        wanted = Wanted.by(decode_task(Path(task_path).read_bytes()))
        examples = open_source(settings, place).examples(wanted)
    elif settings.kind == "npz":
        examples = _as_they_are(place)
    else:
        return None
    return divide(examples, settings.held_out)[1] if held_out else examples


def _as_they_are(path: Path) -> Examples:
    arrays = read_arrays(path)
    if "x" not in arrays or not arrays["x"].ndim:
        raise UnreadableDataError(f"{path} holds no examples x: save them with numpy.savez")
    x = arrays["x"]
    y = arrays.get("y")
    if y is None:
        return Examples(x, np.full(len(x), -1, np.int32))
    if y.dtype.kind == "f" and y.shape[:1] == x.shape[:1]:
        return Examples(x, y.astype(np.float32))
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise UnreadableDataError(f"{path} holds no target for each example: save x and y with numpy.savez")
    return Examples(x, y.astype(np.int32))
