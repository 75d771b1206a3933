"""Chance for a fit and its report, from the system's generator."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Octets


class SystemRandom:
    """A ``RandomSource`` and ``Chance`` that nobody can foresee; numpy's own generators are megabytes."""

    def bytes(self, length: int, /) -> Octets:
        """Return so many random bytes."""
        return os.urandom(length)

    def random(self, size: int, /) -> npt.NDArray[np.float64]:
        """Return numbers from 0 to below 1: float64[size]."""
        drawn = np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(11)
        found: npt.NDArray[np.float64] = drawn.astype(np.float64)
        found *= 2.0**-53
        return found

    def permutation(self, x: int, /) -> npt.NDArray[np.int64]:
        """Return the numbers below ``x`` in a random order: int64[x]."""
        # Of 64 random bits no two are alike.
        return np.frombuffer(os.urandom(8 * x), np.uint64).argsort()

    def integers(self, low: int, high: int, size: int, dtype: Any) -> npt.NDArray[Any]:
        """Return ``size`` numbers from ``low`` to below ``high``, which are at most 2**32 apart."""
        drawn = np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(32)
        return (low + (drawn * np.uint64(high - low) >> np.uint64(32)).astype(np.int64)).astype(dtype)
