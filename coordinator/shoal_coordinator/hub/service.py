"""The hub process: one link, one log, the rounds between them."""

import asyncio
import functools
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.lifecycle import run_until_stopped
from shoal_codecs.logs import configure_logs
from shoal_codecs.security.identity import Identity, load_identity
from shoal_codecs.security.pins import trusted_roster
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Roster
from shoal_codecs.transport.errors import TransportError
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Delivery, Publication
from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.messages import (
    Agreement,
    AnyMessage,
    HubStatus,
    PeerLog,
    PlanProposal,
    Receipt,
    ReportPart,
    ReportSet,
    RevealWanted,
)
from shoal_codecs.wire.messages import RoundAborted as Abort
from shoal_codecs.wire.messages import RoundCommitted as Commit
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.hub.config import HubSettings
from shoal_coordinator.hub.errors import HubRoleError, HubStoreError, UnexpectedMessageError
from shoal_coordinator.hub.held_words import HeldWords
from shoal_coordinator.hub.keeper import RoundKeeper
from shoal_coordinator.hub.peers import LogWatch
from shoal_coordinator.hub.performer import RoundPerformer
from shoal_coordinator.hub.plan_desk import PlanDesk
from shoal_coordinator.hub.receipt_lane import ReceiptLane
from shoal_coordinator.hub.store import HubStore

