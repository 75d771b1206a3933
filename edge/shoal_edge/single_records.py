"""What the agent hands its worker for mode ``single``; plain values, without numpy."""

import msgspec

from shoal_codecs.wire.single import Prekey


class Masks(msgspec.Struct, frozen=True, array_like=True):
    """What masks a vector: the device's own ``seed``, its mask key, its ``peers``, the plan's bundles."""

    seed: bytes
    mask_private: bytes
    peers: tuple[str, ...]
    prekeys: tuple[Prekey, ...]
