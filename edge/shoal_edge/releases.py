"""Releases on a device: orders in, the updater's actions performed, every step reported.

One thing at a time, from one inbox. What takes long (fetching, writing, testing) runs aside and comes back
as an event, so that an operator can always stop it.
"""

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec
import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.ota.health import UNTOLD, Verdict, judge
from shoal_codecs.ota.manifest import ArtefactKind, Manifest, open_manifest
from shoal_codecs.security.errors import BadRosterError
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.messages import AnyMessage, InstallReport, ReleaseOrder, ReleaseWithdrawn
from shoal_codecs.wire.packing import pack, unpack
from shoal_edge.config import Metrics
from shoal_edge.errors import WorkerError, WorkerRefusedError, fault_name
from shoal_edge.files import write_durably
from shoal_edge.health_check import read_counts
from shoal_edge.installer import Installed, Installer
from shoal_edge.release_check import check_order
from shoal_edge.release_errors import DamagedSlotError, NoReleaseError
from shoal_edge.updater import (
    WORKING,
    Action,
    Broken,
    Event,
    Fetched,
    Judged,
    Ordered,
    Rejected,
    Restored,
    Updater,
    UpdaterRecord,
    Withdrawn,
    Written,
)
from shoal_edge.worker_client import Worker

KINDS: tuple[ArtefactKind, ...] = ("int8", "float32")
INBOX = 64
REASON_CHARACTERS = 300
NO_EXAMPLES = "no-examples.npz"
"""A file that there never is."""

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()


def slots_of(folder: Path, roster: Roster, fleet: str, kinds: tuple[ArtefactKind, ...] = KINDS) -> Installer:
    """Return the slots under ``folder``, believing the roster's publisher only."""
    try:
        publisher = roster.sole("publisher").key
    except BadRosterError:
        publisher = b""
    return Installer(folder, lambda data, sign: open_manifest(data, sign, publisher, fleet, None), kinds)


def deployed(folder: Path, roster: Roster, fleet: str) -> Installed:
    """Return the verified release that runs on the device whose releases are in ``folder``.

    Raises:
        NoReleaseError: none is installed.
        DamagedSlotError: what is installed was changed on disk.
    """
    found = slots_of(folder, roster, fleet).active()
    if found is None:
        raise NoReleaseError("no release is installed yet: 'shoal release create' makes one")
    return found


@dataclass(frozen=True, slots=True)
class _Done:
    """The end of a piece of work; only the newest counts."""

    number: int
    event: Event


