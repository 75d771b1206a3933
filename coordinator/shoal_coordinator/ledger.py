"""Rounds and versions as the store keeps them."""

from collections.abc import Callable

import msgspec
import structlog

from shoal_codecs.updates.ring_extras import NOTHING_TOLD, RoundTold
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import decode_plan, plan_hash
from shoal_codecs.wire.status import RoundRow
from shoal_coordinator import round_steps as on
from shoal_coordinator.algorithms.stability import middle_loss
from shoal_coordinator.chains import ModelVersion, with_step
from shoal_coordinator.privacy_book import Spent
from shoal_coordinator.round_parts import Outcome, totals
from shoal_coordinator.store import RoundRecord, Store, VersionRecord

log = structlog.get_logger()
KEPT_ROWS = 200
_TARGET = "target"


class _Target(msgspec.Struct, frozen=True):
    """The version to train until, and why no further where rounds were taken back.

    ``taken_back`` is the version that settings asked for then, and that they ask for no more.
    """

    version: int = 0
    stopped: str = ""
    taken_back: int = 0


class _Memory(msgspec.Struct, frozen=True):
    """A snapshot and candidate, packed into a round's record."""

    signatures: dict[str, bytes]
    members: tuple[str, ...]
    reason: str
    number: int = -1
    digest: bytes = b""
    whole: BlobRef | None = None
    parent: bytes = b""
    step: BlobRef | None = None
    promises: tuple[HubPromise, ...] = ()
    algorithm: BlobRef | None = None
    update_norm: float = 0.0
    late: tuple[tuple[str, int], ...] = ()


