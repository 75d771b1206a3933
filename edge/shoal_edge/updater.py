"""One installation as the device decides it: an explicit transition table, events in, actions out, no I/O.

IDLE -> FETCHING -> WRITING -> TESTING -> CONFIRMED, or ROLLED_BACK, REFUSED, FAILED. What a state is going
to do is persisted before it is done, and everything it does may be done twice: after a power cut at any
instruction ``Restored`` does it again.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar

import msgspec

from shoal_codecs.ota.health import Verdict
from shoal_edge.release_errors import UnexpectedUpdaterEventError

MAX_TESTS = 3
ROLLED_BACK_KEPT = 64
Score = tuple[int, int]


class UpdaterState(StrEnum):
    """Where an installation stands; heartbeats carry it."""

    IDLE = "idle"
    FETCHING = "fetching"
    WRITING = "installing"
    TESTING = "testing"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"
    FAILED = "failed"


WORKING = frozenset({UpdaterState.FETCHING, UpdaterState.WRITING, UpdaterState.TESTING})


class UpdaterRecord(msgspec.Struct, frozen=True, array_like=True):
    """What survives a restart. ``slot`` is the one being filled, ``fallback`` the one to go back to ("" for
    none); the scores are (examples, correct) of candidate and replaced model; ``tests`` counts the health
    checks begun; ``rolled_back`` names the releases this device left by itself.
    """  # noqa: D205 - one paragraph reads better than a summary that says nothing

    state: UpdaterState = UpdaterState.IDLE
    release: str = ""
    version: int = -1
    manifest: bytes = b""
    signature: bytes = b""
    slot: str = ""
    fallback: str = ""
    tests: int = 0
    reason: str = ""
    candidate: Score = (0, 0)
    replaced: Score = (0, 0)
    rolled_back: tuple[str, ...] = ()


# --- events ---------------------------------------------------------------------------------------


class Ordered(msgspec.Struct, frozen=True):
    """An order that was checked and is to be followed; the slots are those at this moment."""

    release: str
    version: int
    manifest: bytes
    signature: bytes
    slot: str
    fallback: str


class Rejected(msgspec.Struct, frozen=True):
    """An order that this device does not follow."""

    release: str
    version: int
    reason: str


class Fetched(msgspec.Struct, frozen=True):
    """The artefact is here, every chunk verified."""

    release: str


class Written(msgspec.Struct, frozen=True):
    """The slot is whole."""

    release: str


class Judged(msgspec.Struct, frozen=True):
    """The health check is done."""

    release: str
    verdict: Verdict
    reason: str
    candidate: Score
    replaced: Score


class Broken(msgspec.Struct, frozen=True):
    """What the present state was doing failed."""

    release: str
    reason: str


class Withdrawn(msgspec.Struct, frozen=True):
    """The operator stops this release."""

    release: str
    reason: str


class Restored(msgspec.Struct, frozen=True):
    """The agent has started; the machine was made with the record of before."""


Event = Ordered | Rejected | Fetched | Written | Judged | Broken | Withdrawn | Restored


# --- actions --------------------------------------------------------------------------------------


class Action(StrEnum):
    """What the service does, in order; each may be done twice."""

    PERSIST = "persist"
    REPORT = "report"
    FETCH = "fetch"
    WRITE = "write"
    SWITCH_AND_TEST = "switch-and-test"
    GO_BACK = "go-back"
    STOP_WORK = "stop-work"


Actions = list[Action]


class Updater:
    """The machine; ``record`` is what the service persists and reports."""

    def __init__(self, record: UpdaterRecord | None = None) -> None:
        self.record = record or UpdaterRecord()

    @property
    def state(self) -> UpdaterState:
        """Where the installation stands."""
        return self.record.state

    def handle(self, event: Event) -> Actions:
        """Return what is to be done about ``event``, in order.

        Raises:
            UnexpectedUpdaterEventError: the table lists no such event for this state.
        """
        if isinstance(event, Fetched | Written | Judged | Broken) and self._is_late(event.release):
            return []
        try:
            transition = self._table[self.state, type(event)]
        except KeyError:
            raise UnexpectedUpdaterEventError(
                f"{type(event).__name__} cannot happen while {self.state}: report this as a defect"
            ) from None
        return transition(self, event)

    def _is_late(self, release: str) -> bool:
        """Whether work that was stopped still had something to say."""
        return release != self.record.release or self.state not in WORKING

    # Every transition below takes the event its table row names.

    def _begin(self, event: Ordered) -> Actions:
        self.record = UpdaterRecord(
            UpdaterState.FETCHING,
            event.release,
            event.version,
            event.manifest,
            event.signature,
            event.slot,
            event.fallback,
            rolled_back=self.record.rolled_back,
        )
        return [Action.PERSIST, Action.REPORT, Action.FETCH]

    def _ordered_after_success(self, event: Ordered) -> Actions:
        """The same order again is a question; another is work."""
        same = (event.release, event.manifest) == (self.record.release, self.record.manifest)
        return [Action.REPORT] if same else self._begin(event)

    def _ordered_while_fetching(self, event: Ordered) -> Actions:
        if event.release == self.record.release:
            return [Action.REPORT]
        return [Action.STOP_WORK, *self._begin(event)]

    def _ordered_while_busy(self, event: Ordered) -> Actions:
        """Finish what is nearly done; the coordinator orders again what it still wants."""
        return [Action.REPORT] if event.release == self.record.release else []

    def _reject(self, event: Rejected) -> Actions:
        same = event.release == self.record.release
        if same and self.state in {UpdaterState.ROLLED_BACK, UpdaterState.CONFIRMED}:
            # It asks about what this device has done with it; the answer stands.
            return [Action.REPORT]
        self.record = UpdaterRecord(
            UpdaterState.REFUSED,
            event.release,
            event.version,
            reason=event.reason,
            rolled_back=self.record.rolled_back,
        )
        return [Action.PERSIST, Action.REPORT]

    def _reject_while_busy(self, event: Rejected) -> Actions:
        del event
        return []

    def _write(self, _event: Fetched) -> Actions:
        self._enter(UpdaterState.WRITING)
        return [Action.PERSIST, Action.REPORT, Action.WRITE]

    def _test(self, _event: Written) -> Actions:
        self._enter(UpdaterState.TESTING, tests=1)
        return [Action.PERSIST, Action.REPORT, Action.SWITCH_AND_TEST]

    def _judged(self, event: Judged) -> Actions:
        self.record = msgspec.structs.replace(self.record, candidate=event.candidate, replaced=event.replaced)
        if event.verdict is Verdict.WORSE:
            return self._leave(event.reason)
        self._enter(UpdaterState.CONFIRMED, reason=event.reason)
        return [Action.PERSIST, Action.REPORT]

    def _broken(self, event: Broken) -> Actions:
        self._enter(UpdaterState.FAILED, reason=event.reason)
        return [Action.PERSIST, Action.REPORT]

    def _broken_test(self, event: Broken) -> Actions:
        """A model that cannot be judged is not kept."""
        return self._leave(event.reason)

    def _withdrawn(self, event: Withdrawn) -> Actions:
        if event.release != self.record.release:
            return []
        self.record = UpdaterRecord(reason=event.reason, rolled_back=self.record.rolled_back)
        return [Action.STOP_WORK, Action.PERSIST]

    def _withdrawn_test(self, event: Withdrawn) -> Actions:
        if event.release != self.record.release:
            return []
        # Not by itself: the same release may be ordered again.
        self._enter(UpdaterState.ROLLED_BACK, reason=f"withdrawn: {event.reason}")
        return [Action.STOP_WORK, Action.PERSIST, Action.GO_BACK, Action.REPORT]

    def _nothing(self, _event: Event) -> Actions:
        return []

    def _say_again(self, _event: Restored) -> Actions:
        return [Action.REPORT]

    def _fetch_again(self, _event: Restored) -> Actions:
        """Fetch, also after a cut while writing: what is here already costs nothing."""
        self._enter(UpdaterState.FETCHING)
        return [Action.PERSIST, Action.REPORT, Action.FETCH]

    def _test_again(self, _event: Restored) -> Actions:
        if self.record.tests >= MAX_TESTS:
            return self._leave(f"the device stopped in each of {MAX_TESTS} health checks")
        self._enter(UpdaterState.TESTING, tests=self.record.tests + 1)
        return [Action.PERSIST, Action.REPORT, Action.SWITCH_AND_TEST]

    def _go_back_again(self, _event: Restored) -> Actions:
        return [Action.GO_BACK, Action.REPORT]

    def _enter(self, state: UpdaterState, *, reason: str = "", tests: int | None = None) -> None:
        count = self.record.tests if tests is None else tests
        self.record = msgspec.structs.replace(self.record, state=state, reason=reason, tests=count)

    def _leave(self, reason: str) -> Actions:
        left = (*self.record.rolled_back, self.record.release)[-ROLLED_BACK_KEPT:]
        self._enter(UpdaterState.ROLLED_BACK, reason=reason)
        self.record = msgspec.structs.replace(self.record, rolled_back=left)
        return [Action.PERSIST, Action.GO_BACK, Action.REPORT]

    _table: ClassVar[dict[tuple[UpdaterState, type], Callable[..., Actions]]] = {
        (UpdaterState.IDLE, Ordered): _begin,
        (UpdaterState.IDLE, Rejected): _reject,
        (UpdaterState.IDLE, Withdrawn): _nothing,
        (UpdaterState.IDLE, Restored): _nothing,
        (UpdaterState.FETCHING, Ordered): _ordered_while_fetching,
        (UpdaterState.FETCHING, Rejected): _reject_while_busy,
        (UpdaterState.FETCHING, Fetched): _write,
        (UpdaterState.FETCHING, Broken): _broken,
        (UpdaterState.FETCHING, Withdrawn): _withdrawn,
        (UpdaterState.FETCHING, Restored): _fetch_again,
        (UpdaterState.WRITING, Ordered): _ordered_while_busy,
        (UpdaterState.WRITING, Rejected): _reject_while_busy,
        (UpdaterState.WRITING, Written): _test,
        (UpdaterState.WRITING, Broken): _broken,
        (UpdaterState.WRITING, Withdrawn): _withdrawn,
        (UpdaterState.WRITING, Restored): _fetch_again,
        (UpdaterState.TESTING, Ordered): _ordered_while_busy,
        (UpdaterState.TESTING, Rejected): _reject_while_busy,
        (UpdaterState.TESTING, Judged): _judged,
        (UpdaterState.TESTING, Broken): _broken_test,
        (UpdaterState.TESTING, Withdrawn): _withdrawn_test,
        (UpdaterState.TESTING, Restored): _test_again,
        (UpdaterState.CONFIRMED, Ordered): _ordered_after_success,
        (UpdaterState.CONFIRMED, Rejected): _reject,
        (UpdaterState.CONFIRMED, Withdrawn): _nothing,
        (UpdaterState.CONFIRMED, Restored): _say_again,
        (UpdaterState.ROLLED_BACK, Ordered): _begin,
        (UpdaterState.ROLLED_BACK, Rejected): _reject,
        (UpdaterState.ROLLED_BACK, Withdrawn): _nothing,
        (UpdaterState.ROLLED_BACK, Restored): _go_back_again,
        (UpdaterState.REFUSED, Ordered): _begin,
        (UpdaterState.REFUSED, Rejected): _reject,
        (UpdaterState.REFUSED, Withdrawn): _nothing,
        (UpdaterState.REFUSED, Restored): _say_again,
        (UpdaterState.FAILED, Ordered): _begin,
        (UpdaterState.FAILED, Rejected): _reject,
        (UpdaterState.FAILED, Withdrawn): _nothing,
        (UpdaterState.FAILED, Restored): _say_again,
    }

    @classmethod
    def expected(cls, state: UpdaterState) -> frozenset[type]:
        """Return the kinds of event that the table lists for ``state``."""
        return frozenset(kind for at, kind in cls._table if at is state)
