"""Fixtures that every test may ask for."""

import gc
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from brokers import embedded_broker, mosquitto, open_mosquitto
from repeatable import repeatable

# How fast examples come is the machine's business, not the code's.
settings.register_profile("shoal", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shoal")

__all__ = ["embedded_broker", "mosquitto", "open_mosquitto", "repeatable"]


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """Collect what the last tests left, so that a warning about it is a fault of theirs.

    Otherwise it would come when the process ends, and that of a worker tells nobody.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def loggers_keep_nothing() -> Iterator[None]:
    """Let no logger keep what it was first used with: a test that listens would hear nothing of it."""
    with pytest.MonkeyPatch.context() as patch:
        configure = structlog.configure
        patch.setattr(
            structlog, "configure", lambda **given: configure(**given | {"cache_logger_on_first_use": False})
        )
        yield


@pytest.fixture(autouse=True)
def loggers_are_heard() -> Iterator[None]:
    """Take back what a test let its commands say of logs: under a higher level the next hears nothing."""
    yield
    structlog.reset_defaults()
