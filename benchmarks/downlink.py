"""Bytes down per device and round once a fleet is in its stride, at a million parameters, and what they cost.

    python benchmarks/downlink.py --json benchmarks/results/downlink.json

Real updates: ten devices train a multilayer perceptron of 994,570 parameters on the digits, split by
Dirichlet(0.3), in numpy (``digits_mlp``); codecs, plans, sums and steps are the fleet's own code. Devices
hold the base, as they do in steady state, so that what comes down is the step, inside the offer or as a blob
with its topics and acknowledgements. Beside each codec runs the same training with the mean applied
unrounded: the whole model down, fp32. The last five rounds count, for bytes and for accuracy.
"""

import argparse
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# Threads that wait for each other cost more than they win where the machine is shared.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from digits_mlp import Examples, Perceptron, Vector, shards
from output import Figure, write

from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.security.identity import Identity, sealing_public_of
from shoal_codecs.security.sealing import seal
from shoal_codecs.updates.base import EncodeContext
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.levels import pack_levels
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import encode_ring, pack_ring
from shoal_codecs.updates.step import quantise
from shoal_codecs.wire.blob import BlobRef, describe, digest_of
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import HubOffer, Plan, coordinate_seed, encode_plan, plan_hash
from shoal_coordinator.aggregation import Server, aggregate_reports, aggregate_sums, vector_bytes, vector_of
from shoal_coordinator.chains import MAX_INLINE_STEP_BYTES, transfer_bytes
from shoal_coordinator.planning import PlanSettings, make_plan

WIDTHS = (64, 960, 960, 10)
DEVICES = 10
LAST = 5
EPOCHS, LEARNING_RATE, BATCH = 2, 0.1, 32
# So fine that the step is the mean for all that float32 can tell.
UNROUNDED = 1e-4
COORDINATOR = Identity("coordinator", b"c" * 32)
HUBS = ("hub-1", "hub-2")


@dataclass(frozen=True)
class Way:
    """One way of updates up: the mode and codec of the plan."""

    name: str
    mode: Literal["hubs", "plain"]
    codec: str
    kept_share: float = 1.0


PATHS = (
    Way("dense", "plain", "dense"),
    Way("int4", "plain", "int4"),
    Way("topk_1_percent", "plain", "topk", 0.01),
    Way("hubs_randk_10_percent", "hubs", "randk", 0.1),
)


@dataclass
class Course:
    """What a training came to: by round, the bytes down per device and the accuracy on held-out examples."""

    down: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    mean: Vector = field(default_factory=lambda: np.zeros(1, np.float32))


def plan_of(path: Way, base: Vector, number: int) -> Plan:
    """Return the plan of a round; the coordinates are drawn anew each time."""
    hubs = HUBS if path.mode == "hubs" else ("coordinator",)
    settings = PlanSettings(
        fleet="bench", mode=path.mode, codec=path.codec, kept_share=path.kept_share, clip_norm=8.0
    )
    nonce = number.to_bytes(32, "big")
    return make_plan(
        settings,
        number=number,
        task=b"t" * 32,
        base=digest_of(vector_bytes(base)),
        roster=b"r" * 32,
        dimension=base.size,
        cohort=[f"device-{place}" for place in range(DEVICES)],
        offers={hub: HubOffer(hub, b"k" * 32, nonce) for hub in hubs},
        hubs=hubs,
        now_ms=10**12,
    )


class Fleet:
    """Ten devices and what they left out last time."""

    def __init__(self, path: Way, seed: int) -> None:
        self.path, self.model = path, Perceptron(WIDTHS)
        self.rng = np.random.default_rng(seed)
        self.shards, self.held_out = shards(DEVICES, seed)
        self.residuals: list[Vector | None] = [None] * DEVICES

    def updates(self, base: Vector) -> list[tuple[Vector, Examples]]:
        """Train every device on ``base``."""
        options = {"epochs": EPOCHS, "learning_rate": LEARNING_RATE, "batch_size": BATCH}
        return [(self.model.update(base, own, self.rng, **options), own) for own in self.shards]  # type: ignore[arg-type]

    def round(self, base: Vector, number: int, server: Server) -> tuple[Vector, bytes]:
        """Run one round; return the next version and the encoded step to it."""
        plan, data = plan_of(self.path, base, number), vector_bytes(base)
        if plan.mode == "plain":
            shares = {f"device-{place}": one for place, one in enumerate(self.clear(plan, base))}
            candidate = aggregate_reports(plan, data, shares, server)
        else:
            digest = plan_hash(encode_plan(plan))
            sums = self.summed(plan, base, digest)
            private = COORDINATOR.sealing_private()
            candidate = aggregate_sums(plan, digest, data, b"s" * 32, sums, private, server, b"", DEVICES)
        return vector_of(candidate.data), candidate.step

    def clear(self, plan: Plan, base: Vector) -> list[bytes]:
        """Return every device's share in clear, as mode ``plain`` sends it."""
        shares, own = [], codec(plan.codec.name)
        for place, (update, (_, labels)) in enumerate(self.updates(base)):
            norm = float(np.linalg.norm(update))
            bounded = update * np.float32(min(1.0, plan.codec.clip_norm / norm))
            context = EncodeContext(
                dimension=base.size,
                kept=plan.codec.kept,
                seed=coordinate_seed(plan),
                rng=self.rng,
                residual=self.residuals[place],
            )
            encoded = own.encode(bounded, context)
            self.residuals[place] = encoded.residual
            shares.append(pack([len(labels), encoded.payload]))
        return shares

    def summed(self, plan: Plan, base: Vector, digest: bytes) -> dict[str, bytes]:
        """Return both hubs' sums: what is shared adds up exactly, so that one may as well hold it all."""
        spec = ring_spec(plan)
        words = [encode_ring(update, len(own[1]), spec, self.rng) for update, own in self.updates(base)]
        total: Words = np.zeros_like(words[0], dtype=np.uint64)
        for one in words:
            total += one
        total &= np.uint64((1 << spec.ring_bits) - 1)
        key = sealing_public_of(COORDINATOR.public)
        held: dict[str, Words] = {"hub-1": total.astype(words[0].dtype), "hub-2": np.zeros_like(words[0])}
        return {
            hub: seal(key, pack_ring(one, spec.ring_bits), sum_context(digest, b"s" * 32, hub))
            for hub, one in held.items()
        }


