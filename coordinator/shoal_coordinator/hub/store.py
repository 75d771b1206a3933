"""A hub's durable log: SQLite in its data folder, one writer, every commit on the disk before it counts.

All methods block and belong in one thread. Private keys lie encrypted under a key that only the hub's
identity can make.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from shoal_codecs.secagg.agreement import set_digest
from shoal_codecs.secagg.hub_messages import RoundMemory, State
from shoal_codecs.security.sealing import new_sealing_key
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import HubOffer, Plan
from shoal_coordinator.hub.errors import HubFolderBusyError, HubStoreError, MissingCiphertextError
from shoal_coordinator.hub.schema import TABLES, VERSION

FILE_NAME = "hub.sqlite"
KEEP_FINISHED = 16
_ENDINGS = tuple(state.value for state in (State.COMMITTED, State.SPENT, State.ABANDONED))


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round as the log has it; ``private`` is empty once the key is destroyed."""

    plan_hash: bytes
    plan: bytes
    signature: bytes
    private: bytes
    memory: RoundMemory


class HubStore:
    """The log in ``folder``; ``secret`` (32 bytes) encrypts the private keys.

    Raises:
        HubFolderBusyError: another process has it open.
        HubStoreError: no log, or one of a newer version.
    """

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._box = SecretBox(secret)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE_NAME
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with self._faults():
            self._database = sqlite3.connect(self._path, timeout=0.5, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # --- offers and plans -----------------------------------------------------------------------

    def offer(self, hub: str) -> HubOffer:
        """Return what ``hub`` offers to the next plan, made now if there is none."""
        with self._transaction() as database:
            row = database.execute("SELECT key, nonce FROM keys WHERE plan_hash IS NULL").fetchone()
            if row is not None:
                return HubOffer(hub, *row)
            private, public = new_sealing_key()
            nonce = os.urandom(32)
            sealed = bytes(self._box.encrypt(private))
            database.execute("INSERT INTO keys VALUES (?, ?, ?, NULL)", (public, nonce, sealed))
            return HubOffer(hub, public, nonce)

    def answered(self, plan: Plan) -> tuple[set[tuple[bytes, bytes]], set[int]]:
        """Return what of ``plan`` was answered before: its (task, base), its round number."""
        bases = self._rows(
            "SELECT task, base FROM rounds AS r WHERE task = ? AND base = ? AND NOT EXISTS "
            "(SELECT 1 FROM log WHERE log.plan_hash = r.plan_hash AND entry = ?)",
            (plan.task, plan.base, State.ABANDONED.value),
        )
        rounds = self._rows("SELECT round FROM rounds WHERE round = ?", (plan.round,))
        return {(task, base) for task, base in bases}, {number for (number,) in rounds}

    def sign(
        self, plan_hash: bytes, data: bytes, plan: Plan, signature: bytes, offer: HubOffer, at_ms: int
    ) -> StoredRound:
        """Log that ``plan`` (encoded as ``data``) is signed and bind the offered key to it."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?)",
                (plan_hash, plan.round, plan.task, plan.base, data, signature),
            )
            self._append(plan_hash, State.SIGNED.value, b"", at_ms)
            database.execute("UPDATE keys SET plan_hash = ? WHERE key = ?", (plan_hash, offer.key))
        return StoredRound(plan_hash, data, signature, self._private(plan_hash), RoundMemory())

    # --- a round --------------------------------------------------------------------------------

    def put_report(self, plan_hash: bytes, device: str, report_id: bytes, data: bytes, at_ms: int) -> None:
        """Store the ciphertext of a device's share."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO reports VALUES (?, ?, ?, ?, ?)", (plan_hash, device, report_id, data, at_ms)
            )

    def ciphertexts(self, plan_hash: bytes, devices: tuple[str, ...]) -> list[tuple[str, bytes]]:
        """Return (device, ciphertext) of all of ``devices``.

        Raises:
            MissingCiphertextError: one is gone.
        """
        rows = self._rows(
            "SELECT device, ciphertext FROM reports WHERE plan_hash = ? AND ciphertext IS NOT NULL",
            (plan_hash,),
        )
        held: dict[str, bytes] = dict(rows)
        if missing := set(devices) - held.keys():
            raise MissingCiphertextError(f"{len(missing)} agreed reports are gone: restore {self._path}")
        return [(device, held[device]) for device in devices]

    def log_closed(self, plan_hash: bytes, reports: dict[str, bytes], at_ms: int) -> None:
        """Log that these are all the reports this hub holds."""
        self._log(plan_hash, State.CLOSED.value, set_digest(reports), at_ms)

    def log_agreement(self, plan_hash: bytes, digest: bytes, members: tuple[str, ...], at_ms: int) -> None:
        """Log the one set this hub is bound to."""
        self._log(plan_hash, State.AGREED.value, pack([digest, list(members)]), at_ms)

    def log_sum(self, plan_hash: bytes, sealed: bytes, at_ms: int) -> None:
        """Log the sealed sum."""
        self._log(plan_hash, State.SUMMED.value, sealed, at_ms)

    def log_ending(self, plan_hash: bytes, state: State, reason: str, at_ms: int) -> None:
        """Log how the round ended."""
        self._log(plan_hash, state.value, reason.encode(), at_ms)

    def log_settled(self, plan_hash: bytes, at_ms: int) -> None:
        """Log that the coordinator knows of the abandonment."""
        self._log(plan_hash, "settled", b"", at_ms)

    def destroy(self, plan_hash: bytes) -> None:
        """Erase the round's private key and ciphertexts, from the file too."""
        with self._transaction() as database:
            database.execute("DELETE FROM keys WHERE plan_hash = ?", (plan_hash,))
            database.execute("UPDATE reports SET ciphertext = NULL WHERE plan_hash = ?", (plan_hash,))
        # Until it is folded in, the write-ahead log still holds what was overwritten.
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def rounds(self) -> list[StoredRound]:
        """Return the rounds that have not ended, and the newest that have, oldest first."""
        rows = self._rows(
            "SELECT plan_hash, plan, signature FROM rounds AS r WHERE NOT EXISTS "
            "(SELECT 1 FROM log WHERE log.plan_hash = r.plan_hash AND entry IN (?, ?, ?)) "
            "OR plan_hash IN (SELECT plan_hash FROM rounds ORDER BY round DESC LIMIT ?) ORDER BY round",
            (*_ENDINGS, KEEP_FINISHED),
        )
        return [
            StoredRound(plan_hash, plan, signature, self._private(plan_hash), self._memory(plan_hash))
            for plan_hash, plan, signature in rows
        ]

    def _memory(self, plan_hash: bytes) -> RoundMemory:
        log: dict[str, bytes] = dict(
            self._rows("SELECT entry, body FROM log WHERE plan_hash = ? ORDER BY position", (plan_hash,))
        )
        reports = self._rows(
            "SELECT device, report_id, at_ms FROM reports WHERE plan_hash = ? ORDER BY rowid", (plan_hash,)
        )
        agreement: tuple[bytes, tuple[str, ...]] | None = None
        if (agreed := log.get(State.AGREED.value)) is not None:
            agreement = unpack(agreed, tuple[bytes, tuple[str, ...]])
        # A round is spent before it is committed, never the other way.
        ending = next((State(entry) for entry in _ENDINGS if entry in log), None)
        return RoundMemory(
            reports=tuple(reports),
            closed=State.CLOSED.value in log,
            agreement=agreement,
            sealed=log.get(State.SUMMED.value),
            ending=ending,
            reason=log[ending.value].decode() if ending else "",
            settled="settled" in log,
        )

    # --- the file -------------------------------------------------------------------------------

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
            raise HubStoreError(
                f"{self._path} has format {version}, this hub reads {VERSION}: update the hub"
            )

    def _private(self, plan_hash: bytes) -> bytes:
        for (sealed,) in self._rows("SELECT sealed_private FROM keys WHERE plan_hash = ?", (plan_hash,)):
            try:
                return bytes(self._box.decrypt(sealed))
            except CryptoError as error:
                raise HubStoreError(
                    f"{self._path} was written under another identity: put its identity.key back"
                ) from error
        return b""

    def _log(self, plan_hash: bytes, entry: str, body: bytes, at_ms: int) -> None:
        with self._transaction():
            self._append(plan_hash, entry, body, at_ms)

    def _append(self, plan_hash: bytes, entry: str, body: bytes, at_ms: int) -> None:
        # One entry of a kind for a plan, for good: the table itself refuses a second answer.
        self._database.execute(
            "INSERT INTO log (plan_hash, entry, body, at_ms) VALUES (?, ?, ?, ?)",
            (plan_hash, entry, body, at_ms),
        )

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._faults():
            return self._database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._faults():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise HubFolderBusyError(f"another process uses {self._path}: stop that hub first") from error
            raise HubStoreError(f"cannot use {self._path}: {error}; check the disk") from error
        except sqlite3.Error as error:
            raise HubStoreError(f"cannot use {self._path}: {error}; restore the hub's folder") from error
