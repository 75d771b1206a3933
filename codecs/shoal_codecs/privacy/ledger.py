"""A device's ledger of what it has spent, over all tasks: pure, and framed for a file that is written whole.

A plan is charged once, however often it is asked for; another plan is charged anew, also on the same base,
for it is rounded and noised afresh. Nothing is refunded. Where records cannot be read the budget counts as
spent: a lost ledger must not buy a second one.
"""

import hashlib
import math
from collections.abc import Iterable

import msgspec

from shoal_codecs.privacy.charge import Charge, keeps
from shoal_codecs.privacy.errors import BudgetExceededError, PrivacyError
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack

HEADER = b"shoal/1 privacy ledger\n"
"""An empty file is a damaged one: a new ledger has this."""
_LENGTH_BYTES = 4
FOLDED = hashlib.sha256(b"shoal/1 ledger folded\x00").digest()
"""Stands for the plans of entries that were summed."""
_CHECK_BYTES = 8
_LABEL = b"shoal/1 ledger\x00"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One charge: for which plan (its hash), of which task and round, at which time, for which report.

    Whatever else is made for that plan is another release, which this charge does not pay for.
    """

    plan_hash: bytes
    task: bytes
    round: int
    at_ms: int
    charge: Charge
    report: bytes = b""


class Ledger:
    """What was spent; ``exhausted`` says why nothing more may be, empty while it may."""

    def __init__(self, entries: Iterable[Entry] = (), exhausted: str = "") -> None:
        self.exhausted = exhausted
        self.entries: dict[bytes, Entry] = {}
        self.total = Charge()
        for entry in entries:
            self.book(entry)

    def book(self, entry: Entry) -> bool:
        """Count ``entry``; return False if its plan was counted before."""
        if entry.plan_hash in self.entries:
            return False
        self.entries[entry.plan_hash] = entry
        self.total += entry.charge
        return True

    def with_entry(self, entry: Entry) -> "Ledger":
        """Return a ledger that also counts ``entry``; this one stays as it is."""
        following = Ledger(exhausted=self.exhausted)
        following.entries, following.total = dict(self.entries), self.total
        following.book(entry)
        return following

    def spent(self, delta: float) -> float:
        """Return the epsilon spent so far, infinite where it cannot be known."""
        return math.inf if self.exhausted else self.total.epsilon(delta) if self.entries else 0.0

    def check(self, plan_hash: bytes, charge: Charge, epsilon: float, delta: float) -> None:
        """Refuse a charge that would pass the budget (``epsilon``, ``delta``).

        Raises:
            BudgetExceededError: it would, or the ledger cannot be read.
        """
        if self.exhausted:
            raise BudgetExceededError(self.exhausted)
        if plan_hash in self.entries:
            return
        whole = self.total + charge
        if not keeps(whole, epsilon, delta):
            after = whole.epsilon(delta)
            raise BudgetExceededError(
                f"this round would bring epsilon from {self.spent(delta):.2f} to {after:.2f}, the device "
                f"allows {epsilon:g}: leave the device out, or let its owner raise the budget"
            )

    def folded(self, keep: int) -> "Ledger":
        """Return the ledger with all but the newest ``keep`` entries summed into one.

        What they cost stays; that these very plans were charged is forgotten, which is safe for plans that
        are over: nobody takes part in them again.
        """
        entries = list(self.entries.values())
        old, new = entries[: len(entries) - keep], entries[len(entries) - keep :]
        if len(entries) <= keep:
            return self
        total = Charge()
        for entry in old:
            total += entry.charge
        last = old[-1]
        return Ledger(
            [msgspec.structs.replace(last, plan_hash=FOLDED, task=b"", charge=total, report=b""), *new]
        )


def encode_ledger(ledger: Ledger) -> bytes:
    """Return the whole file of ``ledger``."""
    return HEADER + b"".join(map(encode_entry, ledger.entries.values()))


def encode_entry(entry: Entry) -> bytes:
    """Return the record of ``entry``: its length, the packed entry, and a checksum of both."""
    body = pack(entry)
    head = len(body).to_bytes(_LENGTH_BYTES, "big") + body
    return head + _checksum(head)


def decode_ledger(data: bytes | None) -> Ledger:
    """Return the ledger in ``data``, the whole file; None says that there is none.

    A file that is missing, torn or damaged makes an exhausted ledger that still holds what could be read.
    """
    if data is None:
        return Ledger(
            exhausted="the privacy ledger is missing, so that its budget counts as spent: restore it"
        )
    entries: list[Entry] = []
    if not data.startswith(HEADER):
        return _damaged(entries, 0)
    start = len(HEADER)
    while start < len(data):
        end = start + _LENGTH_BYTES + int.from_bytes(data[start : start + _LENGTH_BYTES], "big")
        head, check = data[start:end], data[end : end + _CHECK_BYTES]
        if len(check) != _CHECK_BYTES or check != _checksum(head):
            return _damaged(entries, start)
        try:
            entries.append(unpack(head[_LENGTH_BYTES:], Entry))
        except (msgspec.ValidationError, MalformedMessageError, PrivacyError):
            return _damaged(entries, start)
        start = end + _CHECK_BYTES
    return Ledger(entries)


def _damaged(entries: list[Entry], place: int) -> Ledger:
    return Ledger(
        entries,
        f"the privacy ledger is damaged at byte {place}, so that its budget counts as spent: restore it",
    )


def _checksum(head: bytes) -> bytes:
    return hashlib.sha256(_LABEL + head).digest()[:_CHECK_BYTES]