log = structlog.get_logger()
T = TypeVar("T")
TICK_S = 0.1
RECEIPTS_IN_FLIGHT = 8
# Repetitions wait while this many messages have not left.
CROWDED = 256
MOST_HELD = 1024
MOST_HELD_BYTES = 32 * 1024 * 1024
ASK_S = 1.0


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears what comes in."""

    watch: LogWatch
    desk: PlanDesk
    keeper: RoundKeeper
    performer: RoundPerformer


class HubService:
    """One hub; ``run`` keeps it going until cancelled.

    ``refused`` counts, by error name, what was not believed or had no place.

    Raises:
        HubRoleError: the roster does not know this name and key as a hub.
    """

    def __init__(
        self,
        settings: HubSettings,
        identity: Identity,
        roster: Roster,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_role(identity, roster)
        self.refused: Counter[str] = Counter()
        self.topics = Topics(settings.fleet, settings.prefix)
        self._settings = settings
        self._name = identity.name
        self._roster = roster
        self._identity = identity
        self._clock = clock
        self._post = Post(self.topics, identity, roster, clock)
        self._session = os.urandom(8)
        self._performer: RoundPerformer | None = None
        self._status_topic = self.topics.hub(self._name, "status")
        client_id = self.topics.client_id(self._name)
        self.link = Link(_with_user(settings), client_id, will=self._status(online=False))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hub-log")
        # What must stay in order, and what need not.
        self._words: asyncio.Queue[Publication] = asyncio.Queue()
        self._receipts = ReceiptLane()
        self._promise: HubPromise | None = None
        self._reminded = False
        # What came before every peer had said what it knows of this hub's log.
        self._held = HeldWords(MOST_HELD, MOST_HELD_BYTES)

    async def run(self) -> None:
        """Take part in rounds until cancelled; say farewell then.

        Raises:
            HubStoreError: the log cannot be used; the hub says nothing it could not remember.
        """
        try:
            store = await self._durably(
                HubStore, self._settings.data_folder, self._identity.derive(b"hub keys"), self._name
            )
            try:
                await self._serve(store)
            finally:
                await self._durably(store.close)
        finally:
            self._thread.shutdown(wait=False)

    async def _serve(self, store: HubStore) -> None:
        performer = RoundPerformer(self._post, store, self._durably, self._say, self._log_news, self._clock)
        self._performer = performer
        watch = LogWatch(self._post, self._session, store.database, self._durably, performer.tell)
        desk = PlanDesk(self._settings.floors, self._post, store, self._durably, performer, self._promised)
        keeper = RoundKeeper(self._settings, self._post, store, self._durably, performer, desk)
        await performer.logged()
        await keeper.restore()
        ears = Ears(watch, desk, keeper, performer)
        await self._subscribe(ears)
        self.link.on_connected(functools.partial(self._connected, ears))
        tasks = [
            asyncio.ensure_future(performer.fault),
            asyncio.create_task(self.link.run()),
            asyncio.create_task(self._tick(ears)),
            asyncio.create_task(self._send(self._words)),
            *(asyncio.create_task(self._send(self._receipts)) for _ in range(RECEIPTS_IN_FLIGHT)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self.link.close(self._status(online=False))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- coming in ------------------------------------------------------------------------------

    async def _subscribe(self, ears: Ears) -> None:
        handler = functools.partial(self._on_delivery, ears)
        await self.link.subscribe(self.topics.hub(self._name, "control"), handler)
        await self.link.subscribe(f"{self.topics.hub(self._name, 'reports')}/+/+", handler)
        for hub in self._roster.names("hub"):
            if hub != self._name:
                await self.link.subscribe(self.topics.hub(hub, "events"), handler)
                await self.link.subscribe(self.topics.hub(hub, "status"), handler)

    async def _on_delivery(self, ears: Ears, delivery: Delivery) -> None:
        try:
            address, message = self._post.open(delivery.topic, delivery.payload)
            if ears.watch.confirmed or isinstance(message, HubStatus | PeerLog):
                await self._take(ears, address.part, message)
            else:
                self._held.put(address.part, message, len(delivery.payload))
        except HubStoreError as error:
            ears.performer.fail(error)
        except ShoalError as error:
            name = type(error).__name__
            self.refused[name] += 1
            log.warning("message_refused", topic=delivery.topic, error=name, remedy=str(error))

    async def _take(self, ears: Ears, part: str, message: AnyMessage) -> None:
        match part, message:
            case "status", HubStatus():
                await ears.watch.hear_status(message)
            case "events", PeerLog():
                if await ears.watch.hear_peer(message):
                    await self._begin(ears)
            case "reports", ReportPart():
                await ears.keeper.take_part(message)
            case "events", _:
                if isinstance(message, ReportSet | Agreement):
                    await ears.watch.note(message.sender, message.position, message.head)
                await ears.keeper.hear(message)
            case "control", RevealWanted() | PlanProposal() | Commit() | Abort():
                await ears.keeper.hear(message)
            case _:
                raise UnexpectedMessageError(
                    f"{type(message).__name__} has no place on {part!r}: update its sender"
                )

    async def _begin(self, ears: Ears) -> None:
        """Go on: every peer has seen no more of this hub's log than there is."""
        log.info("log_confirmed", entries=ears.performer.position)
        self._promised(await ears.desk.promise())
        await ears.keeper.remind()
        self._reminded = True
        for part, message in self._held.drain():
            try:
                await self._take(ears, part, message)
            except HubStoreError:
                raise
            except ShoalError as error:
                self.refused[type(error).__name__] += 1
                log.warning("message_refused", error=type(error).__name__, remedy=str(error))

    async def _connected(self, ears: Ears, session_present: bool) -> None:  # noqa: FBT001
        self._words.put_nowait(self._status(online=True))
        if ears.watch.confirmed and not session_present:
            await ears.keeper.remind()

    async def _tick(self, ears: Ears) -> None:
        asked_s = 0.0
        while True:
            await asyncio.sleep(TICK_S)
            # Without a connection nothing can be heard or said, and nothing is decided.
            if not self.link.is_connected or self._words.qsize() >= CROWDED:
                continue
            if ears.watch.confirmed:
                if ears.keeper.waiting:
                    await ears.keeper.tick()
            elif time.monotonic() - asked_s >= ASK_S:
                if asked_s:
                    log.warning("log_unconfirmed", waiting_for=list(ears.watch.awaited))
                    self._words.put_nowait(self._status(online=True))
                asked_s = time.monotonic()

    # --- going out ------------------------------------------------------------------------------

    def _say(self, topic: str, message: AnyMessage) -> None:
        publication = Publication(topic, self._post.encode(topic, message))
        if isinstance(message, Receipt):
            self._receipts.put((topic, message.round, message.report_id), publication)
        else:
            self._words.put_nowait(publication)

    def _promised(self, promise: HubPromise) -> None:
        self._promise = promise
        self._words.put_nowait(self._status(online=True))

    def _log_news(self) -> None:
        # Peers learn the new head before the word that follows from it.
        self._words.put_nowait(self._status(online=True))

    def _status(self, *, online: bool) -> Publication:
        status = self._post.compose(
            HubStatus,
            online=online,
            session=self._session,
            promise=self._promise if online else None,
            position=self._performer.position if online and self._performer else 0,
            head=self._performer.head if online and self._performer else b"",
            roster=self._roster.held,
        )
        return Publication(self._status_topic, self._post.encode(self._status_topic, status), retain=True)

    async def _send(self, lane: asyncio.Queue[Publication] | ReceiptLane) -> None:
        while True:
            one = await lane.get()
            try:
                await self.link.publish(one.topic, one.payload, qos=one.qos, retain=one.retain)
            except TransportError as error:
                log.warning("not_sent", topic=one.topic, error=type(error).__name__, remedy=str(error))

    async def _durably(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


async def run_hub(settings: HubSettings) -> None:
    """Run the hub of ``settings`` until a stop signal, or the end of stdin where that is asked for.

    Raises:
        ShoalError: key, roster, log or broker address cannot be used; the text says what to do.
    """
    configure_logs(settings.log_level)
    folder = settings.party_folder
    identity = load_identity(settings.name, folder / "identity.key")
    is_new = not settings.data_folder.exists()
    roster = trusted_roster(folder, settings.data_folder, settings.fleet)
    service = HubService(settings, identity, roster)
    if is_new:
        log.info("data_folder_made", folder=str(settings.data_folder.resolve()))
    with structlog.contextvars.bound_contextvars(hub=settings.name):
        reason = await run_until_stopped(service.run(), stop_on_stdin_eof=settings.stop_on_stdin_eof)
        log.info("hub_stopped", reason=reason)


def _with_user(settings: HubSettings) -> Any:
    link = settings.link
    return link if link.username else msgspec.structs.replace(link, username=settings.name)


def _check_role(identity: Identity, roster: Roster) -> None:
    if roster.role(identity.name) != "hub" or roster.party(identity.name).key != identity.public:
        raise HubRoleError(
            f"{identity.name!r} with this key is no hub on the roster: enrol it, or use its own folder"
        )
