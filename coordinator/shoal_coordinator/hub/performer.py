"""What a round's machine wants done: made durable first, then said.

A ``Log`` action is on the disk before the next action begins.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.secagg.hub_messages import (
    Action,
    ComputeProjections,
    ComputeSum,
    DestroyKey,
    Event,
    JudgeNorms,
    LogAgreement,
    LogChallenged,
    LogChecking,
    LogClosed,
    LogEnding,
    LogSettled,
    LogSum,
    PublishAbandoned,
    PublishAgreement,
    PublishChallenge,
    PublishProjections,
    PublishSet,
    PublishSigned,
    PublishSum,
    SumSealed,
)
from shoal_codecs.secagg.log_chain import NO_HEAD
from shoal_codecs.secagg.report_opening import open_share
from shoal_codecs.security.identity import sealing_public_of
from shoal_codecs.security.post import Post
from shoal_codecs.security.sealing import seal
from shoal_codecs.wire.hubs import never_released_bytes
from shoal_codecs.wire.messages import (
    Agreement,
    AnyMessage,
    HubChallenge,
    HubProjections,
    HubSumPart,
    Message,
    PlanSigned,
    Receipt,
    ReportSet,
    RoundAbandoned,
)
from shoal_coordinator.hub import norms
from shoal_coordinator.hub.errors import HubStoreError
from shoal_coordinator.hub.live import LiveRound
from shoal_coordinator.hub.store import HubStore

log = structlog.get_logger()
T = TypeVar("T")
SUM_PART_BYTES = 256 * 1024


class Say(Protocol):
    """How a hub speaks: it hands a message over and goes on."""

    def __call__(self, topic: str, message: AnyMessage) -> None:
        """Send ``message`` to ``topic`` as soon as there is a connection."""


class Durably(Protocol):
    """How a hub reaches its log: in the one thread that may."""

    async def __call__(self, call: Callable[..., T], *args: Any) -> T:
        """Return what ``call`` returns there."""


class RoundPerformer:
    """Feeds events to machines and carries their actions out, one at a time under ``lock``.

    ``fault`` becomes an exception when the log fails: the hub must then stop, for it may have decided what
    it cannot remember. ``position`` and ``head`` are the log's, ``on_logged`` is called when they change.
    """

    def __init__(
        self,
        post: Post,
        store: HubStore,
        durably: Durably,
        say: Say,
        on_logged: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.position, self.head = 0, NO_HEAD
        self.fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lock = asyncio.Lock()
        self._name = post.identity.name
        self._post = post
        self._store = store
        self._durably = durably
        self._say = say
        self._on_logged = on_logged
        self._clock = clock
        self._sums: set[asyncio.Task[None]] = set()
        self._coordinator = post.roster.sole("coordinator")

    def now_ms(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def fail(self, error: BaseException) -> None:
        """Stop the hub because of ``error``."""
        if not self.fault.done():
            self.fault.set_exception(error)

    async def feed(self, live: LiveRound, event: Event) -> None:
        """Give ``event`` to the round's machine and do what it wants; the caller holds ``lock``.

        Raises:
            HubRoundError: the event cannot be true; nothing changed.
            HubStoreError: the log failed; ``fault`` says so too.
        """
        for action in live.machine.handle(event):
            try:
                await self._perform(live, action)
            except HubStoreError as error:
                self.fail(error)
                raise

    async def _perform(self, live: LiveRound, action: Action) -> None:
        match action:
            case (
                LogClosed()
                | LogChallenged()
                | LogChecking()
                | LogAgreement()
                | LogSum()
                | LogEnding()
                | LogSettled()
            ):
                await self._log(live, action)
            case ComputeSum(digest, members):
                self._aside(self._sum(live, digest, members))
            case ComputeProjections():
                self._aside(self._project(live, action))
            case JudgeNorms():
                self._aside(self._judge(live, action))
            case PublishChallenge():
                own = await self._durably(self._store.challenge, live.plan_hash)
                self.tell(HubChallenge, **norms.challenge_words(live, action, own))
            case PublishProjections():
                for fields in norms.projection_words(live, action):
                    self.tell(HubProjections, **fields)
            case DestroyKey():
                await self._durably(self._store.destroy, live.plan_hash)
                live.forget_secrets()
            case PublishSum(digest, sealed):
                self._send_sum(live, digest, sealed)
            case _:
                self._publish(live, action)

    async def _log(
        self,
        live: LiveRound,
        action: LogClosed | LogChallenged | LogChecking | LogAgreement | LogSum | LogEnding | LogSettled,
    ) -> None:
        store, key, now_ms = self._store, live.plan_hash, self.now_ms()
        match action:
            case LogClosed(reports):
                await self._durably(store.log_closed, key, dict(reports), now_ms)
                log.info("reports_closed", round=live.plan.round, reports=len(reports))
            case LogChallenged(digest, members):
                await self._durably(store.log_challenged, key, digest, members, now_ms)
                log.info("norms_challenged", round=live.plan.round, reports=len(members))
            case LogChecking(secrets):
                await self._durably(store.log_checking, key, dict(secrets), now_ms)
            case LogAgreement(digest, members):
                await self._durably(store.log_agreement, key, digest, members, now_ms)
                log.info("set_agreed", round=live.plan.round, reports=len(members))
            case LogSum(sealed):
                await self._durably(store.log_sum, key, sealed, now_ms)
                log.info("sum_released", round=live.plan.round)
            case LogEnding(state, reason):
                await self._durably(store.log_ending, key, state, reason, now_ms)
                log.info("round_ended", round=live.plan.round, state=state.value, reason=reason)
            case LogSettled():
                await self._durably(store.log_settled, key, now_ms)
        await self.logged()

    async def logged(self) -> None:
        """Learn the log's new head and let everybody know it: whoever adds to the log calls this."""
        self.position, self.head = await self._durably(self._store.database.head)
        self._on_logged()

    def _publish(self, live: LiveRound, action: Action) -> None:
        head: dict[str, Any] = {"round": live.plan.round, "plan_hash": live.plan_hash}
        match action:
            case PublishSigned():
                self.tell(PlanSigned, **head, signature=live.signature)
            case PublishSet(reports):
                self.tell(ReportSet, **head, **self._log_head(), reports=dict(reports))
            case PublishAgreement(digest, members):
                self.tell(Agreement, **head, **self._log_head(), set_digest=digest, members=members)
            case PublishAbandoned(reason):
                certificate = self._post.identity.sign(never_released_bytes(live.plan_hash))
                self.tell(RoundAbandoned, **head, reason=reason, certificate=certificate)

    def _log_head(self) -> dict[str, Any]:
        return {"position": self.position, "head": self.head}

    def _send_sum(self, live: LiveRound, digest: bytes, sealed: bytes) -> None:
        count = -(-len(sealed) // SUM_PART_BYTES)
        for index in range(count):
            self.tell(
                HubSumPart,
                round=live.plan.round,
                plan_hash=live.plan_hash,
                set_digest=digest,
                index=index,
                count=count,
                data=sealed[index * SUM_PART_BYTES : (index + 1) * SUM_PART_BYTES],
            )

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Let the other rounds and messages go on while ``work`` computes."""
        task = asyncio.create_task(work)
        self._sums.add(task)
        task.add_done_callback(self._sum_done)

    async def _project(self, live: LiveRound, action: ComputeProjections) -> None:
        try:
            held = await self._durably(self._store.ciphertexts, live.plan_hash, action.members)
            own = await self._durably(self._store.challenge, live.plan_hash)
            event = await norms.projected(live, action, own, held)
            async with self.lock:
                await self.feed(live, event)
        except HubStoreError:
            raise
        except ShoalError as error:
            log.warning("norms_not_checked", error=type(error).__name__, remedy=str(error))

    async def _judge(self, live: LiveRound, action: JudgeNorms) -> None:
        try:
            event = await norms.judged(live, action)
            async with self.lock:
                await self.feed(live, event)
        except HubStoreError:
            raise
        except ShoalError as error:
            log.warning("norms_not_checked", error=type(error).__name__, remedy=str(error))

    async def _sum(self, live: LiveRound, digest: bytes, members: tuple[str, ...]) -> None:
        try:
            whole = tuple(device for device in members if device in live.whole)
            wanted = live.running.wanted(whole) if live.running is not None else None
            patched = () if wanted is None else whole
            named = sorted({*members} - {*patched} | {*(wanted or ())})
            held = await self._durably(self._store.ciphertexts, live.plan_hash, tuple(named))
            total = await asyncio.to_thread(_total, live, patched, held)
            context = sum_context(live.plan_hash, digest, self._name)
            key = sealing_public_of(self._coordinator.key)
            sealed = await asyncio.to_thread(seal, key, total, context)
            async with self.lock:
                await self.feed(live, SumSealed(sealed))
        except HubStoreError:
            raise
        except ShoalError as error:
            # Bound to the set, this hub can neither sum it nor give it up: a person has to look.
            name = type(error).__name__
            log.critical("sum_failed", round=live.plan.round, error=name, remedy=str(error))

    def _sum_done(self, task: asyncio.Task[None]) -> None:
        self._sums.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def tell(self, kind: type[Message], **fields: Any) -> None:
        """Say something on this hub's own topic."""
        topic = self._post.topics.hub(self._name, "events")
        self._say(topic, self._post.compose(kind, **fields))  # type: ignore[arg-type]

    def receipt(self, live: LiveRound, device: str, report_id: bytes, credit: int = 0) -> None:
        """Tell ``device`` what is stored; an empty ``report_id`` says how many parts are here."""
        receipt = self._post.compose(
            Receipt, round=live.plan.round, plan_hash=live.plan_hash, report_id=report_id, credit=credit
        )
        self._say(self._post.topics.receipt(device, self._name), receipt)


def _total(live: LiveRound, patched: tuple[str, ...], held: list[tuple[str, bytes]]) -> bytes:
    """Return the packed sum of ``held`` and of ``patched``, whose shares are in the running sum.

    Of those ``held`` has what the running sum lacks or has too much.
    """
    from shoal_coordinator.hub.sums import add_shares  # noqa: PLC0415 - see above

    def opened(device: str) -> bytes:
        return open_share(ciphertexts.get(device, b""), device, live.receiver)

    ciphertexts, added = dict(held), b""
    others = list(ciphertexts)
    if patched and live.running is not None:
        added = live.running.total(patched, opened)
        others = [device for device in others if device not in live.whole]
    shares = ((device, opened(device)) for device in others)
    return add_shares(live.plan, live.plan_hash, live.receiver.position, shares, added)
