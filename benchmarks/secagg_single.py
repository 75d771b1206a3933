"""One round of mode ``single`` through the machines and functions of real rounds, timed; no broker."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, TypeAlias

import numpy as np
from secagg_fleet import COORDINATOR, EXAMPLES, FLEET, Costs, Disk, Fleet, Stopwatch

from shoal_codecs.secagg.report_opening import Receiver, open_report, open_share
from shoal_codecs.secagg.report_parts import ReportAssembler, largest_report_bytes
from shoal_codecs.secagg.single import device_messages as dm
from shoal_codecs.secagg.single import server_messages as sm
from shoal_codecs.secagg.single.bundles import OwnBundle, check_bundles, make_bundle
from shoal_codecs.secagg.single.device import SingleDevice
from shoal_codecs.secagg.single.masking import mask_words, unmask_sum
from shoal_codecs.secagg.single.neighbours import draw_neighbours
from shoal_codecs.secagg.single.opening import mask_edges_of, reconstruct
from shoal_codecs.secagg.single.opening_records import Answer
from shoal_codecs.secagg.single.parameters import Neighbourhood, mask_edges
from shoal_codecs.secagg.single.server import SingleServer
from shoal_codecs.secagg.single.sharing import make_shares, open_delivery
from shoal_codecs.security.sealing import new_sealing_key, seal, unseal
from shoal_codecs.updates.bitpack import packed_size
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import (
    decode_sum,
    encode_ring,
    handy_bits,
    packed_ring,
    ring_bits_for,
    unpack_ring,
)
from shoal_codecs.updates.step import step_from_sum
from shoal_codecs.wire.messages import AnyMessage, ReportPart, SingleConsent, SingleShares, SingleUnmask
from shoal_codecs.wire.plan import CodecPlan, HubOffer, Plan, SinglePlan, TrainingPlan, encode_plan, plan_hash
from shoal_codecs.wire.report import share_context
from shoal_codecs.wire.single import (
    Prekey,
    consent_bytes,
    decode_opening,
    encode_opening,
    prekey_id,
    unmask_context,
)
from shoal_coordinator.running_sum import RunningSum
from shoal_edge.reports import report_messages, sign_report

Said: TypeAlias = list[tuple[str, bytes]]
"""Topics and frames."""
CORRUPT = 0.1
CLIP_NORM = 1e4


def single_plan(fleet: Fleet, found: Neighbourhood, key: bytes, prekeys: Sequence[Prekey]) -> Plan:
    """Return the plan of the case: every coordinate kept, ``found`` neighbours and threshold."""
    case, now_ms = fleet.case, int(time.time() * 1000)
    return Plan(
        mode="single",
        fleet=FLEET,
        round=1,
        task=bytes(32),
        base=hashlib.sha256(b"base").digest(),
        roster=fleet.roster.digest,
        cohort=case.names,
        hubs=(HubOffer(COORDINATOR, key, os.urandom(32)),),
        codec=CodecPlan(
            name="randk",
            dimension=case.dimension,
            kept=case.dimension,
            clip_norm=CLIP_NORM,
            clamp=case.clamp,
            ring_bits=handy_bits(ring_bits_for(case.devices, case.clamp), "single"),
            weight_cap=EXAMPLES,
        ),
        training=TrainingPlan(epochs=1, learning_rate=0.1, batch_size=16),
        n_min=len(case.reporting),
        n_max=case.devices,
        quorum=case.devices,
        patience_ms=1000,
        opens_ms=now_ms - 1000,
        closes_ms=now_ms + 90_000,
        single=SinglePlan(
            neighbours=found.neighbours,
            threshold=found.threshold,
            edges=mask_edges(case.devices, CORRUPT, found),
            prekeys=tuple(
                prekey_id(FLEET, device, prekey) for device, prekey in zip(case.names, prekeys, strict=True)
            ),
            shares_ms=now_ms + 30_000,
            masked_ms=now_ms + 60_000,
        ),
    )


class Device:
    """A device: its machine, what it does for it, and what it says, as frames."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.name, self.watch, self.sent = name, Stopwatch(), 0
        self.fleet, self.post = fleet, fleet.post(name)
        with self.watch.running():
            self.own: OwnBundle = make_bundle(self.post.identity, FLEET, os.urandom)

    def begin(self, plan_bytes: bytes, plan: Plan, prekeys: Sequence[Prekey]) -> Said:
        """Check the plan's keys, draw neighbours, and share secrets among them."""
        with self.watch.running():
            self.plan, self.hash, self.prekeys = plan, plan_hash(plan_bytes), prekeys
            check_bundles(plan, prekeys, self.fleet.roster)
            single = _part(plan)
            neighbours = draw_neighbours(self.own.nonce, self.hash, self.name, plan.cohort, single.neighbours)
            keys = {name: self.fleet.roster.party(name).key for name in plan.cohort}
            self.machine = SingleDevice(dm.DeviceTerms(self.name, plan, self.hash, neighbours, keys))
        return self.handle(dm.Resumed())

    def handle(self, event: Any) -> Said:
        """Return the frames that the device sends because of ``event``."""
        with self.watch.running():
            frames: Said = []
            todo = list(self.machine.handle(event))
            while todo:
                following, said = self._perform(todo.pop(0))
                todo += following
                frames += said
        self.sent += sum(len(frame) for _, frame in frames)
        return frames

    def _perform(self, action: Any) -> tuple[list[Any], Said]:
        common = (self.own, self.name, self.plan, self.hash, self.prekeys)
        head: dict[str, Any] = {"round": self.plan.round, "plan_hash": self.hash}
        match action:
            case dm.MakeShares():
                made = make_shares(*common, os.urandom)
                return list(self.machine.handle(dm.SharesMade(made))), []
            case dm.SayShares(shares):
                fields = {"draw": self.own.nonce, "seed": shares.commitment, "boxes": shares.boxes}
                return [], [self._frame(self.post.compose(SingleShares, **head, **fields), "shares")]
            case dm.OpenBoxes(members, draws, boxes):
                opened = open_delivery(*common, members, draws, boxes)
                return list(self.machine.handle(dm.BoxesOpened(opened))), []
            case dm.MaskVector(seed, peers):
                frames = self._masked(seed, peers)
                return list(self.machine.handle(dm.VectorMasked())), frames
            case dm.SayConsent(split):
                signature = self.post.identity.sign(consent_bytes(self.hash, split.alive, split.dead))
                return [], [
                    self._frame(self.post.compose(SingleConsent, **head, signature=signature), "consent")
                ]
            case dm.SayOpening(opening):
                context = unmask_context(self.hash, self.name)
                sealed = seal(self.plan.hubs[0].key, encode_opening(opening), context)
                return [], [self._frame(self.post.compose(SingleUnmask, **head, sealed=sealed), "unmask")]
            case _:
                return [], []

    def _masked(self, seed: bytes, peers: Sequence[str]) -> Said:
        spec = ring_spec(self.plan)
        with self.watch.paused():
            update = self.fleet.case.update(self.name)
        words = encode_ring(update, EXAMPLES, spec, np.random.default_rng())
        del update
        mask_words(
            words,
            spec.ring_bits,
            seed=seed,
            mask_private=self.own.mask_private,
            device=self.name,
            peers=peers,
            plan=self.plan,
            plan_hash=self.hash,
            prekeys=self.prekeys,
        )
        context = share_context(self.hash, self.name, COORDINATOR)
        sealed = seal(self.plan.hubs[0].key, packed_ring(words, spec.ring_bits), context)
        report = sign_report(self.post.identity, self.plan, self.hash, [sealed])
        topic = self.post.topics.report(COORDINATOR, self.name)
        parts = report_messages(self.post, self.plan.round, report.parts[COORDINATOR])
        return [(topic, self.post.encode(topic, part)) for part in parts]

    def _frame(self, message: AnyMessage, phase: str) -> tuple[str, bytes]:
        topic = self.post.topics.single(self.plan.round, phase, self.name)
        return topic, self.post.encode(topic, message)


