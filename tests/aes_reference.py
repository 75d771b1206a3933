"""AES-256 keystreams as shares and masks are made of, from another mode and interface than Shoal's own."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shoal_codecs.updates.keystream import PIECE_BYTES


def aes_256_keystream(key: bytes, size: int) -> bytes:
    """The counter mode of SP 800-38D as the other mode of the library has it: counted from 2 on."""
    stream = b""
    while len(stream) < size:
        counter = (len(stream) // PIECE_BYTES).to_bytes(12, "little") + (2).to_bytes(4, "big")
        stream += Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(PIECE_BYTES))
    return stream[:size]
