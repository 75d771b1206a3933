"""A fleet for the secret-sharing benchmarks: real keys, a signed roster, posts, plans; no broker."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shoal_codecs.security.identity import Identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Party, Role, Roster, RosterBody, open_roster, sign_roster
from shoal_codecs.wire.topics import Topics

FLEET = "bench"
COORDINATOR = "coordinator"
HUBS = ("hub-1", "hub-2")
EXAMPLES = 100


@dataclass(frozen=True)
class Case:
    """What is measured: ``dropout`` of ``devices`` are lost after they were invited.

    ``clamp`` is the largest level of one device: with the number of devices it makes the ring.
    """

    devices: int
    dimension: int
    dropout: int
    clamp: int

    @property
    def names(self) -> tuple[str, ...]:
        """The cohort, in the roster's order."""
        return tuple(f"device-{number:04}" for number in range(1, self.devices + 1))

    @property
    def reporting(self) -> tuple[str, ...]:
        """Who is there to the end."""
        return self.names[: self.devices - self.dropout]

    def update(self, device: str) -> npt.NDArray[np.float32]:
        """Return the device's update (D,), the same each time."""
        rng = np.random.default_rng([self.names.index(device), self.dimension])
        return rng.standard_normal(self.dimension, dtype=np.float32) * np.float32(0.01)


@dataclass
class Fleet:
    """Everybody's identity and post, as the roster knows them."""

    case: Case
    identities: dict[str, Identity] = field(init=False)
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        """Draw keys and sign the roster."""
        roles: dict[str, Role] = {COORDINATOR: "coordinator", **dict.fromkeys(HUBS, "hub")}
        roles |= dict.fromkeys(self.case.names, "device")
        self.identities = {name: Identity(name, os.urandom(32)) for name in roles}
        authority = Identity("authority", os.urandom(32))
        parties = tuple(Party(name, role, self.identities[name].public) for name, role in roles.items())
        signed = sign_roster(RosterBody(FLEET, 1, parties), authority)
        self.roster = open_roster(signed, authority.public, FLEET)

    def post(self, name: str) -> Post:
        """Return a party's post office."""
        return Post(Topics(FLEET), self.identities[name], self.roster)


class Stopwatch:
    """Adds up CPU seconds of this process, all its threads."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens within."""
        began = time.process_time()
        yield
        self.cpu_s += time.process_time() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens within."""
        began = time.process_time()
        yield
        self.cpu_s -= time.process_time() - began


class Disk:
    """What a party keeps of each device, outside of its memory and of what is measured."""

    _ROOM_BYTES = 64 * 1024 * 1024

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._room = memoryview(b"")
        self._kept: dict[str, memoryview] = {}

    def put(self, device: str, data: memoryview) -> None:
        """Keep ``data``: were it left where it is, whoever needs memory next would pay for fresh pages."""
        size = len(data)
        with self._watch.paused():
            if len(self._room) < size:
                # All pages at once, and seldom: to clear them empties the caches of whoever comes next.
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
                self._room = memoryview(mmap.mmap(-1, max(size, self._ROOM_BYTES), flags))
            self._kept[device], self._room = self._room[:size], self._room[size:]
            self._kept[device][:] = data

    def get(self, device: str) -> memoryview:
        """Return what is kept of ``device``."""
        return self._kept[device]

    def devices(self) -> list[str]:
        """Return whose data there is, in the order of their coming."""
        return list(self._kept)


@dataclass(frozen=True)
class Costs:
    """CPU seconds of one round: of each measured device, of each aggregating party; bytes up of a device."""

    device_cpu_s: list[float]
    party_cpu_s: dict[str, float]
    upload_bytes: int