class Ledger:
    """Writes rounds down.

    ``spent`` says what the version that a plan (its hash) has made costs, None for one without noise;
    ``told`` what the round that made a version told with noise.
    ``stopped`` is why no more rounds are asked for, where some were taken back, and else nothing.
    ``rows`` are the newest finished ones, oldest first; ``upcoming`` is the next round's number, which is
    not used before it is taken, and ``last_number`` the last one used.
    """

    def __init__(
        self,
        store: Store,
        task: bytes,
        clock_ms: Callable[[], int],
        traffic: Callable[[], tuple[float, float]],
        spent: Callable[[bytes], Spent | None] = lambda _: None,
        told: Callable[[int], RoundTold] = lambda _: NOTHING_TOLD,
    ) -> None:
        self._store = store
        self._task = task
        self._clock_ms = clock_ms
        self._traffic = traffic
        self._spent = spent
        self._told = told
        self._opened_ms: dict[int, int] = {}
        self._wanted = self._taken_back = 0
        self.stopped = ""
        self.rows: list[RoundRow] = []
        self.upcoming = 0
        self.last_number = 0

    async def load(self) -> None:
        """Read the newest finished rounds and the next number."""
        self.rows = await self._store.rounds(KEPT_ROWS)
        self.last_number = self.rows[-1].round if self.rows else 0
        self.upcoming = await self._store.last_round_number() + 1

    async def take_number(self) -> int:
        """Use ``upcoming`` up and return it; no number is used twice, over restarts too.

        It is on disk before anybody hears of it: two plans of one number would be two truths. What only was
        ``upcoming`` when a process ended was said to nobody, and is the next one's.
        """
        self.last_number = await self._store.next_round_number()
        self.upcoming = self.last_number + 1
        return self.last_number

    async def target(self, wanted: int) -> int:
        """Return the version to train until, where settings ask for ``wanted``, operators perhaps for more.

        What was taken back the settings ask for again only when they are changed.
        """
        stored = await self._store.get_record(_TARGET, _Target) or _Target()
        self._wanted, self._taken_back, self.stopped = wanted, stored.taken_back, stored.stopped
        if wanted <= stored.version or wanted == stored.taken_back:
            return stored.version
        self.stopped = ""
        return wanted

    async def save_target(self, version: int, stopped: str = "") -> None:
        """Remember the version to train until, and why no further where that is known."""
        await self._save_target(_Target(version, stopped, self._taken_back))

    async def take_back(self, version: int, reason: str) -> None:
        """Remember that no round is asked for beyond ``version``, by settings neither."""
        await self._save_target(_Target(version, reason, self._wanted))

    async def _save_target(self, target: _Target) -> None:
        await self._store.set_value(_TARGET, pack(target))
        self._taken_back, self.stopped = target.taken_back, target.stopped

    async def unfinished(self) -> tuple[on.RoundSnapshot, ModelVersion | None] | None:
        """Return the round that an earlier process left, and its candidate if there was one.

        One that cannot be read, as after an update of Shoal in its midst, is ended: nothing comes of it.
        """
        record = await self._store.unfinished_round()
        if record is None:
            return None
        try:
            memory = unpack(record.snapshot, _Memory)
            decode_plan(record.plan)
        except (msgspec.ValidationError, WireError) as error:
            reason = f"what is stored of it cannot be used any more ({str(error)[:120]})"
            log.warning("round lost", round=record.number, reason=reason)
            await self.close(Outcome(round=record.number, plan_hash=record.plan_hash, reason=reason))
            return None
        self._opened_ms[record.number] = record.opened_ms
        snapshot = on.RoundSnapshot(
            state=on.RoundState(record.state),
            plan=record.plan,
            signatures=memory.signatures,
            members=memory.members,
            reason=memory.reason,
            promises=memory.promises,
            late=memory.late,
        )
        if memory.whole is None:
            return snapshot, None
        candidate = ModelVersion(
            memory.number,
            memory.digest,
            memory.whole,
            memory.parent,
            memory.step,
            state=memory.algorithm,
            update_norm=memory.update_norm,
        )
        return snapshot, with_step(candidate, self._store.blobs)

    async def save(self, number: int, snapshot: on.RoundSnapshot, candidate: ModelVersion | None) -> None:
        """Store how far a round is."""
        opened_ms = self._opened_ms.setdefault(number, self._clock_ms())
        memory = _Memory(
            snapshot.signatures,
            snapshot.members,
            snapshot.reason,
            promises=snapshot.promises,
            late=snapshot.late,
        )
        if candidate is not None:
            memory = msgspec.structs.replace(
                memory,
                number=candidate.number,
                digest=candidate.digest,
                whole=candidate.whole,
                parent=candidate.parent,
                step=candidate.step,
                algorithm=candidate.state,
                update_norm=candidate.update_norm,
            )
        await self._store.save_round(
            RoundRecord(
                number=number,
                state=snapshot.state.value,
                plan=snapshot.plan,
                plan_hash=plan_hash(snapshot.plan),
                opened_ms=opened_ms,
                snapshot=pack(memory),
            )
        )

    async def close(self, outcome: Outcome) -> None:
        """Store the end of a round, with the version it made, in one transaction."""
        self._opened_ms.pop(outcome.round, None)
        up, down = self._traffic()
        version = outcome.version
        if version is None:
            row = RoundRow(
                round=outcome.round, outcome="aborted", seconds=outcome.seconds, reason=outcome.reason
            )
            await self._store.finish_round(row)
        else:
            examples, accuracy, loss = totals(outcome)
            spent = self._spent(outcome.plan_hash)
            row = RoundRow(
                round=outcome.round,
                outcome="committed",
                version=version.number,
                devices=len(outcome.members),
                examples=examples,
                accuracy=accuracy,
                loss=loss,
                seconds=outcome.seconds,
                reason=outcome.reason,
                up_bytes=up,
                down_bytes=down,
                epsilon=spent.epsilon if spent else None,
                told=self._told(version.number).by_name(),
            )
            record = VersionRecord(
                number=version.number,
                digest=version.digest,
                parent=version.parent,
                round=outcome.round,
                task=self._task,
                whole=version.whole,
                step=version.step,
                devices=len(outcome.members),
                examples=examples,
                accuracy=accuracy,
                loss=loss,
                created_ms=self._clock_ms(),
                epsilon=spent.epsilon if spent else None,
                task_epsilon=spent.task_epsilon if spent else None,
                delta=spent.delta if spent else 0.0,
                state=version.state,
                update_norm=version.update_norm,
                median_loss=middle_loss(outcome.evaluations),
            )
            await self._store.commit_version(record, row)
        self.rows.append(row)
        del self.rows[:-KEPT_ROWS]
