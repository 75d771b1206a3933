"""Rounding to integer levels."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_F = TypeVar("_F", np.float32, np.float64)


def round_stochastically(values: npt.NDArray[_F], rng: np.random.Generator) -> npt.NDArray[_F]:
    """Round each value up with the probability of its fraction, else down: unbiased.

    Returns integral values of the same dtype and shape; integers stay as they are.
    """
    floor: npt.NDArray[_F] = np.floor(values)
    # Comparing the exact fraction, not flooring values + u: that sum rounds up near one.
    floor += rng.random(values.shape, dtype=np.float32) < values - floor
    return floor
