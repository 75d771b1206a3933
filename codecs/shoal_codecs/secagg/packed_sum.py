"""Packed ring words added up as they are: no share is unpacked, and their sum is never packed.

Words of w bits lie in lanes of 64 bits without gaps. Every second word has w bits of room above it once its
neighbours are masked out, so that up to 2^w shares add up before a carry reaches the next such word. Three
running lanes make the sum: of everything; of the even words alone (their difference is the odd ones); and of
what the words that lie across the end of a lane have in it, moved down to where their carries have room. What
such a word has in the next lane is the lowest there, which no carry reaches: the first sum has it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shoal_codecs.secagg.errors import ShareLengthError
from shoal_codecs.secagg.prg import ring_dtype
from shoal_codecs.updates.base import Payload
from shoal_codecs.updates.bitpack import check_padding, pack_words, packed_size, unpack_words
from shoal_codecs.updates.keystream import Words

Lanes = npt.NDArray[np.uint64]
_LANE = np.dtype("<u8")
_LANE_BITS = 64
# Lanes at a time: what is masked meanwhile stays in the cache.
_PIECE = 1 << 14


class PackedSum:
    """The sum of packed shares of `count` words modulo 2**`bits`."""

    def __init__(self, count: int, bits: int) -> None:
        """Start at zero. Raises RingWidthError."""
        self.count, self.bits = count, bits
        self.reports = 0
        self._size = packed_size(count, bits)
        dtype = ring_dtype(bits)
        self._lanes: _Whole | _Gapless = (
            _Whole(count, dtype) if bits == 8 * dtype.itemsize else _Gapless(self._size, bits)
        )

    @property
    def nbytes(self) -> int:
        """Memory that the sum takes."""
        return self._lanes.nbytes

    def add(self, share: Payload) -> None:
        """Add a device's packed share, which must not change afterwards: it may wait for the next one.

        Raises ShareLengthError or PayloadContentError.
        """
        if len(share) != self._size:
            raise ShareLengthError(f"the round's shares have {self._size} bytes, got {len(share)}")
        check_padding(share, self.count, self.bits)
        self._lanes.add(np.frombuffer(share, np.uint8))
        self.reports += 1

    def subtract(self, share: Payload) -> None:
        """Take out a share that was added. Raises ShareLengthError or PayloadContentError."""
        if len(share) != self._size:
            raise ShareLengthError(f"the round's shares have {self._size} bytes, got {len(share)}")
        words = unpack_words(share, self.count, self.bits)
        np.negative(words, out=words)
        words &= words.dtype.type((1 << self.bits) - 1)
        self._lanes.add(np.frombuffer(pack_words(words, self.bits), np.uint8))
        self.reports -= 1

    def packed(self) -> bytes:
        """Return the sum, packed as a share is."""
        return self._lanes.total().tobytes()

    def words(self) -> Words:
        """Return the sum, uint[count] modulo 2**bits."""
        return unpack_words(self.packed(), self.count, self.bits)

    def erase(self) -> None:
        """Overwrite the sum with zeros and start again."""
        self._lanes.clear()
        self.reports = 0


class _Whole:
    """Words as wide as their type: they add as they lie."""

    def __init__(self, count: int, dtype: np.dtype[np.unsignedinteger]) -> None:
        self._words: Words = np.zeros(count, dtype.newbyteorder("<"))

    @property
    def nbytes(self) -> int:
        return self._words.nbytes

    def add(self, data: npt.NDArray[np.uint8]) -> None:
        np.add(self._words, data.view(self._words.dtype), out=self._words)

    def total(self) -> npt.NDArray[np.uint8]:
        return self._words.view(np.uint8)

    def clear(self) -> None:
        self._words.fill(0)


class _Gapless:
    """Words that lie across lanes; ``size`` is how many bytes they take packed."""

    def __init__(self, size: int, bits: int) -> None:
        self._size, self._bits = size, bits
        count = -(-size // 8)
        self._all, self._even = np.zeros(count, _LANE), np.zeros(count, _LANE)
        # Of lane i at i + 1: lane 0 has none before it.
        self._begun = np.zeros(count + 1, _LANE)
        # The pattern of words and lanes repeats every ``bits`` lanes, in which there are 64 words.
        times = max(1, min(_PIECE, count) // bits)
        self._piece = times * bits
        self._pattern = _Pattern(*(np.tile(one, times) for one in _pattern(bits)))
        self._buffer = np.empty(self._piece, _LANE)
        self._waiting: npt.NDArray[np.uint8] | None = None
        self._added = 0

    @property
    def nbytes(self) -> int:
        return 3 * self._all.nbytes + self._size

    def add(self, data: npt.NDArray[np.uint8]) -> None:
        # The sum is longer than the cache: it is read and written for two shares at a time.
        if self._waiting is None:
            self._waiting = data
            return
        first, self._waiting = self._waiting, None
        self._take(first, data)

    def total(self) -> npt.NDArray[np.uint8]:
        if self._waiting is not None:
            last, self._waiting = self._waiting, None
            self._take(last)
        total = np.empty_like(self._all)
        for start in range(0, total.size, self._piece):
            lanes = total[start : start + self._piece]
            end = start + lanes.size
            pattern = _Pattern(*(one[: lanes.size] for one in self._pattern))
            everything, even = self._all[start:end], self._even[start:end]
            np.subtract(everything, even, out=lanes)
            lanes &= pattern.whole_odd
            lanes |= even & pattern.whole_even
            lanes |= (self._begun[start + 1 : end + 1] << pattern.down) & pattern.begun
            # What has begun in the lane before goes on here, with its carries.
            lanes |= ((self._begun[start:end] >> pattern.before) + everything) & pattern.later
        return total.view(np.uint8)[: self._size]

    def clear(self) -> None:
        for lanes in (self._all, self._even, self._begun, self._buffer):
            lanes.fill(0)
        self._waiting = None
        self._added = 0

    def _take(self, *shares: npt.NDArray[np.uint8]) -> None:
        """Add one share or two in one pass over the sum."""
        if self._added + len(shares) >= 1 << self._bits:
            so_far = self.total()
            self.clear()
            self._take(so_far)
        self._added += len(shares)
        whole = self._size // 8
        several = [data[: 8 * whole].view(_LANE) for data in shares]
        for start in range(0, whole, self._piece):
            for lanes in several:
                self._add_lanes(start, lanes[start : start + self._piece])
        rest = self._size - 8 * whole
        for data in shares if rest else ():
            last = np.zeros(8, np.uint8)
            last[:rest] = data[-rest:]
            self._add_lanes(whole, last.view(_LANE))

    def _add_lanes(self, start: int, lanes: Lanes) -> None:
        """Add ``lanes``, at most a piece of them, that lie at lane ``start``."""
        place, end = start % self._piece, start + lanes.size
        even_mask, down = (one[place:][: lanes.size] for one in (self._pattern.even, self._pattern.down))
        found = self._buffer[: lanes.size]
        # Not `+=` on a part, which writes it once more.
        everything, even, begun = (
            self._all[start:end],
            self._even[start:end],
            self._begun[start + 1 : end + 1],
        )
        np.add(everything, lanes, out=everything)
        np.add(even, np.bitwise_and(lanes, even_mask, out=found), out=even)
        np.add(begun, np.right_shift(lanes, down, out=found), out=begun)


class _Pattern(NamedTuple):
    """Which bits of lanes are of which words.

    ``even``: of even words; ``whole_even`` and ``whole_odd``: of those that lie in one lane. Of those across
    the end of a lane: ``begun`` their first bits, which ``down`` moves to the lane's lowest; ``later`` the
    others, and ``before`` how many went before them.
    """

    even: Lanes
    whole_even: Lanes
    whole_odd: Lanes
    begun: Lanes
    later: Lanes
    down: Lanes
    before: Lanes


def _pattern(bits: int) -> _Pattern:
    """Return the pattern of ``bits`` lanes."""
    place = np.arange(bits * _LANE_BITS)
    word, lane = place // bits, place // _LANE_BITS
    first, last = word * bits // _LANE_BITS, (word * bits + bits - 1) // _LANE_BITS
    even, whole, begun = word % 2 == 0, first == last, (first != last) & (lane == first)
    later = ~whole & ~begun
    number = begun.reshape(bits, _LANE_BITS).sum(axis=1)
    # Where no word begins that goes on, any shift will do: nothing of it is used.
    down = np.minimum(_LANE_BITS - number, _LANE_BITS - 1)
    return _Pattern(
        even=_lanes_of(even),
        whole_even=_lanes_of(even & whole),
        whole_odd=_lanes_of(~even & whole),
        begun=_lanes_of(begun),
        later=_lanes_of(later),
        down=down.astype(_LANE),
        before=np.roll(number, 1).astype(_LANE),
    )


def _lanes_of(chosen: npt.NDArray[np.bool_]) -> Lanes:
    return np.packbits(chosen, bitorder="little").view(_LANE)
