"""A fleet in mode ``single`` without a broker: real keys and machines, and a network that may do anything."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import numpy as np

from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.single.bundles import OwnBundle, check_bundles, make_bundle
from shoal_codecs.secagg.single.device import SingleDevice
from shoal_codecs.secagg.single.device_messages import (
    BoxesOpened,
    DeliveryCame,
    DeviceMemory,
    DeviceTerms,
    Keep,
    MakeShares,
    MaskVector,
    OpenBoxes,
    Resumed,
    SayConsent,
    SayOpening,
    SayShares,
    SharesMade,
    SurvivorsNamed,
    UnmaskAsked,
    VectorMasked,
)
from shoal_codecs.secagg.single.errors import MasksClosedError
from shoal_codecs.secagg.single.masking import mask_words, unmask_sum
from shoal_codecs.secagg.single.neighbours import draw_neighbours
from shoal_codecs.secagg.single.opening import mask_edges_of, reconstruct
from shoal_codecs.secagg.single.opening_records import Answer
from shoal_codecs.secagg.single.parameters import Neighbourhood, complete_neighbourhood, mask_edges
from shoal_codecs.secagg.single.server import SingleServer
from shoal_codecs.secagg.single.server_messages import (
    AskOpening,
    ConsentCame,
    Deliver,
    GiveUp,
    KeepAnswer,
    KeepAsked,
    KeepConsent,
    KeepMembers,
    KeepShares,
    KeepSplit,
    MasksOpened,
    MasksShut,
    NameSurvivors,
    OpeningCame,
    OpenMasks,
    PublishedShares,
    ServerMemory,
    ServerResumed,
    ServerTerms,
    ServerTick,
    SharesCame,
    VectorStored,
)
from shoal_codecs.secagg.single.sharing import make_shares, open_delivery
from shoal_codecs.security.identity import Identity
from shoal_codecs.security.roster import Party, Roster, RosterBody
from shoal_codecs.security.stream_cipher import StreamCipher
from shoal_codecs.updates.keystream import Words
from shoal_codecs.wire.plan import HubOffer, Plan, SinglePlan, encode_plan, plan_hash
from shoal_codecs.wire.single import (
    Prekey,
    consent_bytes,
    decode_opening,
    encode_opening,
    prekey_id,
)
from wire_parts import FLEET, NOW_MS, codec_plan, plan

BITS = 16


def names(count: int) -> tuple[str, ...]:
    return tuple(f"device-{number:03}" for number in range(1, count + 1))


@dataclass
class Cohort:
    """A plan and everybody's keys; ``bundles`` are private, by device."""

    plan: Plan
    plan_hash: bytes
    identities: dict[str, Identity]
    bundles: dict[str, OwnBundle]
    roster: Roster

    @property
    def prekeys(self) -> tuple[Prekey, ...]:
        return tuple(self.bundles[device].prekey for device in self.plan.cohort)

    @property
    def keys(self) -> dict[str, bytes]:
        return {device: identity.public for device, identity in self.identities.items()}

    def neighbours(self, device: str) -> tuple[str, ...]:
        found = self.plan.single
        assert found is not None
        nonce = self.bundles[device].nonce
        return draw_neighbours(nonce, self.plan_hash, device, self.plan.cohort, found.neighbours)

    def terms(self, device: str, **changes: Any) -> DeviceTerms:
        fields: dict[str, Any] = {
            "device": device,
            "plan": self.plan,
            "plan_hash": self.plan_hash,
            "neighbours": self.neighbours(device),
            "keys": self.keys,
        }
        return DeviceTerms(**(fields | changes))

    def sign(self, device: str, alive: bytes, dead: bytes) -> bytes:
        return self.identities[device].sign(consent_bytes(self.plan_hash, alive, dead))


