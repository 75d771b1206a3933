"""Constants of minimal filtering: fewer products for a kernel that moves by one place at a time.

Winograd 1980, chapter V; Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.
Two outputs y of r weights g on r + 1 inputs d are y = A^T ((G g) * (B^T d)), with r + 1 products instead of
2 r: polynomials are multiplied at r points and at infinity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod

import numpy as np
import numpy.typing as npt

OUTPUTS = 2
"""How many outputs are computed together along an axis."""

# Of the points tried, these lose least in float32 (Barabasz et al. 2020): with three weights about what the
# direct sum loses, with five up to nine times that, which is still a tenth of what authoring allows.
_POINTS = {
    3: (Fraction(0), Fraction(1), Fraction(-1)),
    5: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
SIZES = frozenset(_POINTS)
"""Sides of kernels that there are constants for."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Constants:
    """Of a kernel with r weights, for ``OUTPUTS`` outputs of n = r + 1 products."""

    of_inputs: Matrix
    """B^T (n, n)."""
    of_weights: Matrix
    """G (n, r)."""
    of_outputs: Matrix
    """A (n, outputs)."""


@cache
def constants(size: int) -> Constants:
    """Return the constants for a kernel with a side of ``size``, one of ``SIZES``."""
    points = _POINTS[size]
    least = [_lowest(point, points) for point in points]
    n = len(points) + 1
    inputs = [[*_product_of(other for other in points if other != point), Fraction(0)] for point in points]
    weights = [[point**k / scale for k in range(size)] for point, scale in zip(points, least, strict=True)]
    outputs = [[point**k for k in range(OUTPUTS)] for point in points]
    # At infinity is what multiplies the highest powers.
    return Constants(
        _array([*inputs, _product_of(points)], n),
        _array([*weights, [Fraction(k == size - 1) for k in range(size)]], size),
        _array([*outputs, [Fraction(k == OUTPUTS - 1) for k in range(OUTPUTS)]], OUTPUTS),
    )


def _lowest(point: Fraction, points: tuple[Fraction, ...]) -> Fraction:
    """Return the product of the distances from ``point`` to all others."""
    return prod((point - other for other in points if other != point), start=Fraction(1))


def _product_of(roots: Iterable[Fraction]) -> list[Fraction]:
    """Return the coefficients of the polynomial with these ``roots``, the lowest power first."""
    polynomial = [Fraction(1)]
    for root in roots:
        raised = [Fraction(0), *polynomial]
        polynomial = [high - root * low for high, low in zip(raised, [*polynomial, Fraction(0)], strict=True)]
    return polynomial


def _array(rows: list[list[Fraction]], width: int) -> Matrix:
    return np.array([[float(one) for one in row] for row in rows], np.float32).reshape(-1, width)