class Server:
    """The coordinator: its machine, the masked vectors it keeps sealed, and what it does with them."""

    def __init__(self, fleet: Fleet, plan: Plan, private: bytes, prekeys: Sequence[Prekey]) -> None:
        self.watch, self.fleet, self.plan = Stopwatch(), fleet, plan
        self.post, self.hash = fleet.post(COORDINATOR), plan_hash(encode_plan(plan))
        self.private, self.prekeys = private, prekeys
        spec = ring_spec(plan)
        self.share_bytes = packed_size(spec.words, spec.ring_bits)
        self.receiver = Receiver(self.hash, COORDINATOR, 0, 1, private)
        self.assembler = ReportAssembler(largest_report_bytes(self.share_bytes, 1))
        self.disk = Disk(self.watch)
        self.running = RunningSum(plan)
        self.now_ms = plan.opens_ms + 1000
        self.outcome: tuple[str, ...] = ()
        with self.watch.running():
            check_bundles(plan, prekeys, fleet.roster)
            keys = {name: fleet.roster.party(name).key for name in plan.cohort}
            self.machine = SingleServer(sm.ServerTerms(plan, self.hash, prekeys, keys))

    def hear(self, device: str, frames: Said) -> list[Any]:
        """Return what the machine wants because of what ``device`` said."""
        with self.watch.running():
            actions: list[Any] = []
            for topic, frame in frames:
                event = self._event(device, topic, frame)
                if event is not None:
                    actions += self.machine.handle(event, self.now_ms)
        return actions

    def tick(self, event: Any) -> list[Any]:
        """Begin, or let the machine's next waiting time pass."""
        if isinstance(event, sm.ServerTick):
            self.now_ms = max(self.now_ms, self.machine.wake_ms or 0)
        with self.watch.running():
            return list(self.machine.handle(event, self.now_ms))

    def open_masks(self, alive: tuple[str, ...], dead: tuple[str, ...]) -> np.ndarray[Any, Any]:
        """Return the mean update (D,) of ``alive``."""
        with self.watch.running():
            spec, machine, single = ring_spec(self.plan), self.machine, _part(self.plan)
            commitments = {name: one.seed for name, one in machine.memory.shares.items()}
            secrets = reconstruct(
                self.plan,
                self.hash,
                self.prekeys,
                alive=alive,
                dead=dead,
                holders=machine.holders,
                commitments=commitments,
                answers=machine.memory.answers,
            )
            packed = self.running.total(alive, self._opened)
            total = unpack_ring(packed, spec.words, spec.ring_bits)
            unmask_sum(
                total,
                spec.ring_bits,
                seeds=secrets.seeds,
                mask_privates=secrets.mask_privates,
                edges=mask_edges_of(machine.holders, single.edges, alive, secrets.mask_privates),
                plan=self.plan,
                plan_hash=self.hash,
                prekeys=self.prekeys,
            )
            step = step_from_sum(decode_sum(total, spec), spec)
            mean: np.ndarray[Any, Any] = step.q * np.float64(step.scale)
            machine.handle(sm.MasksOpened(), self.now_ms)
        self.outcome = alive
        return mean

    def _opened(self, device: str) -> bytes:
        return open_share(self.disk.get(device), device, self.receiver)

    def _event(self, device: str, topic: str, frame: bytes) -> Any:
        _, message = self.post.open(topic, frame)
        match message:
            case ReportPart():
                data = self.assembler.add(device, message.index, message.count, message.data)
                if data is None:
                    return None
                key = self.fleet.roster.party(device).key
                opened = open_report(data, device, key, self.receiver, self.share_bytes)
                self.disk.put(device, opened.ciphertext)
                self.running.add(device, opened.share)
                return sm.VectorStored(device)
            case SingleShares(draw=draw, seed=seed, boxes=boxes):
                return sm.SharesCame(device, sm.PublishedShares(draw, seed, boxes))
            case SingleConsent(signature=signature):
                return sm.ConsentCame(device, signature)
            case SingleUnmask(sealed=sealed):
                context = unmask_context(self.hash, device)
                clear = unseal(self.private, sealed, context, self.plan.hubs[0].key)
                own, given = decode_opening(clear, self.plan.cohort)
                return sm.OpeningCame(device, Answer(own, given))
        raise TypeError(type(message))


