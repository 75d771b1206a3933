"""Chance that is the same each time, for what a test measures of it."""

import os
import random

import pytest


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw what the system's generator would give from a seed: noise, order of examples, keys.

    What depends on chance is then found again as it was, and margins are those that were looked at.
    """
    monkeypatch.setattr(os, "urandom", random.Random(0).randbytes)
