"""The generator that turns a hub's seed into its share.

key = HKDF-SHA256 (RFC 5869) of the seed's 32 random bytes, salt = plan hash M, info = label, u16 length of
the device name, the name in UTF-8, u16 hub index, both integers little-endian; the share is the keystream
(`draw_pieces`) of that key with the cipher that the seed names, ChaCha20 or AES-256, read as little-endian
words of 8, 16 or 32 bits, the low w bits of each.

Mode ``single`` expands masks alike: the info is another label and, for the mask of one device, its name;
for the mask of a pair, both names in their order, each after its length. There the keystream is that of
AES-256 (`draw_pieces`) where all who mask with it have instructions for that: their key bundles say so.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shoal_codecs.secagg.errors import (
    DeviceNameError,
    HubIndexError,
    PlanHashError,
    RingWidthError,
    SeedError,
    ShareLengthError,
)
from shoal_codecs.secagg.share_seed import open_share_seed
from shoal_codecs.security.stream_cipher import StreamCipher
from shoal_codecs.updates.bitpack import MAX_BITS, word_dtype
from shoal_codecs.updates.keystream import PIECE_BYTES, SPARE_BYTES, StreamKey, Words, draw_pieces

SEED_BYTES = 32
PLAN_HASH_BYTES = 32
MIN_RING_BITS = 2
LABEL = b"shoal/hub-share/v1"
SELF_LABEL = b"shoal/single-self/v1"
PAIR_LABEL = b"shoal/single-pair/v1"
_U16_MAX = 0xFFFF


def ring_dtype(bits: int) -> np.dtype[np.unsignedinteger]:
    """Return the dtype of ring words of `bits` (2..32). Raises RingWidthError."""
    if not MIN_RING_BITS <= bits <= MAX_BITS:
        raise RingWidthError(f"a ring has {MIN_RING_BITS} to {MAX_BITS} bits, not {bits}")
    return word_dtype(bits)


def check_ring_words(words: Words, count: int, bits: int) -> Words:
    """Return `words` if it is uint[count] of the ring's dtype, all below 2**bits.

    Raises ShareLengthError or RingWidthError.
    """
    dtype = ring_dtype(bits)
    if words.shape != (count,):
        raise ShareLengthError(f"the round's shares have {count} words, got shape {words.shape}")
    if words.dtype != dtype:
        raise RingWidthError(f"a ring of {bits} bits is held in {dtype}, got {words.dtype}")
    if bits < dtype.itemsize * 8 and count and int(words.max()) >> bits:
        raise RingWidthError(f"a word does not fit a ring of {bits} bits")
    return words


def share_key(seed: bytes, plan_hash: bytes, device: str, hub_index: int) -> StreamKey:
    """Return the key of one device's share for hub `hub_index` (1..65535); `seed` is a `new_share_seed`.

    Raises SeedError, PlanHashError, DeviceNameError or HubIndexError.
    """
    if not 1 <= hub_index <= _U16_MAX:
        raise HubIndexError(f"hubs are counted 1..{_U16_MAX}, there is no hub {hub_index}")
    info = LABEL + _name(device) + hub_index.to_bytes(2, "little")
    cipher, secret = open_share_seed(seed)
    return StreamKey(cipher, _key(secret, plan_hash, info))


def self_mask_key(seed: bytes, plan_hash: bytes, device: str, cipher: StreamCipher) -> StreamKey:
    """Return the key of the mask that `device` alone has (mode ``single``), expanded with `cipher`.

    Raises SeedError, PlanHashError or DeviceNameError.
    """
    return StreamKey(cipher, _key(seed, plan_hash, SELF_LABEL + _name(device)))


def pair_mask_key(secret: bytes, plan_hash: bytes, one: str, other: str, cipher: StreamCipher) -> StreamKey:
    """Return the key of the mask of two devices, whichever is named first (mode ``single``).

    `secret`: the 32 bytes that both mask keys agree on; `cipher`: what both expand it with. The device
    whose name sorts first adds the mask, the other subtracts it. Raises SeedError, PlanHashError or
    DeviceNameError.
    """
    first, second = sorted((one, other))
    return StreamKey(cipher, _key(secret, plan_hash, PAIR_LABEL + _name(first) + _name(second)))


def fold_masks(
    acc: Words, added: Iterable[StreamKey], subtracted: Iterable[StreamKey], bits: int, threads: int = 1
) -> None:
    """Add some keys' keystreams to `acc` (uint[count] modulo 2**bits) and subtract others', in place.

    All of them piece by piece, so that a piece of `acc` is in the cache while every key passes over it. With
    more than one of `threads`, each has a stretch of `acc` of its own. Raises RingWidthError.
    """
    _checked(acc, bits)
    work = [(np.add, key) for key in added] + [(np.subtract, key) for key in subtracted]
    pieces = -(-acc.nbytes // PIECE_BYTES)
    if threads <= 1 or pieces < threads:
        _fold(acc, 0, work, bits)
        return
    # Threads come with logging, which devices have no other use for.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    length = -(-pieces // threads) * PIECE_BYTES // acc.itemsize
    with ThreadPoolExecutor(threads) as pool:
        turns = [
            pool.submit(_fold, acc[start : start + length], start, work, bits)
            for start in range(0, acc.size, length)
        ]
        for turn in turns:
            turn.result()


def _key(seed: bytes, plan_hash: bytes, info: bytes) -> bytes:
    if len(seed) != SEED_BYTES:
        raise SeedError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
    if len(plan_hash) != PLAN_HASH_BYTES:
        raise PlanHashError(f"a plan hash has {PLAN_HASH_BYTES} bytes, got {len(plan_hash)}")
    return HKDF(algorithm=SHA256(), length=32, salt=plan_hash, info=info).derive(seed)


def _name(device: str) -> bytes:
    try:
        name = device.encode()
    except UnicodeEncodeError:
        raise DeviceNameError("a device name must be valid Unicode text") from None
    if not 1 <= len(name) <= _U16_MAX:
        raise DeviceNameError(f"a device name has 1 to {_U16_MAX} bytes, got {len(name)}")
    return len(name).to_bytes(2, "little") + name


def expand(seed: bytes, plan_hash: bytes, device: str, hub_index: int, count: int, bits: int) -> Words:
    """Return the share uint[count] modulo 2**bits that a seed stands for."""
    words: Words = np.zeros(count, dtype=ring_dtype(bits))
    expand_add_into(words, seed, plan_hash, device, hub_index, bits)
    return words


def expand_add_into(
    acc: Words, seed: bytes, plan_hash: bytes, device: str, hub_index: int, bits: int
) -> None:
    """Add the share to `acc` (uint[count] modulo 2**bits) in place, piece by piece."""
    fold_masks(acc, [share_key(seed, plan_hash, device, hub_index)], [], bits)


def expand_subtract_from(
    acc: Words, seed: bytes, plan_hash: bytes, device: str, hub_index: int, bits: int
) -> None:
    """Subtract the share from `acc` (uint[count] modulo 2**bits) in place, piece by piece."""
    fold_masks(acc, [], [share_key(seed, plan_hash, device, hub_index)], bits)


def _checked(acc: Words, bits: int) -> np.dtype[np.unsignedinteger]:
    dtype = ring_dtype(bits)
    if acc.ndim != 1 or acc.dtype != dtype:
        raise RingWidthError(
            f"a ring of {bits} bits is summed in {dtype} of one axis, got {acc.dtype} {acc.shape}"
        )
    return dtype


def _fold(acc: Words, position: int, work: Sequence[tuple[np.ufunc, StreamKey]], bits: int) -> None:
    """Fold keystreams, from the place on that `acc` has in the whole vector: where a piece begins."""
    dtype = acc.dtype.newbyteorder("<")
    mask = acc.dtype.type((1 << bits) - 1)
    whole = bits == acc.itemsize * 8
    step = PIECE_BYTES // acc.itemsize
    streams = [(operation, draw_pieces(key, position // step)) for operation, key in work]
    size = min(PIECE_BYTES, acc.nbytes)
    buffer = np.empty(size + SPARE_BYTES, dtype=np.uint8)
    words, room = buffer[:size].view(dtype), buffer.data
    for start in range(0, acc.size, step):
        part = acc[start : start + step]
        drawn, nbytes = words[: part.size], part.nbytes
        for operation, draw in streams:
            draw(nbytes, room)
            operation(part, drawn, out=part)
        # High bits of a keystream reach no low bit, so one mask after the operations is enough.
        if not whole:
            np.bitwise_and(part, mask, out=part)
