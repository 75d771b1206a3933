"""What the tests of sources share."""

import contextlib
import tracemalloc
from collections.abc import Callable

from hypothesis import HealthCheck, settings

from shoal_edge.trainers.errors import DataError

QUICK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def bounded(do: Callable[[], object], most: int = 8 << 20) -> None:
    """Run ``do``, which may raise a DataError and nothing else, and hold its memory to a bound."""
    tracemalloc.start()
    try:
        with contextlib.suppress(DataError):
            do()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < most
