"""What survivors give and what comes of it; plain values, without numpy."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What one survivor gave: its ``own`` seed, and shares by whose secret they are of."""

    own: bytes
    shares: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Secrets:
    """``seeds`` of those alive and ``mask_privates`` of the dead, by device."""

    seeds: dict[str, bytes]
    mask_privates: dict[str, bytes]
