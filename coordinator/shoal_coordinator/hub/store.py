"""A hub's durable log of rounds, on the file that ``database`` keeps.

All methods block and belong in one thread. Private keys lie encrypted under a key that only the hub's
identity can make.
"""

from dataclasses import dataclass
from pathlib import Path

from shoal_codecs.secagg.agreement import set_digest
from shoal_codecs.secagg.hub_floors import Draw
from shoal_codecs.secagg.hub_messages import RoundMemory, State
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import Plan
from shoal_coordinator.hub.database import HubDatabase
from shoal_coordinator.hub.errors import MissingCiphertextError
from shoal_coordinator.hub.promises import PromiseBook

KEEP_FINISHED = 16
_NEVER = "never"
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
    """The log of ``hub`` in ``folder``; ``secret`` (32 bytes) encrypts the private keys.

    Raises:
        HubFolderBusyError: another process has it open.
        HubStoreError: no log, or one of another format.
    """

    def __init__(self, folder: Path, secret: bytes, hub: str) -> None:
        self.database = HubDatabase(folder, secret)
        self.promises = PromiseBook(self.database, hub)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    # --- plans ----------------------------------------------------------------------------------

    def answered(self, task: bytes, base: bytes) -> set[tuple[bytes, bytes]]:
        """Return (task, base) if a plan on it is signed and not abandoned."""
        rows = self.database.rows(
            "SELECT task, base FROM rounds AS r WHERE task = ? AND base = ? AND NOT EXISTS "
            "(SELECT 1 FROM log WHERE log.subject = r.plan_hash AND entry = ?)",
            (task, base, State.ABANDONED.value),
        )
        return {(task, base) for task, base in rows}

    def earlier(self, task: bytes, base: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """Return (hash, plan as signed) of all plans signed on this base."""
        rows = self.database.rows(
            "SELECT plan_hash, plan FROM rounds WHERE task = ? AND base = ? ORDER BY round", (task, base)
        )
        return tuple((bytes(plan_hash), bytes(plan)) for plan_hash, plan in rows)

    def numbers(self, number: int) -> set[int]:
        """Return the round ``number`` if it stood in a signed plan."""
        rows = self.database.rows("SELECT round FROM rounds WHERE round = ?", (number,))
        return {found for (found,) in rows}

    def sign(
        self, plan_hash: bytes, data: bytes, plan: Plan, signature: bytes, draw: Draw, at_ms: int
    ) -> StoredRound:
        """Log that ``plan`` (encoded as ``data``) is signed and bind the shown key to it."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?)",
                (plan_hash, plan.round, plan.task, plan.base, data, signature),
            )
            self.database.append(plan_hash, State.SIGNED.value, draw.set_digest, at_ms)
            connection.execute("UPDATE keys SET plan_hash = ? WHERE key = ?", (plan_hash, draw.offer.key))
        return StoredRound(plan_hash, data, signature, self._private(plan_hash), RoundMemory())

    def renounce(self, plan_hash: bytes, at_ms: int) -> bool:
        """Log that a plan that is not signed never will be; return whether the hub may say so.

        A signed plan may be called never released only once it is abandoned.
        """
        if self.database.rows("SELECT 1 FROM rounds WHERE plan_hash = ?", (plan_hash,)):
            return self._has(plan_hash, State.ABANDONED.value)
        if not self.renounced(plan_hash):
            self._log(plan_hash, _NEVER, b"", at_ms)
        return True

    def renounced(self, plan_hash: bytes) -> bool:
        """Return whether the hub has certified this plan without ever signing it."""
        return self._has(plan_hash, _NEVER)

    # --- a round --------------------------------------------------------------------------------

    def put_report(self, plan_hash: bytes, device: str, report_id: bytes, data: bytes, at_ms: int) -> None:
        """Store the ciphertext of a device's share."""
        with self.database.transaction() as database:
            database.execute(
                "INSERT INTO reports VALUES (?, ?, ?, ?, ?)", (plan_hash, device, report_id, data, at_ms)
            )

    def ciphertexts(self, plan_hash: bytes, devices: tuple[str, ...]) -> list[tuple[str, bytes]]:
        """Return (device, ciphertext) of all of ``devices``.

        Raises:
            MissingCiphertextError: one is gone.
        """
        held: dict[str, bytes] = {}
        for device in devices:
            held |= self.database.rows(
                "SELECT device, ciphertext FROM reports "
                "WHERE plan_hash = ? AND device = ? AND ciphertext IS NOT NULL",
                (plan_hash, device),
            )
        if missing := set(devices) - held.keys():
            raise MissingCiphertextError(
                f"{len(missing)} agreed reports are gone: restore {self.database.path}"
            )
        return [(device, held[device]) for device in devices]

    def log_closed(self, plan_hash: bytes, reports: dict[str, bytes], at_ms: int) -> None:
        """Log that these are all the reports this hub holds."""
        self._log(plan_hash, State.CLOSED.value, set_digest(reports), at_ms)

    def log_challenged(self, plan_hash: bytes, digest: bytes, members: tuple[str, ...], at_ms: int) -> None:
        """Log for which reports the challenge of the norm check is shown."""
        self._log(plan_hash, State.CHALLENGED.value, pack([digest, list(members)]), at_ms)

    def log_checking(self, plan_hash: bytes, secrets: dict[str, bytes], at_ms: int) -> None:
        """Log the peers' challenges."""
        self._log(plan_hash, State.CHECKING.value, pack(secrets), at_ms)

    def challenge(self, plan_hash: bytes) -> bytes:
        """Return this hub's challenge of a plan, nothing once it is destroyed."""
        secrets = self.promises.of_plan(plan_hash)
        return secrets.challenge if secrets else b""

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
        with self.database.transaction() as database:
            database.execute("DELETE FROM keys WHERE plan_hash = ?", (plan_hash,))
            database.execute("UPDATE reports SET ciphertext = NULL WHERE plan_hash = ?", (plan_hash,))
        # Until it is folded in, the write-ahead log still holds what was overwritten.
        self.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def rounds(self) -> list[StoredRound]:
        """Return the rounds that have not ended, and the newest that have, oldest first."""
        rows = self.database.rows(
            "SELECT plan_hash, plan, signature FROM rounds AS r WHERE NOT EXISTS "
            "(SELECT 1 FROM log WHERE log.subject = r.plan_hash AND entry IN (?, ?, ?)) "
            "OR plan_hash IN (SELECT plan_hash FROM rounds ORDER BY round DESC LIMIT ?) ORDER BY round",
            (*_ENDINGS, KEEP_FINISHED),
        )
        return [
            StoredRound(plan_hash, plan, signature, self._private(plan_hash), self._memory(plan_hash))
            for plan_hash, plan, signature in rows
        ]

    def _memory(self, plan_hash: bytes) -> RoundMemory:
        log: dict[str, bytes] = dict(
            self.database.rows(
                "SELECT entry, body FROM log WHERE subject = ? ORDER BY position", (plan_hash,)
            )
        )
        reports = self.database.rows(
            "SELECT device, report_id, at_ms FROM reports WHERE plan_hash = ? ORDER BY rowid", (plan_hash,)
        )
        agreed, challenged = log.get(State.AGREED.value), log.get(State.CHALLENGED.value)
        checking = log.get(State.CHECKING.value)
        # A round is spent before it is committed, never the other way.
        ending = next((State(entry) for entry in _ENDINGS if entry in log), None)
        return RoundMemory(
            reports=tuple(reports),
            closed=State.CLOSED.value in log,
            challenged=None if challenged is None else unpack(challenged, tuple[bytes, tuple[str, ...]]),
            secrets=None if checking is None else unpack(checking, dict[str, bytes]),
            agreement=None if agreed is None else unpack(agreed, tuple[bytes, tuple[str, ...]]),
            sealed=log.get(State.SUMMED.value),
            ending=ending,
            reason=log[ending.value].decode() if ending else "",
            settled="settled" in log,
        )

    # --- small help -----------------------------------------------------------------------------

    def _private(self, plan_hash: bytes) -> bytes:
        secrets = self.promises.of_plan(plan_hash)
        return secrets.private if secrets else b""

    def _log(self, plan_hash: bytes, entry: str, body: bytes, at_ms: int) -> None:
        self.database.log(plan_hash, entry, body, at_ms)

    def _has(self, plan_hash: bytes, entry: str) -> bool:
        rows = self.database.rows("SELECT 1 FROM log WHERE subject = ? AND entry = ?", (plan_hash, entry))
        return bool(rows)
