"""Modes ``plain`` and ``single``: the coordinator collects reports itself, each sealed to a key of the round.

What arrived is on disk, still sealed, before its receipt goes out; a restart reads it back.
"""

import asyncio
import shutil
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import structlog

from shoal_codecs.durable import replace_whole
from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.report_opening import OpenedReport, Receiver, open_report
from shoal_codecs.secagg.report_parts import ReportAssembler, largest_report_bytes
from shoal_codecs.security.identity import Identity
from shoal_codecs.security.roster import Roster
from shoal_codecs.security.sealing import public_sealing_key
from shoal_codecs.updates.bitpack import packed_size
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import unpack_ring
from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.messages import ReportPart
from shoal_codecs.wire.plan import HubOffer, Plan
from shoal_coordinator.plain_reports import open_update
from shoal_coordinator.round_errors import DuplicateReportError, InvalidReportError, StrangerToRoundError
from shoal_coordinator.running_sum import RunningSum
from shoal_coordinator.store.errors import StoreWriteError

log = structlog.get_logger()
_PERSON = b"shoal/1 plain"


def plain_offer(identity: Identity, nonce: bytes) -> HubOffer:
    """Return the coordinator's own offer for one round; ``nonce`` is 32 fresh random bytes."""
    return HubOffer(identity.name, public_sealing_key(round_private(identity, nonce)), nonce)


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A device's report that is held durably."""

    device: str
    report_id: bytes


class PlainCollector:
    """The reports of one round; ``folder`` is this round's own, ``levels`` are the task's."""

    def __init__(
        self,
        plan: Plan,
        plan_hash: bytes,
        identity: Identity,
        roster: Roster,
        folder: Path,
        levels: ModelLevels | None = None,
    ) -> None:
        self._plan = plan
        self._levels = levels
        self._roster = roster
        self._folder = folder
        offer = plan.hubs[0]
        self._receiver = Receiver(plan_hash, offer.hub, 0, 1, round_private(identity, offer.nonce))
        self._assembler = ReportAssembler(largest_report_bytes(_largest_share(plan), 1))
        self._held: dict[str, OpenedReport] = {}
        self._running: RunningSum | None = None
        self._vector_bytes = 0
        if plan.mode == "single":
            spec = ring_spec(plan)
            self._vector_bytes = packed_size(spec.words, spec.ring_bits)

    async def take(self, device: str, part: ReportPart) -> StoredReport | None:
        """Take a part of ``device``'s report; return the report once it is whole and on disk.

        A report that is there already is returned again, for its receipt may have been lost.

        Raises:
            StrangerToRoundError: not invited, or a part of another round.
            DuplicateReportError: another report of a device that has one.
            InvalidReportError: no update of this plan, or one with NaN or infinity.
            SecAggError, WireError, SecurityError: parts or seals that do not hold.
        """
        if device not in self._plan.cohort or part.round != self._plan.round:
            raise StrangerToRoundError(
                f"{device} reports to round {part.round}, which it was not invited to: drop the report"
            )
        data = self._assembler.add(device, part.index, part.count, part.data)
        if data is None:
            return None
        opened = await asyncio.to_thread(self._open, device, data)
        known = self._held.get(device)
        if known is not None and known.report_id != opened.report_id:
            raise DuplicateReportError(f"{device} has reported to this round already: the first report wins")
        if known is None:
            await asyncio.to_thread(write_whole, self._folder / device, data)
            self._held[device] = await asyncio.to_thread(self._added, device, opened)
        return StoredReport(device, opened.report_id)

    async def restore(self) -> tuple[StoredReport, ...]:
        """Read back what an earlier process stored; what cannot be used any more is left out."""
        return await asyncio.to_thread(self._restore)

    @property
    def devices(self) -> tuple[str, ...]:
        """Whose reports are held."""
        return tuple(self._held)

    def shares(self, members: tuple[str, ...]) -> dict[str, bytes]:
        """Return the shares in clear of ``members``, by device."""
        return {device: self._held[device].share for device in members}

    def vector_sum(self, members: tuple[str, ...]) -> Words:
        """Return the sum (uint[spec.words]) of the masked vectors of ``members``; mode ``single``; blocking.

        Raises:
            InvalidReportError: one cannot be read any more.
            SecAggError, WireError, SecurityError, UpdateError: one is not what was stored.
        """
        running = self._running
        if running is None or running.wanted(members) is None:
            # Most came before this process did.
            running = RunningSum(self._plan)
        spec = ring_spec(self._plan)
        return unpack_ring(running.total(members, self._stored_vector), spec.words, spec.ring_bits)

    def _stored_vector(self, device: str) -> bytes:
        try:
            data = (self._folder / device).read_bytes()
        except OSError as error:
            raise InvalidReportError(
                f"the stored vector of {device} cannot be read ({error.strerror}): mend the disk"
            ) from error
        return self._unsealed(device, data, self._vector_bytes).share

    async def clear(self) -> None:
        """Throw the reports away: the round has ended."""
        self._held.clear()
        if self._running is not None:
            self._running.erase()
            self._running = None
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _added(self, device: str, opened: OpenedReport) -> OpenedReport:
        """Return what is held of a durable report: its share in clear; of a masked vector only its name."""
        opened = replace(opened, ciphertext=memoryview(b""))
        if self._plan.mode != "single":
            return opened
        if opened.share:
            self._running = self._running or RunningSum(self._plan)
            self._running.add(device, opened.share)
        return replace(opened, share=b"")

    def _open(self, device: str, data: bytes | memoryview) -> OpenedReport:
        if self._plan.mode == "single":
            return self._unsealed(device, data, self._vector_bytes)
        opened = self._unsealed(device, data)
        open_update(self._plan, opened.share, device, levels=self._levels)
        return opened

    def _unsealed(
        self, device: str, data: bytes | memoryview, share_bytes: int | None = None
    ) -> OpenedReport:
        return open_report(data, device, self._roster.party(device).key, self._receiver, share_bytes)

    def _restore(self) -> tuple[StoredReport, ...]:
        found = []
        for path in sorted(self._folder.glob("*")) if self._folder.is_dir() else ():
            if path.name not in self._plan.cohort:
                continue
            try:
                self._held[path.name] = self._added(path.name, self._open(path.name, path.read_bytes()))
            except (ShoalError, OSError) as error:
                log.warning("stored report unusable", device=path.name, error=type(error).__name__)
                continue
            found.append(StoredReport(path.name, self._held[path.name].report_id))
        return tuple(found)


def round_private(identity: Identity, nonce: bytes) -> bytes:
    """Return the round's X25519 key: nothing to store, and nobody but this identity can make it."""
    return blake2b(nonce, key=identity.derive(_PERSON), digest_size=32).digest()


def _largest_share(plan: Plan) -> int:
    """Return a bound on the bytes of a share: values, scales, coordinates of at most five bytes each."""
    vectors = 2 if plan.training.correction else 1
    return vectors * (6 * plan.codec.kept + plan.codec.kept // 16) + 1024


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` so that it is there whole or not at all, also after a power cut.

    Raises:
        StoreWriteError: the disk does not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # No device can be called so: the files here are named after them.
        replace_whole(path, data, path.with_name("." + path.name))
    except OSError as error:
        raise StoreWriteError(
            f"{path} was not written ({error.strerror}): check the disk's space and the permissions"
        ) from error
