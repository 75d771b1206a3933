"""Packed ring words added up as they are: no share is unpacked, and their sum is never packed.

Words of w bits lie in lanes of 64 bits without gaps. Every second word has w bits of room above it once its
neighbours are masked out, so that up to 2^w shares add up before a carry reaches the next such word. Three
running lanes make the sum: of everything, of the even words alone (their difference is the odd ones), and,
read half a lane later, of the words that lie across the end of a lane.
"""

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
_HALF_BYTES = 4
# Lanes at a time: what is read and masked meanwhile stays in the cache.
_PIECE = 1 << 13


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
        """Add a device's packed share. Raises ShareLengthError or PayloadContentError."""
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
        self._all, self._even, self._across = (np.zeros(-(-size // 8), _LANE) for _ in range(3))
        # The pattern of words and lanes repeats every ``bits`` lanes, in which there are 64 words.
        times = max(1, min(_PIECE, self._all.size) // bits)
        self._piece = times * bits
        masks = (np.tile(mask, times) for mask in _masks(bits))
        self._even_mask, self._whole_even, self._whole_odd, self._across_mask = masks
        self._buffer = np.empty(self._piece, _LANE)
        self._added = 0

    @property
    def nbytes(self) -> int:
        return 3 * self._all.nbytes

    def add(self, data: npt.NDArray[np.uint8]) -> None:
        if self._added == (1 << self._bits) - 1:
            so_far = self.total()
            self.clear()
            self.add(so_far)
        self._added += 1
        for start in range(0, self._all.size, self._piece):
            part = slice(start, start + self._piece)
            lanes = self._read(data, 8 * start)
            self._all[part] += lanes
            lanes &= self._even_mask[: lanes.size]
            self._even[part] += lanes
            lanes = self._read(data, 8 * start + _HALF_BYTES)
            lanes &= self._across_mask[: lanes.size]
            self._across[part][: lanes.size] += lanes

    def total(self) -> npt.NDArray[np.uint8]:
        total, later = np.empty_like(self._all), np.zeros(8 * self._all.size + _HALF_BYTES, np.uint8)
        for start in range(0, self._all.size, self._piece):
            part = slice(start, start + self._piece)
            even = self._even[part]
            lanes = total[part]
            np.subtract(self._all[part], even, out=lanes)
            lanes &= self._whole_odd[: lanes.size]
            lanes |= even & self._whole_even[: lanes.size]
            across = self._across[part] & self._across_mask[: lanes.size]
            later[8 * start + _HALF_BYTES :][: across.nbytes] = across.view(np.uint8)
        found: npt.NDArray[np.uint8] = total.view(np.uint8)
        found |= later[: found.size]
        return found[: self._size]

    def clear(self) -> None:
        for lanes in (self._all, self._even, self._across, self._buffer):
            lanes.fill(0)
        self._added = 0

    def _read(self, data: npt.NDArray[np.uint8], start: int) -> Lanes:
        """Return the lanes of one piece of ``data`` from byte ``start`` on, in the buffer; zeros follow."""
        found = data[start : start + 8 * self._piece]
        lanes = self._buffer[: -(-found.size // 8)]
        octets = lanes.view(np.uint8)
        octets[: found.size] = found
        octets[found.size :] = 0
        return lanes


def _masks(bits: int) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Return which bits of ``bits`` lanes are of even words; of whole even and odd words; of those across.

    The last are for lanes read from the middle of one to the middle of the next.
    """
    place = np.arange(bits * _LANE_BITS)
    word = place // bits
    across = word * bits // _LANE_BITS != (word * bits + bits - 1) // _LANE_BITS
    even = word % 2 == 0
    chosen = (even, even & ~across, ~even & ~across, np.roll(across, -_LANE_BITS // 2))
    first, second, third, fourth = (np.packbits(one, bitorder="little").view(_LANE) for one in chosen)
    return first, second, third, fourth
