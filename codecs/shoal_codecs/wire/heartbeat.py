"""What a heartbeat can carry: numbered readings, sent when they changed and all of them now and then."""

from enum import IntEnum
from typing import Any

FULL_EVERY = 10


class Reading(IntEnum):
    """The number of a reading on the wire; numbers are never used again for something else."""

    PHASE = 0  # participant phase: "idle", "fetching", "training", "reporting"
    ROUND = 1  # round the device is in, 0 for none
    MODEL = 2  # first 8 bytes of the digest of the newest model vector held
    RELEASE = 3  # release in the active slot, "" for none
    RELEASE_VERSION = 4  # its model version
    UPDATER = 5  # updater state
    EXAMPLES = 6  # training examples
    HELD_OUT = 7  # held-out examples
    MEMORY_AVAILABLE = 8  # MiB
    MEMORY_TOTAL = 9  # MiB
    CPU = 10  # per cent over all cores since the last reading
    LOAD = 11  # one-minute load average times 100
    RSS = 12  # of the agent, MiB
    DISK_FREE = 13  # MiB where the data directory is
    TEMPERATURE = 14  # degrees Celsius, the hottest sensor
    UPTIME = 15  # of the agent, seconds
    SENT = 16  # bytes on the MQTT connection since the agent started
    RECEIVED = 17
    BOARD = 18  # board model
    ARCHITECTURE = 19
    RUNTIME = 20  # training runtime and version
    AGENT = 21  # agent version
    BATTERY = 22  # per cent
    OUTBOX = 23  # reports waiting for receipts
    LAST_ERROR = 24  # name of the last error, "" for none
    TASK = 25  # first 8 bytes of the digest of the task held
    BYTES_PER_DAY = 27  # that it may use, both ways; missing for no limit
    PROGRESS = 28  # of the present fit, per cent; missing while there is none
    WIDTH = 29  # per cent of a model's width that it takes; missing for 100, 0 where it has yet to measure
    METRICS = 26  # what it says of its data: "clear", "verdict" (of a health check, nothing else) or "none"


def changed(last: dict[int, Any], now: dict[int, Any]) -> dict[int, Any]:
    """Return the readings of ``now`` that differ from ``last``; a reading that vanished becomes None."""
    difference = {key: value for key, value in now.items() if key not in last or last[key] != value}
    difference.update({key: None for key in last if key not in now})
    return difference


def merged(last: dict[int, Any], news: dict[int, Any], *, full: bool) -> dict[int, Any]:
    """Return the readings after a heartbeat with ``news`` came on top of ``last``."""
    base = {} if full else last
    return {key: value for key, value in {**base, **news}.items() if value is not None}
