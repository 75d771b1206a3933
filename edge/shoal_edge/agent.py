"""One device: a link, the round, evaluations, releases and heartbeats, each in its own module."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import structlog

import shoal_codecs
from shoal_codecs.errors import ShoalError
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.pins import trusted_roster
from shoal_codecs.security.post import Post
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.blobs import BlobFetcher
from shoal_codecs.transport.errors import LinkClosedError
from shoal_codecs.transport.link import Delivery, Link, Publication
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.messages import (
    AnyMessage,
    BlobWanted,
    Cancel,
    DeviceStatus,
    Evaluate,
    HeartbeatWanted,
    Invitation,
    Receipt,
    ReleaseOrder,
    ReleaseWithdrawn,
    SingleDelivery,
    SingleSurvivors,
    SingleUnmaskWanted,
)
from shoal_codecs.wire.topics import Topics
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import fault_name
from shoal_edge.evaluations import Evaluations
from shoal_edge.example_counts import ExampleCounts
from shoal_edge.heartbeats import Heartbeats
from shoal_edge.models import ModelKeeper
from shoal_edge.privacy_guard import PrivacyGuard, open_ledger
from shoal_edge.releases import ReleaseAgent
from shoal_edge.round_events import EvaluateAsked
from shoal_edge.rounds import Rounds
from shoal_edge.single_rounds import SingleRounds
from shoal_edge.single_store import SingleStore
from shoal_edge.store import DeviceStore
from shoal_edge.telemetry import Telemetry
from shoal_edge.width import FULL, Width
from shoal_edge.worker_client import Worker, WorkerClient

WAITING_MESSAGES = 64
BLOB_SILENCE_S = 2.0

log = structlog.get_logger()


class EdgeAgent:
    """The agent of one device; ``clock`` gives seconds since the epoch.

    ``worker`` does the heavy things; by default a process of its own, started when there is something to do.

    Raises:
        BadKeyFileError, BadRosterError, BadSignatureError, UnknownPartyError: it is not enrolled here.
        StoreError, BlobStorageError: its folder cannot be used.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        clock: Callable[[], float] = time.time,
        *,
        worker: Worker | None = None,
    ) -> None:
        self.settings = settings
        home, state = settings.home, settings.state
        roster = trusted_roster(home, state, settings.fleet)
        identity = load_identity(settings.name, home / "identity.key")
        roster.party(settings.name)
        topics = Topics(settings.fleet, settings.prefix)
        self.post = Post(topics, identity, roster, clock)
        self._session = os.urandom(8)
        self._status_topic = topics.device(settings.name, "status")
        client_id = topics.client_id(settings.name)
        self.link = Link(settings.named_link, client_id, will=self._status(online=False))
        # Before anything else is put into a new folder.
        ledger = open_ledger(state, make=True)
        self.guard = PrivacyGuard(settings.privacy, state, ledger, lambda: int(clock() * 1000))
        self.store = DeviceStore(state, settings.outbox_cap_bytes, self._tasks_in_use)
        self.blobs = BlobStore(state / "blobs", settings.blobs_cap_bytes)
        self.fetcher = BlobFetcher(
            self.link, topics, self.blobs, chunk_timeout_s=BLOB_SILENCE_S, on_missing=self._want_blob
        )
        self.worker: Worker = worker or WorkerClient(settings.worker_idle_s, settings.worker.command)
        self._telemetry = Telemetry(state, shoal_codecs.__version__)
        self._last_fault = ""
        self._outgoing: deque[AnyMessage] = deque(maxlen=WAITING_MESSAGES)
        self._outgoing_wake = asyncio.Event()
        self._keeper = ModelKeeper(
            self.store, self.worker, self.fetcher.fetch, self.blobs.drop, settings.fetch_time_limit_s
        )
        self.width = Width(settings, state, self.worker.request)
        self._evaluations = Evaluations(
            settings=settings,
            post=self.post,
            worker=self.worker,
            keeper=self._keeper,
            say=self.say,
            note_fault=self.note_fault,
            traffic=lambda: self.link.traffic,
            percent=self.width.percent,
            quiet=self.guard.is_quiet,
        )
        self.single = SingleRounds(
            settings=settings,
            post=self.post,
            link=self.link,
            store=SingleStore(state / "single"),
            worker=self.worker,
            note_fault=self.note_fault,
        )
        self.heartbeats = Heartbeats(self.post, self.link.publish, self.readings, settings.heartbeat_s)
        self._examples = ExampleCounts(settings, self.worker, self.heartbeats.soon)
        self.rounds = Rounds(
            settings=settings,
            post=self.post,
            link=self.link,
            store=self.store,
            worker=self.worker,
            keeper=self._keeper,
            evaluations=self._evaluations,
            guard=self.guard,
            width=self.width,
            single=self.single,
            say=self.say,
            on_phase=self.heartbeats.phase,
            note_fault=self.note_fault,
            clock=clock,
        )
        self.releases = ReleaseAgent(
            folder=settings.releases,
            device=settings.name,
            roster=roster,
            post=self.post,
            say=self.say,
            fetch_blob=self.fetcher.fetch,
            drop_blob=self.blobs.drop,
            worker=self.worker,
            data_path=settings.examples_path,
            data=settings.data.packed,
            task_path=lambda task: state / "blobs" / task.hex(),
            own_path=self.store.own.path,
            metrics=self.guard.metrics,
            on_change=self.heartbeats.soon,
            clock=clock,
        )

    def _tasks_in_use(self) -> frozenset[bytes]:
        return self.releases.tasks()

    async def run(self) -> None:
        """Serve until cancelled."""
        topics, name = self.post.topics, self.settings.name
        self.link.on_connected(self._greet)
        await self.link.subscribe(topics.device(name, "commands"), self._on_command)
        await self.link.subscribe(topics.receipt(name, "+"), self._on_receipt)
        log.info("agent_started", device=name, fleet=self.settings.fleet, version=shoal_codecs.__version__)
        try:
            async with asyncio.TaskGroup() as group:
                for work in (
                    self.link.run(),
                    self._speak(),
                    self.rounds.run(),
                    self.single.run(),
                    self._evaluations.run(),
                    self.releases.run(),
                    self.heartbeats.run(),
                ):
                    group.create_task(work)
        except BaseExceptionGroup as several:
            # A named fault is told in its own words, not as a group of one.
            named, _ = several.split(ShoalError)
            if named is not None:
                raise next(_leaves(named)) from None
            raise
        finally:
            await self._examples.close()
            await self.worker.close()

    async def farewell(self) -> None:
        """Say that the device goes, and disconnect."""
        await self.link.close(self._status(online=False))

    def say(self, message: AnyMessage) -> None:
        """Send ``message`` on the events topic, after those said before."""
        self._outgoing.append(message)
        self._outgoing_wake.set()

    def note_fault(self, name: str) -> None:
        """Remember the name of the last fault for heartbeats, or that there is none."""
        self._last_fault = name

    def readings(self) -> dict[int, Any]:
        """Return what heartbeats tell: the machine and the state the device is in."""
        participant, traffic = self.rounds.participant, self.link.traffic
        quiet = self.guard.is_quiet
        training, held_out = (None, None) if quiet else self._examples.now()
        model, task = self.store.newest_model, self.store.task
        width = self.width.percent(task)
        state: dict[int, Any] = {
            Reading.PHASE: str(participant.phase),
            Reading.ROUND: participant.job.round if participant.job else 0,
            Reading.MODEL: model[:8] if model else None,
            Reading.TASK: task[:8] if task else None,
            Reading.WIDTH: width if width != FULL else None,
            Reading.EXAMPLES: training,
            Reading.HELD_OUT: held_out,
            Reading.OUTBOX: self.store.waiting_reports,
            Reading.PROGRESS: None if quiet else self.rounds.progress,
            Reading.LAST_ERROR: self._last_fault,
            Reading.SENT: traffic.sent,
            Reading.RECEIVED: traffic.received,
            Reading.BYTES_PER_DAY: self.settings.bytes_per_day or None,
            Reading.METRICS: self.guard.metrics if quiet else None,
        }
        known = {int(key): value for key, value in state.items() if value is not None}
        return self._telemetry.read() | self.releases.readings() | known

    # --- inside ---------------------------------------------------------------------------------

    async def _on_command(self, delivery: Delivery) -> None:
        message = self._opened(delivery)
        match message:
            case Invitation():
                self.rounds.invited(message)
            case Cancel():
                self.rounds.cancelled(message)
            case Evaluate():
                self.rounds.tell(EvaluateAsked(message))
            case SingleDelivery() | SingleSurvivors() | SingleUnmaskWanted():
                self.single.hear(message)
            case HeartbeatWanted():
                self.heartbeats.connected()
            case ReleaseOrder():
                self.releases.handle_order(message)
            case ReleaseWithdrawn():
                self.releases.handle_withdrawn(message)
            case None:
                pass
            case _:
                log.warning("unexpected_message", kind=type(message).__name__)

    async def _on_receipt(self, delivery: Delivery) -> None:
        message = self._opened(delivery)
        if isinstance(message, Receipt):
            self.rounds.receipt(message.sender, message)

    def _opened(self, delivery: Delivery) -> AnyMessage | None:
        """Return the message if it can be believed; what cannot is counted, logged and dropped."""
        try:
            _, message = self.post.open(delivery.topic, delivery.payload)
        except ShoalError as error:
            name = fault_name(error)
            self.post.refused[name] += 1
            log.warning("message_refused", topic=delivery.topic, fault=name, remedy=str(error))
            return None
        return message

    async def _speak(self) -> None:
        topic = self.post.topics.device(self.settings.name, "events")
        while True:
            await self._outgoing_wake.wait()
            self._outgoing_wake.clear()
            while self._outgoing:
                message = self._outgoing.popleft()
                try:
                    await self.link.publish(topic, self.post.encode(topic, message))
                except LinkClosedError:
                    return
                except ShoalError as error:
                    self.note_fault(fault_name(error))
                    log.warning("message_not_sent", kind=type(message).__name__, remedy=str(error))

    async def _greet(self, session_present: bool) -> None:  # noqa: FBT001 - the callback's shape
        del session_present
        status = self._status(online=True)
        self.heartbeats.connected()
        await self.link.publish(status.topic, status.payload, retain=True)
        await self.single.park()

    def _status(self, *, online: bool) -> Publication:
        message = self.post.compose(
            DeviceStatus,
            online=online,
            session=self._session,
            agent_version=shoal_codecs.__version__,
            roster=self.post.roster.held,
        )
        return Publication(self._status_topic, self.post.encode(self._status_topic, message), retain=True)

    async def _want_blob(self, ref: BlobRef) -> None:
        self.say(self.post.compose(BlobWanted, digest=ref.digest))


def _leaves(group: BaseExceptionGroup[ShoalError]) -> Iterator[ShoalError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