def secret_bytes(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def make_cohort(
    count: int,
    *,
    corrupt: float = 0.1,
    n_min: int = 0,
    found: Neighbourhood | None = None,
    edges: int = 0,
    seed: int = 0,
    **changes: Any,
) -> Cohort:
    """Return a cohort of ``count`` devices; the complete graph unless ``found`` says otherwise."""
    cohort, draw = names(count), secret_bytes(seed)
    identities = {name: Identity(name, draw(32)) for name in cohort}
    # Pairs of both kinds of devices, and of either.
    kinds = dict(zip(cohort, cycle(StreamCipher), strict=False))
    bundles = {name: make_bundle(identities[name], FLEET, draw, kinds[name]) for name in cohort}
    floor = n_min or max(2, round(0.7 * count))
    found = found or complete_neighbourhood(count, corrupt, (count - floor) / count)
    parties = tuple(Party(name, "device", one.public) for name, one in identities.items())
    fields: dict[str, Any] = {
        "mode": "single",
        "hubs": (HubOffer("coordinator", b"\x04" * 32, b"\x05" * 32),),
        "cohort": cohort,
        "codec": codec_plan(ring_bits=BITS, clamp=100),
        "n_min": floor,
        "n_max": count,
        "quorum": count,
        "single": SinglePlan(
            neighbours=found.neighbours,
            threshold=found.threshold,
            edges=edges or mask_edges(count, corrupt, found),
            prekeys=tuple(prekey_id(FLEET, name, bundles[name].prekey) for name in cohort),
            shares_ms=NOW_MS + 10_000,
            masked_ms=NOW_MS + 40_000,
        ),
    }
    made = plan(**(fields | changes))
    roster = Roster(RosterBody(FLEET, 1, parties), b"\x03" * 32)
    result = Cohort(made, plan_hash(encode_plan(made)), identities, bundles, roster)
    check_bundles(made, result.prekeys, roster)
    return result


@dataclass
class SimulatedDevice:
    """A device of the simulation: its machine, what it kept, its vector."""

    cohort: Cohort
    name: str
    words: Words
    random: Callable[[int], bytes]
    kept: DeviceMemory = field(default_factory=DeviceMemory)
    masked: Words | None = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything that was not kept."""
        self.machine = SingleDevice(self.cohort.terms(self.name), self.kept)

    def handle(self, event: Any) -> list[Any]:
        """Return what the device says because of ``event``, as events of the server."""
        said: list[Any] = []
        todo = list(self.machine.handle(event))
        cohort, own = self.cohort, self.cohort.bundles[self.name]
        common = (cohort.plan, cohort.plan_hash, cohort.prekeys)
        while todo:
            match todo.pop(0):
                case Keep(memory):
                    self.kept = memory
                case MakeShares():
                    shares = make_shares(own, self.name, *common, self.random)
                    todo += self.machine.handle(SharesMade(shares))
                case SayShares(shares):
                    public = PublishedShares(own.nonce, shares.commitment, shares.boxes)
                    said.append(SharesCame(self.name, public))
                case OpenBoxes(members, draws, boxes):
                    opened = open_delivery(own, self.name, *common, members, draws, boxes)
                    todo += self.machine.handle(BoxesOpened(opened))
                case MaskVector(seed, peers):
                    self.masked = self.words.copy()
                    mask_words(
                        self.masked,
                        BITS,
                        seed=seed,
                        mask_private=own.mask_private,
                        device=self.name,
                        peers=peers,
                        plan=cohort.plan,
                        plan_hash=cohort.plan_hash,
                        prekeys=cohort.prekeys,
                    )
                    todo += self.machine.handle(VectorMasked())
                    said.append(VectorStored(self.name))
                case SayConsent(split):
                    said.append(ConsentCame(self.name, cohort.sign(self.name, split.alive, split.dead)))
                case SayOpening(opening):
                    own_seed, given = decode_opening(encode_opening(opening), cohort.plan.cohort)
                    said.append(OpeningCame(self.name, Answer(own_seed, given)))
        return said


class Simulation:
    """Everybody and a network; ``lost`` says which word of a device is the first that never arrives.

    ``chance`` decides order, duplicates and, at each word with the chance ``restarts``, restarts.
    """

    def __init__(
        self,
        cohort: Cohort,
        lost: dict[str, type],
        chance: random.Random,
        length: int = 24,
        restarts: float = 0.03,
    ) -> None:
        self.cohort, self.lost, self.chance, self.restarts = cohort, lost, chance, restarts
        draw = np.random.default_rng(chance.getrandbits(32))
        self.devices = {
            name: SimulatedDevice(
                cohort,
                name,
                draw.integers(0, 1 << BITS, length).astype(np.uint16),
                secret_bytes(chance.getrandbits(32)),
            )
            for name in cohort.plan.cohort
        }
        self.disk = ServerMemory()
        self.stored: set[str] = set()
        self.gone: set[str] = set()
        self.errors: list[ShoalError] = []
        self.outcome: GiveUp | tuple[str, ...] | None = None
        self.sum: Words | None = None
        self.now_ms = NOW_MS
        self._queue: list[tuple[str, Any]] = []
        self._boot()

    def _boot(self) -> None:
        cohort, disk = self.cohort, self.disk
        terms = ServerTerms(cohort.plan, cohort.plan_hash, cohort.prekeys, cohort.keys)
        memory = replace(
            disk, shares=dict(disk.shares), consents=dict(disk.consents), answers=dict(disk.answers)
        )
        self.server = SingleServer(terms, memory)

    def run(self) -> None:
        """Let everything happen until the round has ended."""
        self._queue += [(name, Resumed()) for name in self.devices]
        self._tell_server(ServerResumed())
        for _ in range(20_000):
            if self.outcome is not None:
                return
            if self._queue:
                place = self.chance.randrange(len(self._queue))
                target, event = self._queue.pop(place)
                # What QoS 1 does: a word may come twice.
                if self.chance.random() < 0.1:
                    self._queue.append((target, event))
                self._step(target, event)
            else:
                wake = self.server.wake_ms
                assert wake is not None
                self.now_ms = max(self.now_ms + 1, wake)
                self._tell_server(ServerTick())
                # Devices that were not answered repeat themselves.
                self._queue += [(name, Resumed()) for name in self.devices]
        raise AssertionError("the round never ended")

    def _step(self, target: str, event: Any) -> None:
        if self.chance.random() < self.restarts:
            self._boot()
            for name in self.stored:
                self._tell_server(VectorStored(name))
            self._tell_server(ServerResumed())
        if target == "server":
            self._tell_server(event)
            return
        device = self.devices[target]
        if self.chance.random() < self.restarts:
            device.restart()
            self._queue.append((target, Resumed()))
        try:
            said = [] if target in self.gone else device.handle(event)
        except ShoalError as error:
            self.errors.append(error)
            return
        for word in said:
            if self.lost.get(target) is type(word):
                self.gone.add(target)
            if target not in self.gone:
                self._queue.append(("server", word))

    def _tell_server(self, event: Any) -> None:
        try:
            actions = self.server.handle(event, self.now_ms)
        except ShoalError as error:
            self.errors.append(error)
            return
        if isinstance(event, VectorStored):
            self.stored.add(event.device)
        for action in actions:
            self._perform(action)

    def _perform(self, action: Any) -> None:
        match action:
            case KeepShares(device, shares):
                self.disk.shares[device] = shares
            case KeepMembers(members):
                assert not self.disk.members
                self.disk.members = members
            case KeepSplit(split):
                assert self.disk.split is None
                self.disk.split = split
            case KeepAsked():
                self.disk.asked = True
            case KeepConsent(device, signature):
                self.disk.consents[device] = signature
            case KeepAnswer(device, answer):
                self.disk.answers[device] = answer
            case Deliver(device, members, draws, boxes):
                self._queue.append((device, DeliveryCame(members, draws, boxes)))
            case NameSurvivors(devices, split):
                self._queue += [(device, SurvivorsNamed(split)) for device in devices]
            case AskOpening(device, split, signatures):
                self._queue.append((device, UnmaskAsked(split, signatures)))
            case OpenMasks(alive, dead):
                self._open(alive, dead)
            case GiveUp():
                self.outcome = action

    def _open(self, alive: tuple[str, ...], dead: tuple[str, ...]) -> None:
        server = self.server
        try:
            secrets = open_secrets(self.cohort, server, alive, dead)
        except MasksClosedError as error:
            self._tell_server(MasksShut(str(error)))
            return
        self.sum = masked_sum(self.devices[name].masked for name in alive)
        take_off(self.cohort, server, self.sum, secrets, alive)
        self._tell_server(MasksOpened())
        self.outcome = alive

    def plain_sum(self, chosen: Iterable[str]) -> Words:
        return masked_sum(self.devices[name].words for name in chosen)


def open_secrets(cohort: Cohort, server: SingleServer, alive: Iterable[str], dead: Iterable[str]) -> Any:
    return reconstruct(
        cohort.plan,
        cohort.plan_hash,
        cohort.prekeys,
        alive=alive,
        dead=dead,
        holders=server.holders,
        commitments={name: one.seed for name, one in server.memory.shares.items()},
        answers=server.memory.answers,
    )


def take_off(cohort: Cohort, server: SingleServer, total: Words, secrets: Any, alive: Iterable[str]) -> None:
    single = cohort.plan.single
    assert single is not None
    unmask_sum(
        total,
        BITS,
        seeds=secrets.seeds,
        mask_privates=secrets.mask_privates,
        edges=mask_edges_of(server.holders, single.edges, alive, secrets.mask_privates),
        plan=cohort.plan,
        plan_hash=cohort.plan_hash,
        prekeys=cohort.prekeys,
    )


def masked_sum(vectors: Iterable[Words | None]) -> Words:
    found = [words for words in vectors if words is not None]
    total: Words = np.sum(found, axis=0, dtype=np.uint16)
    return total
