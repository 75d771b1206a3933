"""This device's own privacy budget: what it refuses, and the ledger that it debits before a report leaves.

Whatever the coordinator counts, this is the ledger that protects the device. It is made once, at the first
start in a folder that no agent has used, and never again: where it is missing later, or damaged, its budget
counts as spent.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from shoal_codecs.privacy.charge import charge_of
from shoal_codecs.privacy.ledger import Entry, Ledger, decode_ledger, encode_ledger
from shoal_codecs.wire.plan import Plan
from shoal_edge.config import DevicePrivacy, Metrics
from shoal_edge.errors import SecondReportError, StoreError, UnprivateRoundError
from shoal_edge.files import write_durably

LEDGER = "privacy.ledger"
LOCK = "privacy.lock"
ENTRIES_KEPT = 256
"""Entries of single plans; older ones are summed. No plan stays open for so many rounds."""
# What an agent that has worked here leaves behind.
_TRACES = ("answered.log", "held.bin", "round.bin", "outbox", "models", "blobs", "releases", "single", LOCK)

log = structlog.get_logger()


def open_ledger(folder: Path, *, make: bool) -> Ledger:
    """Return the ledger in the agent's state folder, an exhausted one where it cannot be had.

    ``make`` it where no agent has ever worked in ``folder``; call this before anything else is put there.

    Raises:
        StoreError: a new ledger cannot be written.
    """
    path = folder / LEDGER
    try:
        return decode_ledger(path.read_bytes())
    except FileNotFoundError:
        if not make or any((folder / trace).exists() for trace in _TRACES):
            return decode_ledger(None)
    except OSError as error:
        return Ledger(
            exhausted=f"the privacy ledger cannot be read ({error.strerror}), so that its budget counts as "
            "spent: mend the disk or its permissions"
        )
    ledger = Ledger()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {folder}: {error.strerror}; give the agent a folder") from error
    write_durably(path, encode_ledger(ledger))
    return ledger


class PrivacyGuard:
    """Checks every plan against the owner's budget, and writes down what each costs.

    ``clock_ms`` gives milliseconds since the epoch. Without a budget nothing is refused, and what rounds with
    noise cost is written down all the same, so that a budget that is set later counts it.
    """

    def __init__(
        self, settings: DevicePrivacy, folder: Path, ledger: Ledger, clock_ms: Callable[[], int]
    ) -> None:
        self.ledger = ledger
        self._settings = settings
        self._folder = folder
        self._path = folder / LEDGER
        self._clock_ms = clock_ms
        if ledger.exhausted:
            log.warning("privacy_budget_lost", remedy=ledger.exhausted, budget=settings.epsilon)

    @property
    def has_budget(self) -> bool:
        """Whether the device's owner has set a budget."""
        return self._settings.epsilon > 0

    @property
    def metrics(self) -> Metrics:
        """What the device tells of its data besides updates."""
        return self._settings.told

    @property
    def is_quiet(self) -> bool:
        """Whether it keeps what it could count of its data to itself."""
        return self.metrics != "clear"

    def has_paid_nothing(self, plan_hash: bytes) -> bool:
        """Return whether it is certain that nothing of a report for this plan has left the device."""
        return not self.ledger.exhausted and plan_hash not in self.ledger.entries

    def check(self, plan: Plan, plan_hash: bytes) -> None:
        """Refuse a plan that the budget does not allow.

        Raises:
            UnprivateRoundError: it adds no noise, and there is a budget.
            BudgetExceededError: it would pass the budget, or the ledger is missing or damaged.
            PrivacyNumberError: numbers that no formula holds for.
        """
        if not self.has_budget:
            return
        if plan.privacy is None:
            raise UnprivateRoundError(
                f"round {plan.round} adds no noise, and this device has a privacy budget: give the rounds a "
                "privacy mechanism, or leave the device out"
            )
        self.ledger.check(plan_hash, charge_of(plan), self._settings.epsilon, self._settings.delta)

    def debit(self, plan: Plan, plan_hash: bytes, report_id: bytes) -> None:
        """Write down what ``plan`` costs, durably and once, before a byte of its report leaves.

        Raises:
            UnprivateRoundError, BudgetExceededError, PrivacyNumberError: as ``check``; nothing may leave.
            SecondReportError: this was paid for another report; nothing may leave.
            StoreError: the disk does not take it; nothing may leave.
        """
        with _alone(self._folder):
            # What counts is on the disk: another agent may have been started here by mistake.
            self.ledger = open_ledger(self._folder, make=False)
            if not self._book(plan, plan_hash, report_id):
                return
        log.info(
            "privacy_debited",
            round=plan.round,
            epsilon=round(self.ledger.spent(self._settings.delta), 4),
            budget=self._settings.epsilon,
        )

    def _book(self, plan: Plan, plan_hash: bytes, report_id: bytes) -> bool:
        """Add the charge to the ledger and write it; return False where there is nothing to add."""
        self.check(plan, plan_hash)
        paid = self.ledger.entries.get(plan_hash)
        if paid is not None and paid.report != report_id:
            raise SecondReportError(
                f"round {plan.round} was paid for another report, which may have left: this one is noised "
                "anew and stays here; later rounds are not affected"
            )
        # A ledger that was lost stays lost: a new file in its place would buy a second budget.
        if plan.privacy is None or self.ledger.exhausted or paid is not None:
            return False
        entry = Entry(plan_hash, plan.task, plan.round, self._clock_ms(), charge_of(plan), report_id)
        following = self.ledger.with_entry(entry)
        if len(following.entries) > 2 * ENTRIES_KEPT:
            following = following.folded(ENTRIES_KEPT)
        write_durably(self._path, encode_ledger(following))
        self.ledger = following
        return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep every other process from the ledger in ``folder``.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot write in {folder}: {error.strerror}; give the agent a folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