def down_bytes(step: bytes, whole: BlobRef) -> int:
    """Return what one device receives for a version whose parent it holds."""
    if not step:
        return transfer_bytes(whole)
    return len(step) if len(step) <= MAX_INLINE_STEP_BYTES else transfer_bytes(describe(step))


def course(path: Way, rounds: int, seed: int, level_rms: float) -> Course:
    """Train for ``rounds``; one level of the step down is ``level_rms`` root mean squares."""
    fleet, found = Fleet(path, seed), Course()
    base = fleet.model.initial(np.random.default_rng(seed))
    whole = describe(vector_bytes(base))
    for number in range(1, rounds + 1):
        began = time.process_time()
        following, step = fleet.round(base, number, Server(level_rms=level_rms))
        found.seconds.append(time.process_time() - began)
        found.mean, base = following - base, following
        found.down.append(down_bytes(step, whole))
        found.accuracy.append(fleet.model.accuracy(base, fleet.held_out))
    return found


def coding_figures(mean: Vector) -> list[Figure]:
    """Show what the level and the entropy coder do to one dense mean update."""
    figures = []
    size = 4 * mean.size
    for level in (0.25, 0.5, 1.0):
        q = quantise(mean.astype(np.float64), level).q
        folded = ((q << 1) ^ (q >> 31)).clip(0, 255).astype(np.uint8).tobytes()
        ways: dict[str, Callable[[], int]] = {
            "levels": lambda q=q: len(pack_levels(q)),  # type: ignore[misc]
            "zlib": lambda folded=folded: len(zlib.compress(folded, 6)),  # type: ignore[misc]
        }
        for name, way in ways.items():
            share = 100 * way() / size
            figures.append(Figure(f"coding.{name}.level_{level}", [round(share, 3)], "% of fp32"))
    return figures


def main() -> None:
    """Run every path with and without rounding down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--level", type=float, default=Server().level_rms)
    options = parser.parse_args()
    dimension = Perceptron(WIDTHS).dimension
    whole = transfer_bytes(describe(bytes(4 * dimension)))
    seeds = range(1, options.seeds + 1)
    figures: list[Figure] = []
    coding: list[Figure] = []
    for path in PATHS:
        rounded = [course(path, options.rounds, seed, options.level) for seed in seeds]
        exact = [course(path, options.rounds, seed, UNROUNDED) for seed in seeds]
        down = [float(np.mean(one.down[-LAST:])) for one in rounded]
        accuracy = [float(np.mean(one.accuracy[-LAST:])) for one in rounded]
        plain = float(np.median([np.mean(one.accuracy[-LAST:]) for one in exact]))
        figures += [
            Figure(f"{path.name}.down_bytes", down, "bytes", "the whole model as fp32", float(whole)),
            Figure(f"{path.name}.round_cpu_s", [float(np.median(one.seconds)) for one in rounded], "s"),
            Figure(f"{path.name}.accuracy", accuracy, "share", "the mean applied unrounded", plain),
        ]
        print(path.name, down, accuracy, plain, flush=True)
        if path.name == "dense":
            coding = coding_figures(exact[0].mean)
    settings = {
        "parameters": dimension,
        "widths": WIDTHS,
        "devices": DEVICES,
        "rounds": options.rounds,
        "counted_rounds": LAST,
        "level_rms": options.level,
        "data": "digits, Dirichlet(0.3), numpy SGD: 2 epochs, learning rate 0.1, batch 32",
    }
    write("downlink", settings, figures + coding, options.json)


if __name__ == "__main__":
    main()
