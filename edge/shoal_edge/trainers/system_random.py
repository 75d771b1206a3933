"""Chance for a fit, from the system's generator."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt


class SystemRandom:
    """A ``RandomSource`` that nobody can foresee; numpy's own generators are megabytes."""

    def permutation(self, x: int, /) -> npt.NDArray[np.int64]:
        """Return the numbers below ``x`` in a random order: int64[x]."""
        # Of 64 random bits no two are alike.
        return np.frombuffer(os.urandom(8 * x), np.uint64).argsort()

    def integers(self, low: int, high: int, size: int, dtype: Any) -> npt.NDArray[Any]:
        """Return ``size`` numbers from ``low`` to below ``high``, which are at most 2**32 apart."""
        drawn = np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(32)
        return (low + (drawn * np.uint64(high - low) >> np.uint64(32)).astype(np.int64)).astype(dtype)
