"""The hubs as the coordinator hears them: offers, signatures, agreements, sums put together."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from shoal_codecs.security.identity import verify
from shoal_codecs.security.roster import Roster
from shoal_codecs.security.sealing import OVERHEAD_BYTES
from shoal_codecs.updates.bitpack import packed_size
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.held import other_roster
from shoal_codecs.wire.hubs import HubPromise, promise_commitment
from shoal_codecs.wire.plan import Plan, plan_signing_bytes
from shoal_codecs.wire.status import HubRow
from shoal_coordinator import round_steps as on
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.certificates import CertificateBook
from shoal_coordinator.round_errors import BrokenPromiseError, StrangerToRoundError, SumPartError
from shoal_coordinator.round_runner import RoundRunner

Feed = Callable[[on.RoundEvent], Awaitable[None]]
LateWord = (
    wire.PlanSigned
    | wire.PlanRefused
    | wire.Agreement
    | wire.HubSumPart
    | wire.RoundAbandoned
    | wire.ReportSet
)
HubWord = LateWord | wire.NonceRevealed | wire.RevealRefused
SMALLEST_PART_BYTES = 1024
REMEMBERED = 64


@dataclass(slots=True)
class _Hub:
    online: bool = False
    session: bytes = b""
    other_roster: str = ""
    promise: HubPromise | None = None
    spent: bytes = b""
    parts: dict[int, bytes] = field(default_factory=dict)
    parts_of: tuple[bytes, bytes, int] = (b"", b"", 0)


class HubDesk:
    """The roster's hubs, in their order."""

    def __init__(
        self, roster: Roster, runner: RoundRunner, announcer: Announcer, certificates: CertificateBook
    ) -> None:
        self._roster = roster
        self._runner = runner
        self._announcer = announcer
        self._certificates = certificates
        self._hubs = {name: _Hub() for name in roster.names("hub")}
        self._ended: dict[bytes, tuple[int, str]] = {}

    def promises(self) -> Mapping[str, HubPromise]:
        """Return the promises that no plan has used yet, of hubs that are there."""
        return {
            name: hub.promise
            for name, hub in self._hubs.items()
            if hub.online and hub.promise is not None and hub.promise.key != hub.spent
        }

    def rows(self) -> tuple[HubRow, ...]:
        """Return the hubs for a status view."""
        return tuple(HubRow(name, hub.online, hub.other_roster) for name, hub in self._hubs.items())

    def differing(self) -> str:
        """Return which hubs that are there go by another roster, nothing where none does.

        They would refuse every plan, each only after they had shown their nonces for it, of which they show
        few in vain.
        """
        found = [
            f"{name} by {hub.other_roster}"
            for name, hub in self._hubs.items()
            if hub.online and hub.other_roster
        ]
        return f"{', '.join(found)}, the coordinator by roster {self._roster.serial}" if found else ""

    def hear_status(self, message: wire.HubStatus) -> tuple[bool, bool]:
        """Take a hub's status; return whether it came or went, and whether it started again."""
        hub = self._hubs.get(message.sender)
        if hub is None:
            return False, False
        changed, restarted = hub.online != message.online, False
        hub.online = message.online
        if message.online:
            restarted = bool(hub.session) and hub.session != message.session
            hub.session = message.session
            hub.other_roster = other_roster(message.roster, self._roster.held)
        promise = message.promise
        hub.promise = promise if promise is not None and promise.hub == message.sender else None
        return changed, restarted

    async def hear(self, message: HubWord) -> None:
        """Take a hub's word on a round.

        Raises:
            RoundError, SecurityError: it does not belong to the round, or is not signed as it must be.
        """
        if isinstance(message, wire.NonceRevealed | wire.RevealRefused):
            await self._hear_nonce(message)
            return
        if isinstance(message, wire.RoundAbandoned) and message.certificate:
            await self._certificates.take(message.plan_hash, message.sender, message.certificate)
        machine = self._runner.machine
        if machine is None or message.plan_hash != self._runner.plan_hash:
            self._answer_late(message)
            return
        plan, sender = machine.facts.plan, message.sender
        match message:
            case wire.PlanSigned(signature=signature):
                verify(
                    self._roster.party(sender).key, plan_signing_bytes(machine.facts.plan_bytes), signature
                )
                await self._runner.feed(on.HubSigned(sender, signature))
            case wire.PlanRefused(reason=reason):
                await self._runner.feed(on.HubRefused(sender, reason[:200]))
            case wire.RoundAbandoned(reason=reason):
                await self._runner.feed(on.HubAbandoned(sender, reason[:200]))
            case wire.Agreement(set_digest=digest, members=members):
                await self._runner.feed(on.HubAgreed(sender, digest, members))
            case wire.HubSumPart():
                sealed = self._assemble(plan, message)
                if sealed is not None:
                    await self._runner.feed(on.HubSummed(sender, message.set_digest, sealed))
            case wire.ReportSet():
                pass

    def remember_end(self, plan_hash: bytes, number: int, reason: str) -> None:
        """Remember how a round ended, for hubs that missed it; ``reason`` is empty for a commit."""
        self._ended[plan_hash] = (number, reason)
        while len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def forget_parts(self) -> None:
        """Throw unfinished sums away: their round has ended."""
        for hub in self._hubs.values():
            hub.parts.clear()

    async def _hear_nonce(self, message: wire.NonceRevealed | wire.RevealRefused) -> None:
        """Take a hub's nonce if it is the promised one; a late word is of a round that is over."""
        machine, sender = self._runner.machine, message.sender
        if machine is None or not machine.facts.promises or machine.facts.set_digest != message.set_digest:
            return
        promise = next((one for one in machine.facts.promises if one.hub == sender), None)
        if isinstance(message, wire.RevealRefused):
            await self._runner.feed(on.HubRefused(sender, message.reason[:200]))
            return
        shown = (message.nonce, message.challenge)
        if promise is None or promise_commitment(sender, promise.key, *shown) != promise.commitment:
            raise BrokenPromiseError(
                f"{sender} shows another nonce than it promised: restart that hub, and look at its folder"
            )
        if sender in self._hubs:
            self._hubs[sender].spent = promise.key
        await self._runner.feed(on.HubRevealed(sender, *shown))

    def ask_certificates(self, missing: Mapping[tuple[int, bytes], tuple[str, ...]]) -> None:
        """Ask hubs to certify that plans, by (round, hash), are never released."""
        for (number, digest), hubs in missing.items():
            for hub in hubs:
                self._announcer.hub(
                    hub, wire.RoundAborted, round=number, plan_hash=digest, reason="the base is planned anew"
                )

    def _answer_late(self, message: LateWord) -> None:
        """Tell a hub that still speaks of an ended round how it ended; a lost word only delays."""
        number, reason = self._ended.get(
            message.plan_hash, (message.round, "the coordinator knows no such round")
        )
        if isinstance(message, wire.PlanRefused | wire.ReportSet):
            return
        if message.plan_hash in self._ended and not reason:
            self._announcer.hub(
                message.sender, wire.RoundCommitted, round=number, plan_hash=message.plan_hash
            )
        else:
            self._announcer.hub(
                message.sender, wire.RoundAborted, round=number, plan_hash=message.plan_hash, reason=reason
            )

    def _assemble(self, plan: Plan, part: wire.HubSumPart) -> bytes | None:
        """Return a hub's whole sum once its last part is here."""
        hub = self._hubs.get(part.sender)
        if hub is None:
            raise StrangerToRoundError(f"{part.sender} is no hub of the roster: drop its sum")
        spec = ring_spec(plan)
        longest = packed_size(spec.words, spec.ring_bits) + OVERHEAD_BYTES
        most = -(-longest // SMALLEST_PART_BYTES)
        held = sum(map(len, hub.parts.values()))
        if not 0 <= part.index < part.count <= most or len(part.data) > longest:
            raise SumPartError(
                f"part {part.index} of {part.count}, {len(part.data)} bytes, is of no sum of {longest} bytes"
                ": update the hub"
            )
        about = (part.plan_hash, part.set_digest, part.count)
        if hub.parts_of != about or held + len(part.data) > longest + len(hub.parts.get(part.index, b"")):
            hub.parts_of, hub.parts = about, {}
        hub.parts[part.index] = part.data
        if len(hub.parts) < part.count:
            return None
        whole = b"".join(hub.parts[index] for index in range(part.count))
        hub.parts.clear()
        return whole
