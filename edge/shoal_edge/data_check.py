"""``shoal-edge data check``: what the device's source gives, for its owner to read before a round needs it.

Labels and their counts are the owner's: they go to a terminal, never to a log, a file or a message.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shoal_codecs.wire.task import TaskBundle, decode_task
from shoal_edge.config import EdgeSettings
from shoal_edge.data import Examples, held_out_indices
from shoal_edge.errors import TaskFileError
from shoal_edge.sources.registry import open_source
from shoal_edge.sources.rows import chunks
from shoal_edge.sources.source import Wanted
from shoal_edge.store import held_state

BAR_CHARACTERS = 30
SHOWN = 40


def data_words(settings: EdgeSettings, task: Path | None, *, labels: bool) -> str:
    """Return what the source of ``settings`` gives for the task in the file ``task``, as text.

    Without ``task``, for the task that the device holds. Every example is read, as training would.
    ``labels`` tells whether to show what is in them: only on a terminal.

    Raises:
        TaskFileError: there is no task.
        DataError: in which way the examples cannot be used; its notes are for the owner alone.
    """
    bundle = _task(settings, task)
    examples = open_source(settings.data, settings.examples_path).examples(Wanted.by(bundle))
    return "\n".join(_lines(settings, bundle, examples, labels=labels)) + "\n"


def _task(settings: EdgeSettings, path: Path | None) -> TaskBundle:
    held = held_state(settings.state).task
    if path is None and not held:
        raise TaskFileError(
            "this device holds no task yet, and examples are checked for one: name its file with --task"
        )
    try:
        data = (path or settings.state / "blobs" / held.hex()).read_bytes()
    except OSError as error:
        raise TaskFileError(
            f"cannot read the task {path or ''} ({error.strerror}): name its file with --task"
        ) from error
    return decode_task(data, path or "")


def _lines(settings: EdgeSettings, bundle: TaskBundle, examples: Examples, *, labels: bool) -> Iterator[str]:
    rest, aside = held_out_indices(examples, settings.data.held_out)
    low, high = _extent(examples)
    shape = " x ".join(map(str, examples.x.shape[1:])) or "1"
    yield f"{'source':10}{settings.data.kind}, {settings.examples_path}"
    yield f"{'task':10}{bundle.name}"
    yield f"{'examples':10}{len(examples)}: {len(rest)} to train on, {len(aside)} held out"
    yield f"{'values':10}{shape} {examples.x.dtype}, {low:g} to {high:g}"
    if bundle.target.kind == "values":
        yield f"{'learns':10}{' x '.join(map(str, bundle.target.shape)) or '1'} values of each"
        return
    if not labels:
        yield f"{'labels':10}shown on a terminal only"
        return
    counts = np.bincount(examples.y, minlength=len(bundle.labels))
    if not len(counts):
        return
    order = range(len(counts)) if len(counts) <= SHOWN else np.argsort(-counts)[:SHOWN].tolist()
    width = max(len(bundle.labels[label]) for label in order)
    for number, label in enumerate(order):
        bar = "#" * round(BAR_CHARACTERS * counts[label] / max(counts.max(), 1))
        row = f"{bundle.labels[label]:<{width}}  {counts[label]:>7}  {bar}"
        yield f"{'labels' if not number else '':10}{row}".rstrip()
    if len(counts) > SHOWN:
        yield f"{'':10}and {len(counts) - SHOWN} more labels"


def _extent(examples: Examples) -> tuple[float, float]:
    """Return the least and the greatest value; reads every example, some at a time."""
    found = [(part.min(), part.max()) for one in chunks(len(examples)) if (part := examples.x[one]).size]
    return float(min(low for low, _ in found)), float(max(high for _, high in found))