def run_single(fleet: Fleet, found: Neighbourhood) -> Costs:
    """Run one round, make sure that its result is the mean, and return what it cost."""
    case = fleet.case
    private, public = new_sealing_key()
    devices = {name: Device(fleet, name) for name in case.names}
    prekeys = tuple(device.own.prekey for device in devices.values())
    plan = single_plan(fleet, found, public, prekeys)
    plan_bytes = encode_plan(plan)
    server = Server(fleet, plan, private, prekeys)
    reporting, mean = frozenset(case.reporting), np.zeros(0)
    todo = server.tick(sm.ServerResumed())
    for name, device in devices.items():
        todo += server.hear(name, device.begin(plan_bytes, plan, prekeys))
    while not server.outcome:
        if not todo:
            todo += server.tick(sm.ServerTick())
            continue
        action = todo.pop(0)
        match action:
            case sm.Deliver(name, members, draws, boxes) if name in reporting:
                todo += server.hear(name, devices[name].handle(dm.DeliveryCame(members, draws, boxes)))
            case sm.NameSurvivors(names, split):
                for name in names:
                    todo += server.hear(name, devices[name].handle(dm.SurvivorsNamed(split)))
            case sm.AskOpening(name, split, signatures):
                todo += server.hear(name, devices[name].handle(dm.UnmaskAsked(split, signatures)))
            case sm.OpenMasks(alive, dead):
                mean = server.open_masks(alive, dead)
            case sm.GiveUp():
                raise SystemExit(f"the round of mode single gave up: {action}")
    wanted = np.zeros(case.dimension)
    for name in server.outcome:
        wanted += case.update(name)
    error = np.abs(mean - wanted / max(1, len(server.outcome))).max()
    if set(server.outcome) != reporting or not error <= 1 / ring_spec(plan).levels_per_unit:
        raise SystemExit(f"the round of mode single does not add up: off by {error}")
    costs = [devices[name].watch.cpu_s for name in case.reporting]
    sent = median(devices[name].sent for name in case.reporting)
    return Costs(costs, {COORDINATOR: server.watch.cpu_s}, int(sent))


def _part(plan: Plan) -> SinglePlan:
    if plan.single is None:
        raise TypeError("a plan of another mode")
    return plan.single
