"""Asynchronous rounds (FedBuff): reports that come after their round has made its version.

A round ends with its first reports; who has not reported yet goes on training, and what it sends then counts
for a later round, with the age of its base. What arrived is on disk before its receipt goes out. A report is
used once: the algorithm's state, which is committed with the version, names the last one of each device.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.identity import Identity
from shoal_codecs.security.roster import Roster
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.wire.control import decode_memory
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.messages import ReportPart
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import Plan, decode_plan, plan_hash
from shoal_coordinator.chains import ModelVersion
from shoal_coordinator.plain import PlainCollector, StoredReport, write_whole
from shoal_coordinator.plain_reports import Share

log = structlog.get_logger()
_PLAN = ".plan"


@dataclass(slots=True, eq=False)
class _Earlier:
    """A round that is over and still heard: ``version`` is its base's, ``out`` who may yet report."""

    plan: Plan
    hash: bytes
    version: int
    collector: PlainCollector
    out: set[str]
    waiting: set[str] = field(default_factory=set)


class LateReports:
    """What is still heard of earlier rounds, under ``folder``; ``limit`` is how old a base may be."""

    def __init__(self, identity: Identity, roster: Roster, folder: Path, limit: int) -> None:
        self._identity = identity
        self._roster = roster
        self._folder = folder
        self._limit = limit
        self._rounds: dict[int, _Earlier] = {}
        self._settled: dict[str, int] = {}

    # --- who and what --------------------------------------------------------------------------

    @property
    def busy(self) -> frozenset[str]:
        """Devices that still train for an earlier round: inviting them would throw their work away."""
        return frozenset(device for one in self._rounds.values() for device in one.out)

    @property
    def waiting(self) -> tuple[tuple[str, int], ...]:
        """The reports (device, round) that no version has used yet, oldest round first."""
        return tuple(
            (device, number) for number, one in sorted(self._rounds.items()) for device in sorted(one.waiting)
        )

    def has(self, number: int) -> bool:
        """Return whether round ``number`` is over and still heard."""
        return number in self._rounds

    def plan_hash(self, number: int) -> bytes:
        """Return the hash of that round's plan."""
        return self._rounds[number].hash

    def shares(self, reports: tuple[tuple[str, int], ...], newest: int) -> list[Share]:
        """Return the shares of ``reports`` (device, round) where ``newest`` is the present version."""
        found = []
        for device, number in reports:
            one = self._rounds[number]
            (data,) = one.collector.shares((device,)).values()
            found.append(Share(device, one.plan, data, newest - one.version))
        return found

    # --- what happens --------------------------------------------------------------------------

    async def begin(self, plan: Plan, data: bytes, version: int) -> None:
        """Write down a round's plan (encoded: ``data``) and its base's version, before it is published."""
        path = self._folder / str(plan.round) / _PLAN
        await asyncio.to_thread(write_whole, path, pack([version, data]))

    def adopt(
        self, plan: Plan, digest: bytes, version: int, collector: PlainCollector, settled: tuple[str, ...]
    ) -> None:
        """Go on hearing a round that has made its version of the reports of ``settled``."""
        self.settle(tuple((device, plan.round) for device in settled))
        held = set(collector.devices)
        self._rounds[plan.round] = _Earlier(
            plan, digest, version, collector, set(plan.cohort) - held, held - set(settled)
        )

    def settle(self, reports: tuple[tuple[str, int], ...]) -> None:
        """Note that ``reports`` (device, round) are used: a version was made of them, or could not be."""
        for device, number in reports:
            self._settled[device] = max(number, self._settled.get(device, 0))
            if number in self._rounds:
                self._rounds[number].waiting.discard(device)

    async def take(self, device: str, part: ReportPart) -> StoredReport | None:
        """Take a part of a late report; return the report once it is whole and on disk.

        Raises: as ``PlainCollector.take``.
        """
        one = self._rounds[part.round]
        stored = await one.collector.take(device, part)
        if stored is not None:
            one.out.discard(device)
            if part.round > self._settled.get(device, 0):
                one.waiting.add(device)
        return stored

    def free(self, device: str, number: int) -> None:
        """Note that ``device`` does not work on an earlier round, but on ``number`` or on none (0)."""
        for place, one in self._rounds.items():
            if place != number:
                one.out.discard(device)

    async def forget_old(self, newest: int, now_ms: int) -> None:
        """Let go of rounds whose base is too old at version ``newest``, or from which nothing can come."""
        for number, one in list(self._rounds.items()):
            if one.plan.closes_ms <= now_ms:
                one.out.clear()
            stale = newest - one.version > self._limit
            if stale or not (one.out or one.waiting):
                if stale and (one.out or one.waiting):
                    log.info("late reports dropped", round=number, devices=len(one.out | one.waiting))
                del self._rounds[number]
                await one.collector.clear()

    async def restore(self, settled: Mapping[str, int], present: int) -> None:
        """Read back what an earlier process left; round ``present`` is not over.

        ``settled`` is, by device, the last round whose report the newest version has used.
        """
        self._settled = dict(settled)
        for path in sorted(self._folder.glob(f"*/{_PLAN}")) if self._folder.is_dir() else ():
            if path.parent.name == str(present):
                continue
            with contextlib.suppress(ShoalError, OSError, ValueError, TypeError):
                version, data = unpack(path.read_bytes(), tuple[int, bytes])
                plan = decode_plan(data)
                digest = plan_hash(data)
                collector = PlainCollector(plan, digest, self._identity, self._roster, path.parent)
                await collector.restore()
                held = set(collector.devices)
                unused = {device for device in held if plan.round > self._settled.get(device, 0)}
                out = set(plan.cohort) - held
                self._rounds[plan.round] = _Earlier(plan, digest, version, collector, out, unused)
                continue
            log.warning("late round lost", folder=path.parent.name)


def settled_beside(version: ModelVersion, blobs: BlobStore) -> dict[str, int]:
    """Return, by device, the last round whose report ``version`` or one before it has used; blocking."""
    if version.state is None:
        return {}
    try:
        memory = decode_memory(blobs.read(version.state.name))
    except (BlobStorageError, MalformedMessageError) as error:
        log.warning("algorithm begins anew", version=version.number, remedy=str(error))
        return {}
    return dict(memory.settled)
