"""The SQLite file under the store: opened by one process, migrated, written durably."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from shoal_codecs.folder_lock import take_lock
from shoal_coordinator.store.errors import (
    ClosedStoreError,
    DamagedStoreError,
    NewerStoreError,
    StoreConflictError,
    StoreInUseError,
    StoreWriteError,
)

HEAD = "0004"
"""The newest revision in ``migrations``; a test keeps the two equal."""
MIGRATIONS = Path(__file__).with_name("migrations")
# Full, and not normal: with a write-ahead log the latter may lose the last commits in a power cut.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000")


class Database:
    """One open SQLite file; transactions follow each other on a single connection."""

    def __init__(self, path: Path, engine: AsyncEngine, lock: int) -> None:
        self.path = path
        self._engine = engine
        self._lock = lock
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Lock, check and migrate the file at ``path``, or make it.

        Raises:
            StoreInUseError: another process has it open.
            DamagedStoreError: it is no database, or a broken one.
            NewerStoreError: a newer Shoal has written it.
            StoreWriteError: the folder or the file cannot be written.
        """
        lock = _lock(path)
        try:
            await asyncio.to_thread(_prepare, path)
        except BaseException:
            os.close(lock)
            raise
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0)
        _configure(engine.sync_engine)
        return cls(path, engine, lock)

    async def close(self) -> None:
        """Close the file, after the transaction under way if there is one, and let others open it."""
        # The pool forgets a connection that is lent out when it is disposed of, and would make a new one for
        # whoever comes later: neither would ever be closed.
        async with self._turn:
            await self._engine.dispose()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection whose changes are on the disk when the block ends, or undone when it raises.

        Raises:
            StoreConflictError: a change that contradicts what is kept.
            StoreWriteError: the disk did not take it.
            DamagedStoreError: the file is broken.
            ClosedStoreError: the file was closed before.
        """
        try:
            async with self._turn:
                if self._lock < 0:
                    raise ClosedStoreError(f"{self.path} is closed: open the store again")
                async with self._engine.begin() as connection:
                    yield connection
        except IntegrityError as error:
            raise StoreConflictError(
                f"contradicts what is kept: {error.orig}; nothing was changed"
            ) from error
        except SQLAlchemyError as error:
            raise _fault(self.path, error) from error


def _configure(engine: Any) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # The driver would begin transactions by itself, too late for a read that a write relies on.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _lock(path: Path) -> int:
    try:
        return take_lock(path.with_suffix(".lock"))
    except BlockingIOError as error:
        raise StoreInUseError(
            f"{path.parent} is in use by another coordinator: stop that one, or give this one its own folder"
        ) from error
    except OSError as error:
        raise StoreWriteError(
            f"cannot lock {path.parent}: {error.strerror}; make the folder this user's, on a disk that has "
            "locks"
        ) from error


def _prepare(path: Path) -> None:
    """Check the file and bring its schema up to date."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            revision = _revision(connection, path)
        if revision != HEAD:
            _migrate(path, revision)
    except (sqlite3.DatabaseError, SQLAlchemyError) as error:
        raise _fault(path, error) from error


def _revision(connection: sqlite3.Connection, path: Path) -> str | None:
    """Return the schema's revision, None for a fresh file.

    Raises:
        DamagedStoreError: SQLite finds the file broken, or it holds something else.
    """
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _damaged(path, verdict)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" not in tables:
        if tables:
            raise _damaged(path, "it holds tables of something else")
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _migrate(path: Path, revision: str | None) -> None:
    # Alembic is slow to import and needed only when the schema changes.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise NewerStoreError(f"{path} has schema {revision}, this Shoal knows up to {HEAD}: update this one")
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    _configure(engine)
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def _fault(path: Path, error: Exception) -> DamagedStoreError | StoreWriteError:
    """Return the named fault behind a database error."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return _damaged(path, str(cause))
    if isinstance(error, DatabaseError | sqlite3.DatabaseError):
        return StoreWriteError(
            f"{path} was not written ({cause}): check the disk's space and the permissions"
        )
    return StoreWriteError(f"{path} was not written: {type(error).__name__}")


def _damaged(path: Path, verdict: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"{path} is damaged ({verdict[:120]}): put a backup in its place, or move it away to begin anew"
    )
