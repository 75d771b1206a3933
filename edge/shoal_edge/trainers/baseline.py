"""What one machine reaches with every device's data in one place: the centralised baseline.

    python -m shoal_edge.trainers.baseline --task digits.task --epochs 200 --seed 1 SHARD.npz ...

prints one line of JSON. Each shard is split as its device splits it, so the baseline trains and is
judged on exactly the examples the fleet trains and is judged on. It exists for comparison only: in
a fleet nobody may pool the data.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from shoal_codecs.errors import ShoalError
from shoal_codecs.wire.task import TaskBundle, decode_task
from shoal_edge.data import Examples, load_shard, split_held_out
from shoal_edge.trainers.base import EvaluationCounts, FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer


class Baseline(msgspec.Struct, frozen=True):
    """Counts on the pooled held-out parts, and the seconds it took to train."""

    accuracy: float
    counts: EvaluationCounts
    seconds: float


def pooled_baseline(
    bundle: TaskBundle,
    shards: Sequence[Examples],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> Baseline:
    """Train on the pooled training parts of ``shards``, count on their pooled held-out parts.

    Raises:
        DataError, UnusableModelError, NonFiniteLossError: as the trainer raises them.
    """
    started = time.perf_counter()
    halves = [split_held_out(shard) for shard in shards]
    train = _pooled([half[0] for half in halves])
    held_out = _pooled([half[1] for half in halves])
    trainer = LiteRtTrainer(bundle)
    trainer.fit(
        train.x,
        train.y,
        FitOptions(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size),
        np.random.default_rng(seed),
    )
    counts = trainer.evaluate(held_out.x, held_out.y)
    return Baseline(counts.accuracy, counts, time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the baseline of the shards named on the command line as JSON; 1 on a named fault."""
    parser = argparse.ArgumentParser(prog="python -m shoal_edge.trainers.baseline")
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-on-stdin-eof", action="store_true", help="end when the parent ends")
    parser.add_argument("shards", type=Path, nargs="+", metavar="SHARD.npz")
    options = parser.parse_args(arguments)
    if options.stop_on_stdin_eof:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        bundle = decode_task(options.task.read_bytes(), options.task)
        baseline = pooled_baseline(
            bundle,
            [load_shard(path, bundle.input, len(bundle.labels), minimum=1) for path in options.shards],
            epochs=options.epochs,
            learning_rate=options.learning_rate or bundle.defaults.learning_rate,
            batch_size=options.batch_size or bundle.defaults.batch_size,
            seed=options.seed,
        )
    except (ShoalError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(baseline) + b"\n")
    return 0


def _end_with_parent() -> None:
    """End the process when standard input does; training holds the main thread and would not look."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _pooled(parts: Sequence[Examples]) -> Examples:
    return Examples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


if __name__ == "__main__":
    sys.exit(main())
