"""A round as a running hub holds it: the plan, the machine, and the reports still in parts."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.secagg.hub_round import HubRound, terms_of
from shoal_codecs.secagg.report_opening import Receiver
from shoal_codecs.secagg.report_parts import ReportAssembler, largest_report_bytes
from shoal_codecs.wire.plan import Plan, decode_plan, whole_share_devices
from shoal_codecs.wire.report import SHARE_SEED_BYTES
from shoal_coordinator.hub.store import StoredRound

if TYPE_CHECKING:
    from shoal_coordinator.hub.sums import WholeShares
    from shoal_coordinator.running_sum import RunningSum


@dataclass(slots=True)
class PeerPieces:
    """The projections a peer sends in pieces: of which set, how many there are, and those that are here."""

    set_digest: bytes
    count: int
    held: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class LiveRound:
    """One signed plan and everything about it.

    ``whole`` are the devices whose shares this hub gets in full, ``shares`` tells what these are.
    ``signature`` is this hub's over the plan; ``running`` the sum of what has come since this process began,
    None where there is none.
    """

    plan: Plan
    plan_hash: bytes
    signature: bytes
    whole: frozenset[str]
    shares: "WholeShares"
    receiver: Receiver
    machine: HubRound
    assembler: ReportAssembler
    projections: dict[str, PeerPieces] = field(default_factory=dict)
    running: "RunningSum | None" = None

    @classmethod
    def of(cls, stored: StoredRound, hub: str, floors: HubFloors, shares: "WholeShares") -> "LiveRound":
        """Return the round where the log left it; ``shares`` are those in full."""
        plan = decode_plan(stored.plan)
        hubs = [offer.hub for offer in plan.hubs]
        position = hubs.index(hub)
        return cls(
            plan=plan,
            plan_hash=stored.plan_hash,
            signature=stored.signature,
            whole=whole_share_devices(plan, position),
            shares=shares,
            receiver=Receiver(stored.plan_hash, hub, position, len(hubs), stored.private),
            machine=HubRound(terms_of(plan, hub, floors), stored.memory),
            assembler=_assembler(shares.size, len(hubs)),
        )

    def share_bytes(self, device: str) -> int:
        """Return how long the share in clear of ``device`` is here."""
        return self.shares.size if device in self.whole else SHARE_SEED_BYTES

    def forget_secrets(self) -> None:
        """Drop the private key, the running sum and whatever parts of reports are still here."""
        self.receiver = replace(self.receiver, private=b"")
        if self.running is not None:
            self.running.erase()
            self.running = None
        self.projections.clear()
        self.assembler = _assembler(self.shares.size, self.receiver.hubs)


def _assembler(whole_bytes: int, hubs: int) -> ReportAssembler:
    return ReportAssembler(largest_report_bytes(whole_bytes, hubs))
