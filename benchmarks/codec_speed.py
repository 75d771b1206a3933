"""Encode and decode throughput of every codec at 1M and 10M parameters, beside a memory copy.

python benchmarks/codecs.py --json benchmarks/results/codecs.json

GB/s are of the float32 update (4 bytes a parameter), whatever a codec reads of it; the peer is a copy of the
same vector in the same process. The time is CPU time, for the machines are shared; wall time is beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from output import Figure, write

from shoal_codecs.updates.base import EncodeContext, kept_for
from shoal_codecs.updates.levels import pack_levels, unpack_levels
from shoal_codecs.updates.registry import CODECS, SPARSE
from shoal_codecs.updates.ring import (
    RingSpec,
    decode_sum,
    encode_ring,
    pack_ring,
    ring_bits_for,
    unpack_ring,
)
from shoal_codecs.updates.selection import largest
from shoal_codecs.updates.step import quantise

SIZES = {"1M": 1_000_000, "10M": 10_000_000}
SEED = bytes(range(32))
DEVICES = 100
RINGS = {
    "ring dense int8": (1.0, 127, 6.0, False),
    "ring dense int4": (1.0, 7, 3.0, False),
    "ring randk 10 % int8": (0.1, 127, 6.0, False),
    "ring randk 10 % int4": (0.1, 7, 3.0, False),
    "ring global_topk 10 % int8": (0.1, 127, 6.0, True),
}
Work = Callable[[], object]


def timed(work: Work, repeats: int) -> tuple[list[float], list[float]]:
    """Return (CPU seconds, wall seconds) of each run, the first one left out: it warms the caches."""
    cpu, wall = [], []
    for _ in range(repeats + 1):
        began, began_wall = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - began)
        wall.append(time.perf_counter() - began_wall)
    return cpu[1:], wall[1:]


def plain(name: str, vector: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Work, Work, int]:
    """Return encoding and decoding with a codec for updates in clear, and the payload's bytes."""
    one = CODECS[name]
    kept = kept_for(vector.size, 0.01 if one.error_feedback else 0.1) if name in SPARSE else vector.size
    context = EncodeContext(vector.size, kept, seed=SEED, rng=np.random.default_rng(2))
    payload = one.encode(vector, context).payload
    return (
        lambda: one.encode(vector, context),
        lambda: one.decode(payload, context),
        len(payload),
    )


def ring(name: str, vector: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Work, Work, int]:
    """Return encoding to packed ring words and reading a packed sum, both with their coordinates drawn."""
    share, clamp, range_factor, led = RINGS[name]
    kept = kept_for(vector.size, share)
    leading = largest(np.abs(vector), kept // 2) if led else np.empty(0, np.int64)

    def spec() -> RingSpec:
        return RingSpec(
            vector.size, kept, 8.0, clamp, ring_bits_for(DEVICES, clamp), DEVICES, 150, SEED, range_factor,
            leading=leading,
        )  # fmt: skip

    def encode() -> bytes:
        made = spec()
        return pack_ring(encode_ring(vector, 100, made, np.random.default_rng(2)), made.ring_bits)

    payload, made = encode(), spec()
    return (
        encode,
        lambda: decode_sum(unpack_ring(payload, made.words, made.ring_bits), spec()),
        len(payload),
    )


def step(vector: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Work, Work, int]:
    """Return coding and reading the step down."""
    quantised = quantise(vector.astype(np.float64), 0.5)
    payload = pack_levels(quantised.q)
    return (
        lambda: pack_levels(quantise(vector.astype(np.float64), 0.5).q),
        lambda: unpack_levels(payload, vector.size),
        len(payload),
    )


def measure(size: str, repeats: int, only: list[str]) -> list[Figure]:
    """Return the figures of every codec for one size of vector."""
    vector = np.random.default_rng(1).normal(scale=0.01, size=SIZES[size]).astype(np.float32)
    target, gigabytes = np.empty_like(vector), vector.nbytes / 1e9
    cpu, _ = timed(lambda: np.copyto(target, vector), 3 * repeats)
    copies = [gigabytes / one for one in cpu]
    found = [Figure(f"{size}.copy", copies, "GB/s")]
    peer = found[0].value
    for name in (*CODECS, *RINGS, "step down"):
        if only and not name.startswith(tuple(only)):
            continue
        made = step(vector) if name == "step down" else (ring if name in RINGS else plain)(name, vector)
        *works, payload = made
        key = f"{size}.{name.replace(' % ', '_').replace(' ', '_')}"
        for what, work in zip(("encode", "decode"), works, strict=True):
            cpu, wall = timed(work, repeats)
            speeds = [round(gigabytes / one, 4) for one in cpu]
            found += [
                Figure(f"{key}.{what}", speeds, "GB/s", "a memory copy of the vector", peer),
                Figure(f"{key}.{what}_cpu_s", [round(one, 5) for one in cpu], "CPU-s"),
                Figure(f"{key}.{what}_wall_s", [round(one, 5) for one in wall], "s"),
            ]
        found.append(Figure(f"{key}.bytes", [float(payload)], "bytes", "fp32", float(vector.nbytes)))
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--codecs", nargs="+", default=[], help="only those that begin with one of these")
    given = parser.parse_args()
    figures = [one for size in given.sizes for one in measure(size, given.repeats, given.codecs)]
    settings = {"repeats": given.repeats, "devices": DEVICES, "topk_share": 0.01, "randk_share": 0.1}
    write("codecs", settings, figures, given.json)


if __name__ == "__main__":
    main()
