"""What a rollout hears and what it wants done: plain values."""

from enum import StrEnum

import msgspec

Score = tuple[int, int]


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    CANARY = "canary"
    ALL = "all"
    COMPLETE = "complete"
    ABORTED = "aborted"
    WITHDRAWN = "withdrawn"


RUNNING = frozenset({RolloutState.CANARY, RolloutState.ALL})
STOPPED = frozenset({RolloutState.ABORTED, RolloutState.WITHDRAWN})


class RolloutRules(msgspec.Struct, frozen=True, kw_only=True):
    """Abort criteria and patience, times in milliseconds.

    A canary's verdict needs ``min_examples``. More than ``failure_share`` of all devices failing aborts. An
    order is repeated every ``resend_ms`` until the device says how it ended, and a failed installation is
    ordered ``retries`` times again. A device silent for ``report_ms`` while it is online is missing.
    """

    min_examples: int = 20
    failure_share: float = 0.1
    report_ms: int = 120_000
    resend_ms: int = 5_000
    retries: int = 2


class DeviceProgress(msgspec.Struct, frozen=True):
    """One device in a rollout.

    ``state`` is the device's own word (``InstallReport.state``), or ``""`` before it is ordered, ``offered``
    once it is, ``missing`` when it says nothing. ``ordered_ms`` is the last order,
    ``heard_ms`` the last sign.
    """

    state: str = ""
    reason: str = ""
    candidate: Score = (0, 0)
    replaced: Score = (0, 0)
    retried: int = 0
    ordered_ms: int = 0
    heard_ms: int = 0


# --- events ---------------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True):
    """The manifest is signed and stored: the rollout may begin."""


class Restored(msgspec.Struct, frozen=True):
    """The coordinator has started again; the machine was made with what is stored."""


class Reported(msgspec.Struct, frozen=True):
    """A device's word."""

    device: str
    state: str
    reason: str = ""
    candidate: Score = (0, 0)
    replaced: Score = (0, 0)


class Seen(msgspec.Struct, frozen=True):
    """A heartbeat says which release a device runs, and whether its updater is at work."""

    device: str
    release: str
    working: bool


class Tick(msgspec.Struct, frozen=True):
    """Time has passed; ``online`` are the devices connected now."""

    online: frozenset[str]


class Withdraw(msgspec.Struct, frozen=True):
    """An operator, or a newer release, ends this one."""

    reason: str


RolloutEvent = Started | Restored | Reported | Seen | Tick | Withdraw


# --- actions --------------------------------------------------------------------------------------


class Persist(msgspec.Struct, frozen=True):
    """Store state and reason of the release."""


class PersistDevice(msgspec.Struct, frozen=True):
    """Store where a device stands."""

    device: str


class Order(msgspec.Struct, frozen=True):
    """Order a device to install the release."""

    device: str


class Stop(msgspec.Struct, frozen=True):
    """Tell a device to stop working on the release."""

    device: str
    reason: str


class Announce(msgspec.Struct, frozen=True):
    """Tell the operators."""

    kind: str
    text: str


RolloutAction = Persist | PersistDevice | Order | Stop | Announce
