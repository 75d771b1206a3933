"""What numpy's generator draws from a seed, bit for bit, without ``numpy.random``.

That package brings generators, and by way of the standard library's hashes OpenSSL: 6 MB that a small board
has not got beside the model that it trains. Here is as much as weights and a split are drawn with: seeds are
spread as numpy's SeedSequence does it (after O'Neill's seed_seq_fe128), words are those of PCG64 (O'Neill
2014, PCG XSL RR 128/64), and a bounded number is half a word under a mask, drawn again where it is too large.
"""

from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
_LANES = 1 << 12
_M32, _M64, _M128 = (1 << 32) - 1, (1 << 64) - 1, (1 << 128) - 1
_MULTIPLIER = 2549297995355413924 << 64 | 4865540595714422341
_POOL = 4
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_LEFT, _MIX_RIGHT = 0xCA01F9DD, 0x4973F715
_LOW, _HALF = np.uint64(_M32), np.uint64(32)


class Pcg64:
    """The words that ``numpy.random.PCG64(seed)`` gives, for a ``seed`` of zero or more."""

    def __init__(self, seed: int) -> None:
        first, second, third, fourth = _spread(seed)
        increment = ((third << 64 | fourth) << 1 | 1) & _M128
        self._state = ((increment + (first << 64 | second)) * _MULTIPLIER + increment) & _M128
        self._added = _product(_jumps()[1], increment)

    def random_raw(self, count: int) -> Words:
        """Return the next ``count`` words."""
        out = np.empty(count, np.uint64)
        for start in range(0, count, _LANES):
            self._draw(out[start : start + _LANES])
        return out

    def _draw(self, out: Words) -> None:
        """Write at most ``_LANES`` words: every lane's state is a jump from this one."""
        lanes = slice(out.size)
        high, low = _product(tuple(one[lanes] for one in _jumps()[0]), self._state)
        added_high, added_low = (one[lanes] for one in self._added)
        low += added_low
        high += added_high
        high += low < added_low
        self._state = int(high[-1]) << 64 | int(low[-1])
        low ^= high
        high >>= np.uint64(58)
        np.right_shift(low, high, out=out)
        # A turn by nothing shifts by 64, of which the low bits are none.
        np.subtract(np.uint64(64), high, out=high)
        high &= np.uint64(63)
        low <<= high
        out |= low


def permutation(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the order that ``numpy.random.default_rng(seed).permutation(count)`` gives: int64[count]."""
    order = list(range(count))
    draws = _halves(Pcg64(seed))
    for last in range(count - 1, 0, -1):
        mask = (1 << last.bit_length()) - 1
        place = next(draws) & mask
        while place > last:
            place = next(draws) & mask
        order[last], order[place] = order[place], order[last]
    return np.array(order, np.int64)


def _halves(source: Pcg64) -> Iterator[int]:
    """Yield the words' halves, the lower one first."""
    while True:
        for word in source.random_raw(_LANES).tolist():
            yield word & _M32
            yield word >> 32


def _product(number: tuple[Words, ...], factor: int) -> tuple[Words, Words]:
    """Return (high, low) words of 128-bit numbers times ``factor``, modulo 2**128.

    ``number`` is (high, low, upper half of low, lower half of low).
    """
    high, low, a, b = number
    low_factor, upper, lower = (np.uint64(one) for one in (factor & _M64, factor >> 32 & _M32, factor & _M32))
    # Schoolbook on halves, for what the product of the low words carries.
    middle = b * lower
    middle >>= _HALF
    left, right = b * upper, a * lower
    middle += left & _LOW
    middle += right & _LOW
    middle >>= _HALF
    left >>= _HALF
    right >>= _HALF
    middle += left
    middle += right
    middle += a * upper
    middle += high * low_factor
    middle += low * np.uint64(factor >> 64)
    return middle, low * low_factor


@cache
def _jumps() -> tuple[tuple[Words, ...], tuple[Words, ...]]:
    """Return a**k, and 1 + a + ... + a**(k - 1), for k = 1 to ``_LANES``, as ``_product`` takes them."""
    power, total = 1, 0
    powers, sums = [], []
    for _ in range(_LANES):
        total = (total * _MULTIPLIER + 1) & _M128
        power = power * _MULTIPLIER & _M128
        powers.append(power)
        sums.append(total)
    return _words(powers), _words(sums)


def _words(numbers: list[int]) -> tuple[Words, ...]:
    high = np.array([one >> 64 for one in numbers], np.uint64)
    low = np.array([one & _M64 for one in numbers], np.uint64)
    return high, low, low >> _HALF, low & _LOW


def _spread(seed: int) -> tuple[int, int, int, int]:
    """Return the four 64-bit words that ``SeedSequence(seed)`` begins a generator with."""
    if seed < 0:
        raise ValueError("a seed is not negative")
    entropy = [seed >> shift & _M32 for shift in range(0, max(seed.bit_length(), 1), 32)]
    constant = _INIT_A

    def hashed(value: int) -> int:
        nonlocal constant
        value ^= constant
        constant = constant * _MULT_A & _M32
        value = value * constant & _M32
        return value ^ value >> 16

    def mixed(one: int, other: int) -> int:
        value = (_MIX_LEFT * one - _MIX_RIGHT * other) & _M32
        return value ^ value >> 16

    pool = [hashed(entropy[place] if place < len(entropy) else 0) for place in range(_POOL)]
    for source in range(_POOL):
        for place in range(_POOL):
            if place != source:
                pool[place] = mixed(pool[place], hashed(pool[source]))
    for more in entropy[_POOL:]:
        pool = [mixed(one, hashed(more)) for one in pool]
    constant = _INIT_B
    halves = []
    for value in islice(cycle(pool), 2 * _POOL):
        given = value ^ constant
        constant = constant * _MULT_B & _M32
        given = given * constant & _M32
        halves.append(given ^ given >> 16)
    first, second, third, fourth = (
        low | high << 32 for low, high in zip(halves[::2], halves[1::2], strict=True)
    )
    return first, second, third, fourth
