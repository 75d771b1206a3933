"""What the coordinator is made of; ``service`` puts it together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shoal_codecs.security.identity import Identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Roster
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.retained import RetainedShelf
from shoal_codecs.wire.messages import InstallReport
from shoal_codecs.wire.status import ReleaseRow
from shoal_coordinator.aggregation import Server
from shoal_coordinator.algorithms.stability import Stability
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.byte_desk import ByteDesk
from shoal_coordinator.certificates import CertificateBook
from shoal_coordinator.commands import CommandBook
from shoal_coordinator.controls import Controls
from shoal_coordinator.fleet_desk import FleetDesk
from shoal_coordinator.late_reports import LateReports
from shoal_coordinator.ledger import Ledger
from shoal_coordinator.level_desk import LevelDesk
from shoal_coordinator.models import ModelShelf
from shoal_coordinator.opening import Opening
from shoal_coordinator.prekey_desk import PrekeyDesk
from shoal_coordinator.privacy_desk import PrivacyDesk
from shoal_coordinator.pruning import Pruner
from shoal_coordinator.registry import DeviceView
from shoal_coordinator.round_steps import RoundTimings
from shoal_coordinator.schedule import Schedule
from shoal_coordinator.told import ToldBook
from shoal_coordinator.traffic import TrafficMeter


class Releases(Protocol):
    """What the coordinator asks of its releases; they call ``on_change`` when ``rows`` has changed."""

    on_change: Callable[[], object]

    async def handle_report(self, device: str, report: InstallReport) -> None:
        """Take a device's word on an installation."""

    async def create(self, version: int, name: str, canaries: int, *, allow_older: bool = False) -> str:
        """Make a release of ``version`` and return its name; ``allow_older`` lets it replace a higher one."""

    async def withdraw(self, release: str, reason: str) -> None:
        """Stop a release."""

    async def tick(self, now_ms: int) -> None:
        """Let time pass."""

    async def device_seen(self, view: DeviceView) -> None:
        """Compare a device with what it should run and send what is missing."""

    async def blob_wanted(self, digest: bytes) -> None:
        """Publish a release's blob again, if it is one."""

    def rows(self) -> tuple[ReleaseRow, ...]:
        """Return every release for a status view."""


@dataclass(slots=True, kw_only=True)
class Organs:
    """The parts of one coordinator; times in milliseconds, ``status_s`` in seconds."""

    identity: Identity
    post: Post
    roster: Roster
    link: Link
    shelf: RetainedShelf
    announcer: Announcer
    blobs: BlobStore
    models: ModelShelf
    pruner: Pruner
    ledger: Ledger
    privacy: PrivacyDesk
    told: ToldBook
    fleet: FleetDesk
    schedule: Schedule
    opening: Opening
    levels: LevelDesk
    traffic: TrafficMeter
    bytes: ByteDesk
    commands: CommandBook
    certificates: CertificateBook
    prekeys: PrekeyDesk
    timings: RoundTimings
    folder: Path
    dimension: int
    server: Server
    stability: Stability
    controls: Controls | None
    late: LateReports | None
    status_s: float
    clock_ms: Callable[[], int]
    releases: Releases | None = None
