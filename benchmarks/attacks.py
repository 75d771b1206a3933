"""What attacks find: an input from a gradient, a device from two sums, a member from a model.

    python benchmarks/attacks.py --json benchmarks/results/attacks.json

Figures for the documentation; ``tests/unit/test_attacks.py`` holds their order and their bounds.
"""

import argparse
from pathlib import Path

import numpy as np
from attack_inversion import as_hub_share, as_int8, as_masked, cosine, differenced, inverted, update_of
from attack_membership import EPOCHS, MEMBERS, NOISY_LABELS, SIGMAS, membership_auc
from output import Figure, write

from shoal_codecs.privacy.examples import example_charge
from shoal_codecs.wire.plan import TrainingPlan
from shoal_codecs.wire.task import TaskBundle, decode_task
from shoal_coordinator.config import shipped
from shoal_edge.data import Examples, load_shard
from shoal_edge.trainers.litert import LiteRtTrainer

PAIRS = 5
SHARD = 40


def inversion(trainer: LiteRtTrainer, bundle: TaskBundle, field: Examples, count: int) -> list[Figure]:
    """Return |cosine| between an example and what the first layer's update tells of it."""
    rng, base = np.random.default_rng(1), trainer.initial_weights()
    seen: dict[str, list[float]] = {}
    for n in range(count):
        example = Examples(field.x[n : n + 1], field.y[n : n + 1])
        update = update_of(trainer, base, example, rng)
        views = {
            "clear": update,
            "int8": as_int8(update, rng),
            "hub_1_share": as_hub_share(update, 0, rng),
            "hub_2_share": as_hub_share(update, 1, rng),
            "single_masked": as_masked(update, PAIRS, rng),
        }
        for name, view in views.items():
            seen.setdefault(name, []).append(abs(cosine(inverted(view, bundle), example.x)))
    return [Figure(f"inversion.{name}", [float(np.mean(found))], "|cosine|") for name, found in seen.items()]


def differencing(trainer: LiteRtTrainer, field: Examples, runs: int) -> list[Figure]:
    """Return the cosine between a device's update and two sums' difference, without DP."""
    rng, base = np.random.default_rng(2), trainer.initial_weights()
    figures = []
    for devices in (5, 10, 20):
        starts = range(0, devices * SHARD, SHARD)
        shards = [
            Examples(field.x[start : start + SHARD], field.y[start : start + SHARD]) for start in starts
        ]
        found = [differenced(trainer, base, shards, rng) for _ in range(runs)]
        figures.append(Figure(f"differencing.{devices}_devices", found, "cosine"))
    return figures


def membership(trainer: LiteRtTrainer, bundle: TaskBundle, field: Examples, runs: int) -> list[Figure]:
    """Return the AUC of membership inference, and what the noise promises an example."""
    figures = []
    for sigma in SIGMAS:
        found = [membership_auc(trainer, field, len(bundle.labels), sigma, seed) for seed in range(runs)]
        name = f"sigma_{sigma:g}" if sigma else "no_noise"
        figures.append(Figure(f"membership.{name}", found, "AUC"))
        if sigma:
            price = example_charge(TrainingPlan(EPOCHS, 0.1, 16, 1.0, sigma)).epsilon(1e-5)
            figures.append(Figure(f"membership.{name}.epsilon", [price], "epsilon"))
    return figures


def main() -> None:
    """Attack and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--runs", type=int, default=5, help="models attacked in a row (default %(default)s)")
    parser.add_argument("--inversions", type=int, default=200, help="updates inverted (default %(default)s)")
    options = parser.parse_args()
    bundle = decode_task(shipped("digits.task").read_bytes())
    field = load_shard(shipped("digits.npz"), bundle.input, len(bundle.labels))
    trainer = LiteRtTrainer(bundle)
    figures = [
        *inversion(trainer, bundle, field, options.inversions),
        *differencing(trainer, field, options.runs),
        *membership(trainer, bundle, field, options.runs),
    ]
    settings = {
        "task": bundle.name,
        "members": MEMBERS,
        "noisy_labels": NOISY_LABELS,
        "epochs": EPOCHS,
        "runs": options.runs,
        "inversions": options.inversions,
        "delta": 1e-5,
    }
    write("attacks", settings, figures, options.json)


if __name__ == "__main__":
    main()
