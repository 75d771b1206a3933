"""How many examples there are, before any task is here."""

from pathlib import Path
from typing import Any

from shoal_edge.data import held_count
from shoal_edge.jobs.state import Stop, WorkerState
from shoal_edge.sources.registry import open_source
from shoal_edge.sources.settings import ShareSettings, unpack_data


def count_examples(_state: WorkerState, *, data_path: str, data: bytes, should_stop: Stop) -> dict[str, Any]:
    """Count the examples before any task is here: how many to train on, how many held out."""
    del should_stop
    settings = unpack_data(data)
    count = open_source(settings, Path(data_path)).count()
    held = held_count(count, settings.held_out)
    return {"examples": count - held, "held_out": held}


def count_parts(_state: WorkerState, *, data_path: str, data: bytes, should_stop: Stop) -> dict[str, Any]:
    """Return how many (training, held-out) examples each part of a shared set has, if that is known."""
    del should_stop
    settings = unpack_data(data)
    counts = open_source(settings, Path(data_path)).share_counts(settings.share or ShareSettings())
    return {"counts": counts}
