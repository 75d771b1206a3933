"""What a hub has promised and shown, in its log: keys, nonces, challenges; blocking, like the log itself."""

import os
from dataclasses import dataclass

from shoal_codecs.secagg.hub_floors import Draw
from shoal_codecs.secagg.hub_messages import State
from shoal_codecs.secagg.hub_reveal import Wasted
from shoal_codecs.security.sealing import new_sealing_key
from shoal_codecs.wire.hubs import challenge_digest, promise_commitment
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import HubOffer
from shoal_coordinator.hub.database import HubDatabase

REVEALED = "revealed"
_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secrets:
    """What stands behind a promise, 32 bytes each: the private key, the nonce, the norm check's challenge."""

    key: bytes
    private: bytes
    nonce: bytes
    challenge: bytes

    def commitment(self, hub: str) -> bytes:
        """Return what ``hub`` may show of it before the others have promised."""
        return promise_commitment(hub, self.key, self.nonce, challenge_digest(self.challenge))

    def offer(self, hub: str) -> HubOffer:
        """Return it as a plan names it."""
        return HubOffer(hub, self.key, self.nonce, challenge_digest(self.challenge))


class PromiseBook:
    """The promises of ``hub``: one not shown yet, at most one shown and in no plan, those of signed plans."""

    def __init__(self, database: HubDatabase, hub: str) -> None:
        self._database = database
        self._hub = hub

    def present(self) -> Secrets:
        """Return what is promised to the next plan, made now if there is nothing."""
        database = self._database
        for key, sealed in database.rows("SELECT key, sealed_secrets FROM keys WHERE set_digest IS NULL"):
            return self._open(key, sealed)
        private, public = new_sealing_key()
        made = Secrets(public, private, os.urandom(_BYTES), os.urandom(_BYTES))
        sealed = database.encrypt(private + made.nonce + made.challenge)
        with database.transaction() as connection:
            connection.execute("INSERT INTO keys (key, sealed_secrets) VALUES (?, ?)", (public, sealed))
        return made

    def shown(self) -> Draw | None:
        """Return what was shown last, if no plan is signed with it yet."""
        rows = self._database.rows(
            "SELECT key, sealed_secrets, set_digest, task, base FROM keys "
            "WHERE set_digest IS NOT NULL AND plan_hash IS NULL"
        )
        for key, sealed, set_digest, task, base in rows:
            return Draw(self._open(key, sealed).offer(self._hub), set_digest, task, base)
        return None

    def show(self, set_digest: bytes, task: bytes, base: bytes, at_ms: int) -> Draw:
        """Log that the present promise is shown for this set, task and base; return what to show.

        What was shown before and came into no plan is destroyed.
        """
        secrets = self.present()
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM keys WHERE set_digest IS NOT NULL AND plan_hash IS NULL")
            connection.execute(
                "UPDATE keys SET set_digest = ?, task = ?, base = ? WHERE key = ?",
                (set_digest, task, base, secrets.key),
            )
            self._database.append(set_digest, REVEALED, pack([task, base]), at_ms)
        return Draw(secrets.offer(self._hub), set_digest, task, base)

    def wasted(self) -> Wasted:
        """Return what was drawn since the last sum was released."""
        rows = self._database.rows(
            "SELECT COUNT(*), MAX(at_ms) FROM log WHERE entry = ? AND position > "
            "(SELECT COALESCE(MAX(position), 0) FROM log WHERE entry = ?)",
            (REVEALED, State.SUMMED.value),
        )
        draws, last_ms = rows[0]
        return Wasted(draws, last_ms or 0)

    def of_plan(self, plan_hash: bytes) -> Secrets | None:
        """Return the secrets of a signed plan, None once they are destroyed."""
        rows = self._database.rows("SELECT key, sealed_secrets FROM keys WHERE plan_hash = ?", (plan_hash,))
        for key, sealed in rows:
            return self._open(key, sealed)
        return None

    def _open(self, key: bytes, sealed: bytes) -> Secrets:
        clear = self._database.decrypt(sealed)
        parts = (clear[start : start + _BYTES] for start in range(0, len(clear), _BYTES))
        return Secrets(key, *parts)
