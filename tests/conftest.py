"""Fixtures that every test may ask for."""

from brokers import embedded_broker, mosquitto, open_mosquitto

__all__ = ["embedded_broker", "mosquitto", "open_mosquitto"]
