"""What a device keeps of its own shares and of those it holds; plain values, without numpy."""

import msgspec


class MadeShares(msgspec.Struct, frozen=True, array_like=True):
    """A device's own mask ``seed`` (secret), and what it publishes: commitment and boxes in drawn order."""

    seed: bytes
    commitment: bytes
    boxes: tuple[bytes, ...]


class Neighbourly(msgspec.Struct, frozen=True, array_like=True):
    """What a delivery gives a device: ``peers`` it shares masks with, and shares it ``held``.

    ``held`` is by sender, 64 bytes each: of its seed, then of its mask key. ``unopened`` are senders whose
    box was none: they have one holder less, which hurts nobody else.
    """

    peers: tuple[str, ...]
    held: dict[str, bytes]
    unopened: tuple[str, ...] = ()
