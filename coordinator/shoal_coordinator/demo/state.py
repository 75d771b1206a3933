"""What the demo has been asked for and what it has seen so far."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from shoal_codecs.wire.status import FleetView


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """``shoal demo``'s options; ``data_dir`` None means a new folder for this run."""

    devices: int = 10
    rounds: int = 40
    mode: str = "hubs"
    codec: str = ""
    seed: int = 1
    data_dir: Path | None = None
    report: Path | None = None
    broker: str = ""
    port: int = 0
    calm: bool = False


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """Something that happened, ``at`` seconds after the start; ``kind`` is for the report."""

    at: float
    kind: str
    text: str


@dataclass(slots=True)
class DemoState:
    """The launcher's picture: the newest view, the events, this run's releases, and what is being done."""

    options: DemoOptions
    folder: Path
    broker_kind: str = ""
    broker_url: str = ""
    stage: str = "starting"
    view: FleetView | None = None
    events: list[DemoEvent] = field(default_factory=list)
    centralised: float = 0.0
    first_version: int = 0
    goal: int = 0
    releases: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    started_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def rounds(self) -> int:
        """Rounds of this run: those asked for or, where more, those that a stopped run left to do."""
        return self.goal - self.first_version if self.goal else self.options.rounds

    def happened(self, kind: str, text: str) -> None:
        """Note an event."""
        self.events.append(DemoEvent(round(self.elapsed, 1), kind, text))