class ReleaseAgent:
    """One device's releases; ``clock`` gives seconds since the epoch.

    ``say`` sends a message on the events topic; ``fetch_blob`` returns the path of a verified blob and
    ``drop_blob`` forgets it by name; ``data_path`` holds the device's examples; ``task_path`` and
    ``own_path`` say where a task, and the tensors kept of it, are; ``on_change`` is called when what
    ``readings`` returns has changed.
    """

    def __init__(
        self,
        *,
        folder: Path,
        device: str,
        roster: Roster,
        post: Post,
        say: Callable[[AnyMessage], None],
        fetch_blob: Callable[[BlobRef], Awaitable[Path]],
        drop_blob: Callable[[str], object],
        worker: Worker,
        data_path: Path,
        data: bytes = b"",
        task_path: Callable[[bytes], Path] = lambda _: Path(NO_EXAMPLES),
        own_path: Callable[[bytes], Path] = lambda _: Path(NO_EXAMPLES),
        metrics: Metrics = "clear",
        on_change: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.time,
        hardware: str = "",
        installer: Installer | None = None,
    ) -> None:
        self._folder = folder
        self._log = log.bind(device=device)
        self._roster = roster
        self._post = post
        self._say = say
        self._fetch_blob = fetch_blob
        self._drop_blob = drop_blob
        self._worker = worker
        self._data_path, self._data = data_path, data
        self._task_path = task_path
        self._own_path = own_path
        self._metrics = metrics
        self._on_change = on_change
        self._clock = clock
        self._hardware = hardware or platform.machine()
        self._slots = installer or slots_of(folder, roster, post.topics.fleet)
        self._machine = Updater()
        self._active: Installed | None = None
        self._inbox: asyncio.Queue[ReleaseOrder | ReleaseWithdrawn | _Done] = asyncio.Queue(INBOX)
        self._work: asyncio.Task[None] | None = None
        self._works = 0

    @property
    def active(self) -> Installed | None:
        """What runs, None before the first release."""
        return self._active

    def tasks(self) -> frozenset[bytes]:
        """Return the tasks (digests) of the release that runs and of the one to go back to; blocking."""
        return self._slots.tasks()

    @property
    def record(self) -> UpdaterRecord:
        """Where the last installation stands."""
        return self._machine.record

    def readings(self) -> dict[int, Any]:
        """Return what heartbeats tell about releases."""
        found: dict[int, Any] = {int(Reading.UPDATER): str(self._machine.state)}
        if self._active is not None:
            found[int(Reading.RELEASE)] = self._active.manifest.release
            found[int(Reading.RELEASE_VERSION)] = self._active.manifest.version
        return found

    def handle_order(self, order: ReleaseOrder) -> None:
        """Take an order in; it is checked and answered by ``run``."""
        self._enqueue(order)

    def handle_withdrawn(self, message: ReleaseWithdrawn) -> None:
        """Take in that a release is stopped."""
        self._enqueue(message)

    async def run(self) -> None:
        """Go on where the last process stopped, then follow orders until cancelled."""
        await self.resume()
        try:
            while True:
                message = await self._inbox.get()
                try:
                    await self._take(message)
                except ShoalError as error:
                    # One bad message must not take training and heartbeats down with it.
                    self._log.warning("release_step_failed", fault=fault_name(error), remedy=str(error))
        finally:
            await self._stop_work()

    async def resume(self) -> None:
        """Come up on a whole slot, and go on with what was under way."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._active = await asyncio.to_thread(self._slots.recover)
            self._machine = Updater(await asyncio.to_thread(self._load))
            await self._apply(Restored())
        except (ShoalError, OSError) as error:
            # A disk that cannot be written is no reason to stop training; orders will fail and say why.
            self._log.warning("releases_not_restored", remedy=str(error))
        self._on_change()

    # --- inside ---------------------------------------------------------------------------------

    def _enqueue(self, message: ReleaseOrder | ReleaseWithdrawn) -> None:
        # What does not fit is ordered again: the coordinator compares what is with what should be.
        with suppress(asyncio.QueueFull):
            self._inbox.put_nowait(message)

    async def _take(self, message: ReleaseOrder | ReleaseWithdrawn | _Done) -> None:
        if isinstance(message, ReleaseOrder):
            await self._apply(self._admitted(message))
        elif isinstance(message, ReleaseWithdrawn):
            await self._apply(Withdrawn(message.release, message.reason))
        elif message.number == self._works:
            # What was stopped, or overtaken by newer work, has nothing to say any more.
            await self._apply(message.event)

    def _admitted(self, order: ReleaseOrder) -> Event:
        """Return the order as the event it is: to be followed, or refused with a reason."""
        version = -1
        try:
            manifest = self._open(order.manifest, order.signature)
            version = manifest.version
            check_order(
                manifest,
                order.release,
                active=self._active.manifest if self._active else None,
                rolled_back=self.record.rolled_back,
                hardware=self._hardware,
                kinds=KINDS,
            )
        except ShoalError as error:
            self._log.warning("release_refused", release=order.release, fault=fault_name(error))
            return Rejected(order.release, version, _words(error))
        return Ordered(
            order.release,
            version,
            order.manifest,
            order.signature,
            self._slots.idle_slot,
            self._slots.active_slot,
        )

    def _open(self, manifest: bytes, signature: bytes) -> Manifest:
        publisher = self._roster.sole("publisher").key
        return open_manifest(manifest, signature, publisher, self._post.topics.fleet, self._now_ms())

    async def _apply(self, event: Event) -> None:
        """Let the machine decide and do what it says; a state that cannot be kept is a broken one."""
        before = self.record
        actions = self._machine.handle(event)
        if self.record != before:
            self._log.info(
                "release",
                release=self.record.release,
                state=str(self._machine.state),
                reason=self.record.reason,
            )
        for action in actions:
            try:
                await self._perform(action)
            except ShoalError as error:
                self._log.warning("release_step_failed", step=str(action), remedy=str(error))
                if self._machine.state in WORKING:
                    await self._apply(Broken(self.record.release, _words(error)))
                    return
        if actions:
            self._on_change()

    async def _perform(self, action: Action) -> None:
        record = self.record
        match action:
            case Action.PERSIST:
                await asyncio.to_thread(write_durably, self._record_path, pack(record))
            case Action.REPORT:
                self._report(record)
            case Action.FETCH:
                self._start(self._fetch, record)
            case Action.WRITE:
                self._start(self._write, record)
            case Action.SWITCH_AND_TEST:
                self._start(self._switch_and_test, record)
            case Action.GO_BACK:
                await asyncio.to_thread(self._slots.go_back, record.slot, record.fallback)
                self._active = await asyncio.to_thread(self._slots.recover)
            case Action.STOP_WORK:
                await self._stop_work()

    def _report(self, record: UpdaterRecord) -> None:
        self._say(
            self._post.compose(
                InstallReport,
                release=record.release,
                version=record.version,
                state=str(record.state),
                reason=record.reason[:REASON_CHARACTERS],
                candidate=record.candidate,
                replaced=record.replaced,
            )
        )

    # --- what takes long ------------------------------------------------------------------------

    def _start(self, work: Callable[[UpdaterRecord], Awaitable[Event]], record: UpdaterRecord) -> None:
        self._works += 1
        self._work = asyncio.create_task(self._finish(self._works, work, record))

    async def _finish(
        self, number: int, work: Callable[[UpdaterRecord], Awaitable[Event]], record: UpdaterRecord
    ) -> None:
        release = record.release
        try:
            event = await work(record)
        except ShoalError as error:
            event = Broken(release, self._told(error))
        except Exception as error:  # noqa: BLE001 - a defect must not leave the machine waiting
            # Whatever it was, the active slot is whole and the coordinator hears of it.
            self._log.exception("release_defect", release=release)
            event = Broken(release, f"unexpected {type(error).__name__}: report this as a defect")
        await self._inbox.put(_Done(number, event))

    def _told(self, error: ShoalError) -> str:
        """Return a fault for the coordinator; what the worker says of the data is for this device's log."""
        if self._metrics == "clear" or not isinstance(error, WorkerError):
            return _words(error)
        self._log.warning("release_step_failed", fault=fault_name(error), remedy=str(error))
        name = fault_name(error) if self._metrics == "verdict" else WorkerRefusedError.__name__
        return f"{name}: see this device's own log"

    async def _stop_work(self) -> None:
        self._works += 1
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.wait({work})

    async def _fetch(self, record: UpdaterRecord) -> Event:
        await self._fetch_blob(self._artefact(record).blob)
        return Fetched(record.release)

    async def _write(self, record: UpdaterRecord) -> Event:
        artefact = self._artefact(record)
        path = await self._fetch_blob(artefact.blob)
        try:
            await _in_thread(
                self._slots.write, record.slot, path, artefact, record.manifest, record.signature
            )
        finally:
            # The slot has its copy; a file that turned out to be wrong is to be fetched again.
            self._drop_blob(artefact.blob.name)
        return Written(record.release)

    async def _switch_and_test(self, record: UpdaterRecord) -> Event:
        self._active = await _in_thread(self._slots.switch, record.slot)
        self._on_change()
        try:
            replaced = (
                await asyncio.to_thread(self._slots.inspect, record.fallback) if record.fallback else None
            )
        except DamagedSlotError:
            replaced = None
        gate = self._active.manifest.gate
        # A model can be made that fails on chosen examples: who tells nothing tries it on none.
        data = self._data_path if self._metrics != "none" else self._folder / NO_EXAMPLES
        answer = await self._worker.evaluate_artefact(
            self._active.path,
            replaced.path if replaced else None,
            data,
            gate.time_limit_s,
            source=self._data,
            task=self._task_path(self._active.manifest.task),
            own=self._own_path(self._active.manifest.task),
        )
        counts = read_counts(answer)
        judgement = judge(counts, gate)
        if self._metrics != "clear":
            self._log.info("release_judged", release=record.release, reason=judgement.reason)
            return _hushed(record.release, judgement.verdict, self._metrics)
        return Judged(
            record.release, judgement.verdict, judgement.reason, counts.candidate_score, counts.replaced_score
        )

    def _artefact(self, record: UpdaterRecord) -> Any:
        return unpack(record.manifest, Manifest).artefact(KINDS)

    # --- what is kept ---------------------------------------------------------------------------

    @property
    def _record_path(self) -> Path:
        return self._folder / "updater.bin"

    def _load(self) -> UpdaterRecord:
        """Return the record of the last process; a damaged one is set aside, the active slot stays."""
        path = self._record_path
        try:
            return unpack(path.read_bytes(), UpdaterRecord)
        except FileNotFoundError:
            return UpdaterRecord()
        except (msgspec.ValidationError, WireError):
            path.replace(path.with_suffix(".damaged"))
            return UpdaterRecord()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


async def _in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Do ``work`` in a thread; a cancelled caller still waits, for nobody else may touch the slot."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _hushed(release: str, verdict: Verdict, metrics: Metrics) -> Judged:
    """Return the end of a health check without what was counted; with ``none`` whatever runs stays."""
    words = f"{verdict} by this device's own examples, which it does not count for others"
    if metrics == "none":
        words, verdict = "it runs here; how well, this device does not tell", Verdict.PASSED
    return Judged(release, verdict, words, UNTOLD, UNTOLD)


def _words(error: ShoalError) -> str:
    return f"{fault_name(error)}: {error}"
