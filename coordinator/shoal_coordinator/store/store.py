"""The coordinator's memory: SQLite for what is small, files by digest for what is large.

Every method that changes something has it on disk when it returns (WAL with ``synchronous=FULL``), so that
what follows may be announced.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.wire.blob import DEFAULT_CHUNK_BYTES, BlobRef
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.packing import pack, unpack, unpack_plain
from shoal_codecs.wire.status import RoundRow
from shoal_coordinator.store import tables
from shoal_coordinator.store.database import Database
from shoal_coordinator.store.errors import DamagedStoreError, StoreConflictError, UnknownVersionError
from shoal_coordinator.store.records import (
    AuditRecord,
    ParticipationRecord,
    PrivatePlanRecord,
    ReleaseDeviceRecord,
    ReleaseRecord,
    RoundRecord,
    VersionRecord,
)

T = TypeVar("T")
DATABASE = "coordinator.sqlite3"
_ROUND_COUNTER = "last-round"


class Store:
    """One coordinator's versions, rounds, releases, audit log and blobs.

    Every method may raise DamagedStoreError or StoreWriteError.
    """

    def __init__(self, folder: Path, database: Database, chunk_bytes: int) -> None:
        self.folder = folder
        self.blobs = BlobStore(folder / "blobs", chunk_bytes=chunk_bytes)
        self._database = database

    @classmethod
    async def open(cls, folder: Path, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> "Store":
        """Open the store in ``folder``, made or migrated as needed; its blobs come in ``chunk_bytes``.

        Raises:
            StoreInUseError: another process has it open.
            DamagedStoreError: the database file is broken.
            NewerStoreError: a newer Shoal wrote it.
            StoreWriteError: the folder cannot be written.
        """
        return cls(folder, await Database.open(folder / DATABASE), chunk_bytes)

    async def close(self) -> None:
        """Let the database go."""
        await self._database.close()

    # --- versions -------------------------------------------------------------------------------

    async def latest_version(self) -> VersionRecord | None:
        """Return the newest version, None before the first."""
        query = sa.select(tables.Version.__table__).order_by(tables.Version.number.desc()).limit(1)
        found = await self._rows(query)
        return _version(found[0]) if found else None

    async def version(self, number: int) -> VersionRecord:
        """Return version ``number``.

        Raises:
            UnknownVersionError: it is not stored.
        """
        found = await self._rows(sa.select(tables.Version.__table__).where(tables.Version.number == number))
        if not found:
            raise UnknownVersionError(f"version {number} is not stored: see 'shoal rounds list'")
        return _version(found[0])

    async def versions(self, last: int | None = None) -> list[VersionRecord]:
        """Return the versions, oldest first; only the ``last`` ones where a number is given."""
        query = sa.select(tables.Version.__table__).order_by(tables.Version.number.desc()).limit(last)
        return [_version(row) for row in reversed(await self._rows(query))]

    async def add_first_version(self, version: VersionRecord) -> None:
        """Store the version that no round made."""
        async with self._database.begin() as connection:
            await connection.execute(sa.insert(tables.Version).values(**_version_values(version)))

    async def commit_version(self, version: VersionRecord, row: RoundRow) -> None:
        """Store a version and the end of the round that made it, in one transaction.

        Raises:
            StoreConflictError: it does not follow the newest version, or the round is over already.
        """
        newest = sa.select(tables.Version.number, tables.Version.digest)
        async with self._database.begin() as connection:
            found = (await connection.execute(newest.order_by(tables.Version.number.desc()).limit(1))).first()
            if found is None or (version.number, version.parent) != (found.number + 1, found.digest):
                raise StoreConflictError(
                    f"version {version.number} does not follow the newest one: begin a new round on that"
                )
            await connection.execute(sa.insert(tables.Version).values(**_version_values(version)))
            await _finish(connection, row)

    # --- rounds ---------------------------------------------------------------------------------

    async def last_round_number(self) -> int:
        """Return the round number that was returned last, 0 before the first."""
        return int(await self.get_value(_ROUND_COUNTER) or b"0")

    async def next_round_number(self) -> int:
        """Return a round number that was never returned before, over restarts too."""
        async with self._database.begin() as connection:
            content = await _value(connection, _ROUND_COUNTER)
            number = int(content or b"0") + 1
            await _set(connection, _ROUND_COUNTER, str(number).encode())
        return number

    async def save_round(self, record: RoundRecord) -> None:
        """Store how far a round is.

        Raises:
            StoreConflictError: it is over already.
        """
        values = {**_fields(record), "finished": False, "row": b""}
        # A plan is a draft until the hubs have shown their nonces.
        plan = {"plan": record.plan, "plan_hash": record.plan_hash}
        changed = {"state": record.state, "snapshot": record.snapshot, **plan}
        async with self._database.begin() as connection:
            statement = insert(tables.Round).values(**values)
            await _unless_over(connection, statement, changed, record.number)

    async def unfinished_round(self) -> RoundRecord | None:
        """Return the round that was under way when the coordinator ended, if any."""
        table = tables.Round.__table__
        query = sa.select(table).where(tables.Round.finished.is_(False)).order_by(table.c.number.desc())
        found = await self._rows(query.limit(1))
        if not found:
            return None
        names = RoundRecord.__dataclass_fields__
        return RoundRecord(**{name: found[0][name] for name in names})

    async def finish_round(self, row: RoundRow) -> None:
        """Store the end of a round that made no version.

        Raises:
            StoreConflictError: it is over already.
        """
        async with self._database.begin() as connection:
            await _finish(connection, row)

    async def rounds(self, last: int | None = None) -> list[RoundRow]:
        """Return the finished rounds, oldest first; only the ``last`` ones where a number is given."""
        table = tables.Round.__table__
        query = sa.select(table.c.row).where(tables.Round.finished.is_(True))
        rows = await self._rows(query.order_by(table.c.number.desc()).limit(last))
        return [self._unpacked(row["row"], RoundRow, "a round") for row in reversed(rows)]

    # --- releases -------------------------------------------------------------------------------

    async def save_release(self, record: ReleaseRecord) -> None:
        """Store a release, or how far it is."""
        values = {**_fields(record), "canaries": ",".join(record.canaries)}
        changed = {name: values[name] for name in ("state", "canaries", "changed_ms", "reason")}
        async with self._database.begin() as connection:
            statement = insert(tables.Release).values(**values)
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["release"], set_=changed)
            )

    async def releases(self) -> list[ReleaseRecord]:
        """Return every release, oldest first."""
        table = tables.Release.__table__
        rows = await self._rows(sa.select(table).order_by(table.c.created_ms, table.c.release))
        return [
            ReleaseRecord(**{**row, "canaries": tuple(filter(None, row["canaries"].split(",")))})
            for row in rows
        ]

    async def save_release_device(self, record: ReleaseDeviceRecord) -> None:
        """Store where a device stands with a release."""
        values = {
            **{
                name: getattr(record, name) for name in ("release", "device", "state", "reason", "changed_ms")
            },
            "candidate_examples": record.candidate[0],
            "candidate_correct": record.candidate[1],
            "replaced_examples": record.replaced[0],
            "replaced_correct": record.replaced[1],
        }
        keys = ["release", "device"]
        changed = {name: value for name, value in values.items() if name not in keys}
        async with self._database.begin() as connection:
            statement = insert(tables.ReleaseDevice).values(**values)
            await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))

    async def release_devices(self, release: str) -> list[ReleaseDeviceRecord]:
        """Return where every device stands with ``release``."""
        table = tables.ReleaseDevice.__table__
        query = sa.select(table).where(table.c.release == release).order_by(table.c.device)
        return [_release_device(row) for row in await self._rows(query)]

    # --- privacy --------------------------------------------------------------------------------

    async def save_participations(self, plan: PrivatePlanRecord, devices: Sequence[str], state: str) -> None:
        """Store how ``devices`` stand to ``plan``, and the plan itself if it is new."""
        first = insert(tables.PrivatePlan).values(**_fields(plan)).on_conflict_do_nothing()
        rows = [{"plan_hash": plan.plan_hash, "device": device, "state": state} for device in devices]
        each = insert(tables.Participation).on_conflict_do_update(
            index_elements=["plan_hash", "device"], set_={"state": state}
        )
        async with self._database.begin() as connection:
            await connection.execute(first)
            if rows:
                await connection.execute(each, rows)

    async def private_plans(self) -> list[PrivatePlanRecord]:
        """Return every plan with noise that devices were invited to, oldest round first."""
        query = sa.select(tables.PrivatePlan.__table__).order_by(tables.PrivatePlan.round)
        return [PrivatePlanRecord(**row) for row in await self._rows(query)]

    async def participations(self) -> list[ParticipationRecord]:
        """Return how every device stands to every plan with noise."""
        query = sa.select(tables.Participation.__table__)
        return [ParticipationRecord(**row) for row in await self._rows(query)]

    # --- audit log and small values -------------------------------------------------------------

    async def log_event(self, kind: str, text: str, fields: dict[str, Any] | None = None) -> None:
        """Add a line to the audit log."""
        values = {"at_ms": int(time.time() * 1000), "kind": kind, "text": text, "fields": pack(fields or {})}
        async with self._database.begin() as connection:
            await connection.execute(sa.insert(tables.Audit).values(**values))

    async def audit(self, last: int = 1000) -> list[AuditRecord]:
        """Return the newest lines of the audit log, oldest first."""
        table = tables.Audit.__table__
        rows = await self._rows(sa.select(table).order_by(table.c.id.desc()).limit(last))
        return [
            AuditRecord(
                at_ms=row["at_ms"], kind=row["kind"], text=row["text"], fields=unpack_plain(row["fields"])
            )
            for row in reversed(rows)
        ]

    async def get_value(self, key: str) -> bytes | None:
        """Return a small value, None where it was never set."""
        async with self._database.begin() as connection:
            return await _value(connection, key)

    async def get_record(self, key: str, kind: type[T]) -> T | None:
        """Return a small value that was packed, None where it was never set.

        Raises:
            DamagedStoreError: it is no ``kind``.
        """
        stored = await self.get_value(key)
        return self._unpacked(stored, kind, f"value {key!r}") if stored else None

    async def set_value(self, key: str, content: bytes) -> None:
        """Store a small value."""
        async with self._database.begin() as connection:
            await _set(connection, key, content)

    def _unpacked(self, data: bytes, kind: type[T], what: str) -> T:
        try:
            return unpack(data, kind)
        except (msgspec.ValidationError, WireError) as error:
            raise DamagedStoreError(
                f"{self.folder / DATABASE} is damaged ({what}: {str(error)[:120]}): put a backup in its "
                "place, or move it away to begin anew"
            ) from error

    async def _rows(self, query: sa.Select[Any]) -> Sequence[dict[str, Any]]:
        async with self._database.begin() as connection:
            result = await connection.execute(query)
            return [dict(row) for row in result.mappings()]


async def _finish(connection: AsyncConnection, row: RoundRow) -> None:
    done = {"finished": True, "state": row.outcome, "snapshot": b"", "row": pack(row)}
    values = {"number": row.round, "plan": b"", "plan_hash": b"", "opened_ms": 0, **done}
    statement = insert(tables.Round).values(**values)
    await _unless_over(connection, statement, done, row.round)


async def _unless_over(
    connection: AsyncConnection, statement: Insert, changed: dict[str, Any], number: int
) -> None:
    """Insert a round, or update one that is under way."""
    over = tables.Round.finished.is_(False)
    upsert = statement.on_conflict_do_update(index_elements=["number"], set_=changed, where=over)
    if not (await connection.execute(upsert)).rowcount:
        raise StoreConflictError(f"round {number} is over already: nothing more can become of it")


async def _value(connection: AsyncConnection, key: str) -> bytes | None:
    result = await connection.execute(sa.select(tables.Value.content).where(tables.Value.key == key))
    return result.scalar_one_or_none()


async def _set(connection: AsyncConnection, key: str, content: bytes) -> None:
    statement = insert(tables.Value).values(key=key, content=content)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["key"], set_={"content": content})
    )


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _version_values(version: VersionRecord) -> dict[str, Any]:
    return {
        **_fields(version),
        "whole": pack(version.whole),
        "step": pack(version.step) if version.step else b"",
        "state": pack(version.state) if version.state else b"",
    }


def _version(row: dict[str, Any]) -> VersionRecord:
    refs = {name: unpack(row[name], BlobRef) if row[name] else None for name in ("step", "state")}
    return VersionRecord(**{**row, "whole": unpack(row["whole"], BlobRef), **refs})


def _release_device(row: dict[str, Any]) -> ReleaseDeviceRecord:
    return ReleaseDeviceRecord(
        release=row["release"],
        device=row["device"],
        state=row["state"],
        reason=row["reason"],
        candidate=(row["candidate_examples"], row["candidate_correct"]),
        replaced=(row["replaced_examples"], row["replaced_correct"]),
        changed_ms=row["changed_ms"],
    )
