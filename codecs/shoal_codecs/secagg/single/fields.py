"""Arithmetic in GF(2^8) and GF(2^16) on numpy arrays, by logarithm tables.

GF(2^8) is that of AES (FIPS 197, section 4: x^8 + x^4 + x^3 + x + 1, generator 3); GF(2^16) uses
x^16 + x^12 + x^3 + x + 1, of which 2 is a generator. Addition is exclusive or.
"""

from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Elements: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]


class Field:
    """One field of ``1 << bits`` elements; ``dtype`` is how they are held, little-endian."""

    def __init__(self, bits: int, polynomial: int, generator: int) -> None:
        self.bits = bits
        self.order = (1 << bits) - 1
        self.dtype = np.dtype(f"<u{bits // 8}")
        # The logarithm of zero points behind every sum of two others, where the table holds zeros.
        zero = 2 * self.order
        self._log = np.empty(self.order + 1, dtype=np.int32)
        self._exp = np.zeros(2 * zero + 1, dtype=self.dtype)
        element = 1
        for power in range(self.order):
            self._exp[power] = self._exp[power + self.order] = element
            self._log[element] = power
            element = _times(element, generator, polynomial, bits)
        self._log[0] = zero

    def multiply(self, one: Elements, other: Elements) -> Elements:
        """Return the products, element by element (shapes broadcast)."""
        product: Elements = self._exp[self._log[one] + self._log[other]]
        return product

    def divide(self, one: Elements, other: Elements) -> Elements:
        """Return ``one / other`` element by element; ``other`` holds no zero."""
        quotient: Elements = self._exp[(self._log[one] - self._log[other]) % self.order]
        quotient[one == 0] = 0
        return quotient


def field_for(holders: int) -> Field:
    """Return the smallest field with a point of its own, other than zero, for each of ``holders``."""
    return _field(8 if holders <= 255 else 16)


@cache
def _field(bits: int) -> Field:
    return Field(8, 0x11B, 3) if bits == 8 else Field(16, 0x1100B, 2)


def _times(element: int, generator: int, polynomial: int, bits: int) -> int:
    """Return the product by shifting and adding: slow, and only for the tables."""
    product = 0
    while generator:
        if generator & 1:
            product ^= element
        element <<= 1
        if element >> bits:
            element ^= polynomial
        generator >>= 1
    return product
