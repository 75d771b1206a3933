"""The fleet as the coordinator sees it: what ``shoal status`` and the demo show."""

from typing import Literal

import msgspec

from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack


class DeviceRow(msgspec.Struct, frozen=True):
    """One device; ``trust`` is ``guest`` for one that is not on the roster and is never invited.

    ``examples`` and ``held_out`` are -1 where the device keeps its counts to itself. It has ``declined`` that
    many rounds in a row, the last one ``declined_for`` this reason, and is not asked up to round
    ``rests_until`` while there are enough others. ``other_roster`` is which one it goes by, where that is not
    the coordinator's.
    """

    name: str
    trust: Literal["roster", "guest"]
    online: bool
    phase: str = ""
    round: int = 0
    model_version: int = -1
    release: str = ""
    release_version: int = -1
    updater: str = ""
    examples: int = 0
    held_out: int = 0
    memory_available_mib: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    last_seen_ms: int = 0
    last_error: str = ""
    board: str = ""
    declined: int = 0
    declined_for: str = ""
    rests_until: int = 0
    other_roster: str = ""


class HubRow(msgspec.Struct, frozen=True):
    """One hub; ``other_roster`` is which one it goes by, where that is not the coordinator's."""

    name: str
    online: bool
    other_roster: str = ""


class RoundRow(msgspec.Struct, frozen=True):
    """One finished round; ``accuracy`` is that of the version it made, on the devices' held-out data.

    ``examples`` are those that were evaluated. With 0, as under noise, ``accuracy`` and ``loss`` say nothing.
    ``epsilon`` is the most that any device had spent of its privacy by then, None where noise was missing
    once. ``told`` is what the round told with noise of the version it began with: name to (value, standard
    error that the noise adds).
    """

    round: int
    outcome: Literal["committed", "aborted"]
    version: int = -1
    devices: int = 0
    accuracy: float = 0.0
    loss: float = 0.0
    seconds: float = 0.0
    up_bytes: float = 0.0
    down_bytes: float = 0.0
    reason: str = ""
    epsilon: float | None = None
    told: dict[str, tuple[float, float]] = {}
    examples: int = 0


class ReleaseRow(msgspec.Struct, frozen=True):
    """One release and how far it is."""

    release: str
    version: int
    state: str
    devices: int = 0
    confirmed: int = 0
    rolled_back: int = 0
    accuracy: float = 0.0
    reason: str = ""


class PrivacyRow(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet's privacy budget.

    ``rounds_left`` are the rounds that can still be filled. ``covers`` says whether everything that is
    derived from data is paid for, or the updates only. ``epsilon`` and ``delta`` are the budget, ``spent``
    the most that any device has spent, ``spent_by_task`` what all rounds cost together.
    """

    mechanism: str
    epsilon: float
    delta: float
    spent: float
    spent_by_task: float
    rounds_left: int
    covers: Literal["updates only", "everything"]
    warning: str = ""


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment; byte figures of a round are means over its devices.

    ``mode``, ``codec`` and ``algorithm`` are those of rounds, as settings and task ask for them. ``stopped``
    is why no more rounds are asked for, where some were taken back; ``waits_for`` what keeps the next from
    opening; ``next_ms`` when it may open at the earliest, where rounds fail. ``roster`` is the coordinator's
    roster's serial.
    """

    fleet: str
    taken_ms: int
    mode: str
    codec: str
    algorithm: str
    phase: str
    round: int
    target: int
    version: int
    digest: str
    parameters: int
    accuracy: float = 0.0
    devices: tuple[DeviceRow, ...] = ()
    hubs: tuple[HubRow, ...] = ()
    rounds: tuple[RoundRow, ...] = ()
    releases: tuple[ReleaseRow, ...] = ()
    refused: dict[str, int] = {}
    privacy: PrivacyRow | None = None
    stopped: str = ""
    waits_for: str = ""
    next_ms: int = 0
    roster: int = 0


def encode_view(view: FleetView) -> bytes:
    """Return the view for a ``CoordinatorStatus``."""
    return pack(view)


def decode_view(data: bytes) -> FleetView:
    """Return the view in ``data``.

    Raises:
        MalformedMessageError: not a view.
    """
    try:
        return unpack(data, FleetView)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(
            f"not a fleet view ({error}): update the coordinator, or this program"
        ) from error
