"""One round of mode ``hubs`` through the functions of real rounds, timed; no broker, nothing stored."""

from __future__ import annotations

import hashlib
import os
import time
from statistics import median

import numpy as np
from secagg_fleet import COORDINATOR, EXAMPLES, FLEET, HUBS, Costs, Disk, Fleet, Stopwatch

from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.secagg.report_opening import Receiver, open_report, open_share
from shoal_codecs.secagg.report_parts import ReportAssembler, largest_report_bytes
from shoal_codecs.secagg.share_seed import open_share_seed
from shoal_codecs.security.identity import sealing_public_of
from shoal_codecs.security.sealing import new_sealing_key, seal
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.wire.messages import ReportPart
from shoal_codecs.wire.plan import HubOffer, Plan, decode_plan, encode_plan, plan_hash, whole_share_devices
from shoal_codecs.wire.report import SHARE_SEED_BYTES
from shoal_coordinator.aggregation import aggregate_sums, vector_bytes, vector_of
from shoal_coordinator.hub.sums import add_shares, whole_shares
from shoal_coordinator.planning import PlanSettings, make_plan
from shoal_coordinator.running_sum import RunningSum
from shoal_edge.reports import report_messages, sign_report
from shoal_edge.shares import ring_shares, seal_shares

CLIP_NORM = 1e4
"""Far above the updates', so that the check of the result knows what to expect."""


class Hub:
    """What a hub does with numbers: parts to reports, reports checked and kept sealed, one sum."""

    def __init__(self, fleet: Fleet, plan: Plan, position: int, private: bytes) -> None:
        self.name, self.plan, self.position = plan.hubs[position].hub, plan, position
        self.watch = Stopwatch()
        self._fleet, self._post = fleet, fleet.post(self.name)
        self._hash = plan_hash(encode_plan(plan))
        self._receiver = Receiver(self._hash, self.name, position, len(plan.hubs), private)
        self._whole, self._shares = whole_share_devices(plan, position), whole_shares(plan)
        self._assembler = ReportAssembler(largest_report_bytes(self._shares.size, len(plan.hubs)))
        self._disk = Disk(self.watch)
        self._running = RunningSum(plan)

    def take(self, device: str, frames: list[bytes]) -> None:
        """Check a device's report and keep its ciphertext, as a hub does when the report arrives."""
        topic = self._post.topics.report(self.name, device)
        with self.watch.running():
            for frame in frames:
                _, part = self._post.open(topic, frame)
                if not isinstance(part, ReportPart):
                    raise TypeError(type(part))
                data = self._assembler.add(device, part.index, part.count, part.data)
                if data is not None:
                    key = self._fleet.roster.party(device).key
                    whole = device in self._whole
                    size = self._shares.size if whole else SHARE_SEED_BYTES
                    opened = open_report(data, device, key, self._receiver, size)
                    if whole:
                        self._shares.check(opened.share)
                    else:
                        open_share_seed(opened.share)
                    self._disk.put(device, opened.ciphertext)
                    if whole:
                        self._running.add(device, opened.share)

    def release(self, set_digest: bytes) -> bytes:
        """Return the sum, sealed to the coordinator."""
        with self.watch.running():
            total = self._total()
            key = self._fleet.roster.party(COORDINATOR).key
            return seal(sealing_public_of(key), total, sum_context(self._hash, set_digest, self.name))

    def _total(self) -> bytes:
        devices = self._disk.devices()
        added = self._running.total(self._whole.intersection(devices), self._opened)
        shares = ((device, self._opened(device)) for device in devices if device not in self._whole)
        return add_shares(self.plan, self._hash, self.position, shares, added)

    def _opened(self, device: str) -> bytes:
        return open_share(self._disk.get(device), device, self._receiver)


def hubs_plan(fleet: Fleet, keys: dict[str, tuple[bytes, bytes]], base: bytes) -> Plan:
    """Return the plan that a coordinator makes for the case, every coordinate kept."""
    case = fleet.case
    settings = PlanSettings(
        fleet=FLEET,
        mode="hubs",
        kept_share=1.0,
        clip_norm=CLIP_NORM,
        clamp=case.clamp,
        minimum=2,
        weight_cap=EXAMPLES,
    )
    return make_plan(
        settings,
        number=1,
        task=bytes(32),
        base=base,
        roster=fleet.roster.digest,
        dimension=case.dimension,
        cohort=case.names,
        offers={name: HubOffer(name, public, os.urandom(32)) for name, (_, public) in keys.items()},
        hubs=HUBS,
        now_ms=int(time.time() * 1000),
    )


def run_hubs(fleet: Fleet) -> Costs:
    """Run one round, make sure that its result is the mean, and return what it cost."""
    case = fleet.case
    keys = {name: new_sealing_key() for name in HUBS}
    plan = hubs_plan(fleet, keys, hashlib.sha256(b"base").digest())
    plan_bytes = encode_plan(plan)
    hubs = [Hub(fleet, plan, position, keys[name][0]) for position, name in enumerate(HUBS)]
    rng = np.random.default_rng(1)
    device_cpu_s, sent = [], []
    mean = np.zeros(case.dimension)
    for device in case.reporting:
        update, post, watch = case.update(device), fleet.post(device), Stopwatch()
        with watch.running():
            own, digest = decode_plan(plan_bytes), plan_hash(plan_bytes)
            shared = ring_shares(update, EXAMPLES, own, digest, device, rng)
            report = sign_report(post.identity, own, digest, seal_shares(shared, own, digest, device))
            frames = {
                hub: [
                    post.encode(post.topics.report(hub, device), part)
                    for part in report_messages(post, own.round, report.parts[hub])
                ]
                for hub in HUBS
            }
        device_cpu_s.append(watch.cpu_s)
        sent.append(sum(len(frame) for parts in frames.values() for frame in parts))
        for hub in hubs:
            hub.take(device, frames[hub.name])
        mean += update
    set_digest = hashlib.sha256(b"set").digest()
    sums = {hub.name: hub.release(set_digest) for hub in hubs}
    base = vector_bytes(np.zeros(case.dimension, dtype=np.float32))
    coordinator = Stopwatch()
    private = fleet.identities[COORDINATOR].sealing_private()
    with coordinator.running():
        candidate = aggregate_sums(plan, plan_hash(plan_bytes), base, set_digest, sums, private)
    error = np.abs(vector_of(candidate.data) - mean / len(case.reporting)).max()
    if not error <= 1 / ring_spec(plan).levels_per_unit:
        raise SystemExit(f"the hubs' round does not add up: off by {error}")
    parties = {hub.name: hub.watch.cpu_s for hub in hubs} | {COORDINATOR: coordinator.cpu_s}
    return Costs(device_cpu_s, parties, int(median(sent)))
