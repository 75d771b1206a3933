"""Federated rounds on the digits in one process: the real trainer, codecs, rings and aggregation, no broker.

What is left out is exact: splitting an update into shares and adding the hubs' sums gives the sum of the
updates (tested), so that one hub's sum here holds everything and the other's is zero.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal_codecs.partition import dirichlet_split
from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.security.identity import Identity, sealing_public_of
from shoal_codecs.security.sealing import seal
from shoal_codecs.updates.base import Float32Vector
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import encode_ring, pack_ring
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.plan import HubOffer, Plan, encode_plan, plan_hash
from shoal_codecs.wire.report import SHARE_SEED_BYTES
from shoal_codecs.wire.task import decode_task, initial_weights
from shoal_coordinator.aggregation import (
    DEFAULT_SERVER,
    Candidate,
    aggregate_reports,
    aggregate_sums,
    vector_bytes,
    vector_of,
)
from shoal_coordinator.config import shipped
from shoal_coordinator.planning import PlanSettings, make_plan
from shoal_edge.data import Examples, split_held_out
from shoal_edge.shares import clear_share
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

HUBS = ("hub-1", "hub-2")
_SET = bytes(32)


@dataclass(frozen=True)
class Row:
    """One round: held-out accuracy after it, mean bytes up of a device, bytes down to one that keeps up."""

    accuracy: float
    up_bytes: float
    down_bytes: int


class Field:
    """`devices` devices whose labels differ by Dirichlet(0.3), and one trainer that stands in for all."""

    def __init__(self, devices: int, seed: int) -> None:
        self.names = [f"device-{number:03}" for number in range(1, devices + 1)]
        self.seed = seed
        task = shipped("digits.task").read_bytes()
        self._task_digest = digest_of(task)
        bundle = decode_task(task)
        self._parameters = bundle.parameters
        self._trainer = LiteRtTrainer(bundle)
        with np.load(shipped("digits.npz")) as digits:
            x, y = digits["x"], digits["y"].astype(np.int32)
        split = dirichlet_split(y, devices, 0.3, np.random.default_rng(seed))
        shards = [split_held_out(Examples(x[one], y[one])) for one in split]
        self._train = dict(zip(self.names, (train for train, _ in shards), strict=True))
        self._held_out = Examples(
            np.concatenate([held.x for _, held in shards]), np.concatenate([held.y for _, held in shards])
        )
        self._coordinator = Identity("coordinator", bytes([7]) * 32)

    def rounds(self, settings: PlanSettings, count: int) -> Iterator[Row]:
        """Train `count` rounds from the task's initial weights and yield what each came to."""
        rng = np.random.default_rng([self.seed, 1])
        base = vector_bytes(initial_weights(self._parameters, self.seed))
        source = b""
        with tempfile.TemporaryDirectory() as folder:
            for number in range(1, count + 1):
                plan = self._plan(settings, number, base, source, rng)
                candidate, up_bytes = self._round(plan, base, source, rng, Path(folder))
                base, source = candidate.data, candidate.step
                yield Row(self._accuracy(base), up_bytes, len(candidate.step) or len(base))

    def _plan(
        self, settings: PlanSettings, number: int, base: bytes, source: bytes, rng: np.random.Generator
    ) -> Plan:
        hubs = HUBS if settings.mode == "hubs" else (self._coordinator.name,)
        return make_plan(
            settings,
            number=number,
            task=self._task_digest,
            base=digest_of(base),
            roster=bytes(32),
            dimension=len(base) // 4,
            cohort=self.names,
            offers={hub: HubOffer(hub, bytes(32), rng.bytes(32)) for hub in hubs},
            hubs=hubs,
            now_ms=10**12,
            source=digest_of(source) if source else b"",
        )

    def _round(
        self, plan: Plan, base: bytes, source: bytes, rng: np.random.Generator, folder: Path
    ) -> tuple[Candidate, float]:
        updates = self._updates(plan, vector_of(base), rng)
        if plan.mode == "hubs":
            return self._shared(plan, base, source, updates, rng)
        shares = {}
        for name, update in updates:
            residual = folder / name
            count = len(self._train[name])
            (shares[name],) = clear_share(update, count, plan, rng, residual, residual).plaintexts
        return aggregate_reports(plan, base, shares), sum(map(len, shares.values())) / len(shares)

    def _shared(
        self,
        plan: Plan,
        base: bytes,
        source: bytes,
        updates: Iterator[tuple[str, Float32Vector]],
        rng: np.random.Generator,
    ) -> tuple[Candidate, float]:
        spec, digest = ring_spec(plan, source), plan_hash(encode_plan(plan))
        total: Words | None = None
        for name, update in updates:
            words = encode_ring(update, len(self._train[name]), spec, rng)
            total = words if total is None else total + words
        assert total is not None  # noqa: S101 - a plan has a cohort
        total &= total.dtype.type((1 << spec.ring_bits) - 1)
        parts = {"hub-1": pack_ring(total, spec.ring_bits), "hub-2": pack_ring(total * 0, spec.ring_bits)}
        key = sealing_public_of(self._coordinator.public)
        sums = {hub: seal(key, part, sum_context(digest, _SET, hub)) for hub, part in parts.items()}
        private = self._coordinator.sealing_private()
        candidate = aggregate_sums(plan, digest, base, _SET, sums, private, DEFAULT_SERVER, source)
        return candidate, len(parts["hub-1"]) + SHARE_SEED_BYTES

    def _updates(
        self, plan: Plan, base: Float32Vector, rng: np.random.Generator
    ) -> Iterator[tuple[str, Float32Vector]]:
        training = plan.training
        for name in plan.cohort:
            shard = self._train[name]
            self._trainer.set_weights(base)
            self._trainer.fit(
                shard.x,
                shard.y,
                FitOptions(
                    epochs=training.epochs,
                    learning_rate=training.learning_rate,
                    batch_size=training.batch_size,
                ),
                rng,
            )
            yield name, self._trainer.get_weights() - base

    def _accuracy(self, base: bytes) -> float:
        self._trainer.set_weights(vector_of(base))
        counts = self._trainer.evaluate(self._held_out.x, self._held_out.y)
        return counts.correct / counts.examples
