"""Fixtures that every test may ask for."""

from hypothesis import HealthCheck, settings

from brokers import embedded_broker, mosquitto, open_mosquitto
from repeatable import repeatable

# How fast examples come is the machine's business, not the code's.
settings.register_profile("shoal", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shoal")

__all__ = ["embedded_broker", "mosquitto", "open_mosquitto", "repeatable"]
