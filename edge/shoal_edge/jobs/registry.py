"""The requests by name, and where each is answered. Light: what a job needs is loaded when it is found.

Every library is memory that a small board has not got for the model it trains.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from shoal_edge.errors import UnknownRequestError

if TYPE_CHECKING:
    from shoal_edge.jobs.state import WorkerState

JOBS: Mapping[str, str] = MappingProxyType(
    {
        "prepare": "preparing",
        "measure": "preparing",
        "count_parts": "counting",
        "count_examples": "counting",
        "check_vector": "stepping",
        "apply_step": "stepping",
        "fit_and_report": "reporting",
        "evaluate": "judging",
        "evaluate_artefact": "judging",
        "predict": "predicting",
        "predict_own": "predicting",
        "single_shares": "sharing",
        "single_boxes": "sharing",
    }
)
"""Module of this package; the job is its function of the request's name."""


def load(do: str) -> Callable[..., dict[str, Any]]:
    """Return the function that answers the request ``do``, with all that it needs loaded.

    Raises:
        UnknownRequestError: there is none.
    """
    if do not in JOBS:
        raise UnknownRequestError(f"no request is called {do[:40]!r}: update agent and worker together")
    found: Callable[..., dict[str, Any]] = getattr(importlib.import_module(f"shoal_edge.jobs.{JOBS[do]}"), do)
    return found


def job(state: "WorkerState", do: str) -> Callable[..., dict[str, Any]]:
    """Return the job ``do`` of the worker that holds ``state``.

    It takes the request's arguments by name and ``should_stop``, returns a map of plain values, and raises
    ShoalError on a named fault.

    Raises:
        UnknownRequestError: there is none.
    """
    return partial(load(do), state)
