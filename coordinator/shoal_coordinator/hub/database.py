"""The file under a hub's log: SQLite, one writer, every commit on the disk before it counts.

All methods block and belong in one thread.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from shoal_codecs.secagg.log_chain import NO_HEAD, next_head
from shoal_coordinator.hub.errors import HubFolderBusyError, HubStoreError
from shoal_coordinator.hub.schema import TABLES, VERSION

FILE_NAME = "hub.sqlite"


class HubDatabase:
    """The log's file in ``folder``; ``secret`` (32 bytes) encrypts what only this hub may read.

    Raises:
        HubFolderBusyError: another process has it open.
        HubStoreError: no log, or one of another format.
    """

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._box = SecretBox(secret)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with self._faults():
            self._database = sqlite3.connect(self.path, timeout=0.5, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # --- the chain ------------------------------------------------------------------------------

    def head(self) -> tuple[int, bytes]:
        """Return how many entries the log has and the head of their chain; 0 and nothing at first."""
        rows = self.rows("SELECT position, head FROM log ORDER BY position DESC LIMIT 1")
        position, head = rows[0] if rows else (0, NO_HEAD)
        return position, head

    def link(self, position: int) -> bytes:
        """Return the head of the chain when the log had ``position`` entries."""
        rows = self.rows("SELECT head FROM log WHERE position = ?", (position,))
        return bytes(rows[0][0]) if rows else NO_HEAD

    def log(self, subject: bytes, entry: str, body: bytes, at_ms: int) -> None:
        """Add an entry in a transaction of its own."""
        with self.transaction():
            self.append(subject, entry, body, at_ms)

    def append(self, subject: bytes, entry: str, body: bytes, at_ms: int) -> None:
        """Add an entry to the log and its chain, inside a transaction.

        One entry of a kind for a subject, for good: the table itself refuses a second answer.
        """
        position, head = self.head()
        self._database.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)",
            (position + 1, subject, entry, body, at_ms, next_head(head, subject, entry, body)),
        )

    # --- what everything above is made of -------------------------------------------------------

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        """Return all rows of a query."""
        with self._faults():
            return self._database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all of it, or nothing."""
        with self._faults():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` as only this hub can read it."""
        return bytes(self._box.encrypt(data))

    def decrypt(self, data: bytes) -> bytes:
        """Return what ``encrypt`` was given.

        Raises:
            HubStoreError: encrypted under another identity.
        """
        try:
            return bytes(self._box.decrypt(data))
        except CryptoError as error:
            raise HubStoreError(
                f"{self.path} was written under another identity: put its identity.key back"
            ) from error

    def _open(self) -> None:
        run = self._database.execute
        # Held for good: two processes with one key would answer twice.
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA secure_delete = ON")
        run("PRAGMA foreign_keys = ON")
        run("BEGIN EXCLUSIVE")
        (version,) = run("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in TABLES.split(";"):
                run(statement)
            run(f"PRAGMA user_version = {VERSION}")
        run("COMMIT")
        if version > VERSION:
            raise HubStoreError(f"{self.path} has format {version}, this hub reads {VERSION}: update the hub")
        if 0 < version < VERSION:
            # Its entries are not chained, so that no peer could vouch for them.
            raise HubStoreError(
                f"{self.path} has format {version}, this hub writes {VERSION}: finish its rounds with the "
                "Shoal that wrote it, then move its folder away and enrol the hub under another name"
            )

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise HubFolderBusyError(f"another process uses {self.path}: stop that hub first") from error
            raise HubStoreError(f"cannot use {self.path}: {error}; check the disk") from error
        except sqlite3.Error as error:
            raise HubStoreError(f"cannot use {self.path}: {error}; restore the hub's folder") from error
