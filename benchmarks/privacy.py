"""What privacy costs in accuracy: the digits learned by fleets of 10 to 300 devices under epsilon 8.

Every round is made by Shoal's own plan, encoder, ring and step, all devices take part in each, and the noise
is the one that the budget asks for. ``python benchmarks/privacy.py --json benchmarks/results/privacy.json``
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from output import Figure, write

from shoal_codecs.partition import dirichlet_split
from shoal_codecs.privacy.charge import charge_of
from shoal_codecs.privacy.plan_noise import device_variance
from shoal_codecs.updates.bitpack import word_dtype
from shoal_codecs.updates.plain_noise import noised_mean
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import decode_sum, encode_ring, told_by
from shoal_codecs.updates.ring_extras import DeviceMetrics, RoundTold
from shoal_codecs.updates.step import apply_step, step_from_sum
from shoal_codecs.wire.plan import HubOffer, Plan
from shoal_codecs.wire.task import decode_task, initial_weights
from shoal_coordinator.config import PrivacySettings, shipped
from shoal_coordinator.plain_reports import open_update
from shoal_coordinator.planning import PlanSettings, make_plan
from shoal_coordinator.privacy_terms import make_terms
from shoal_edge.shares import clear_share
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

Vector = npt.NDArray[np.float32]
FLEETS = (10, 30, 50, 100, 300)
HELD_OUT = 0.2
SENT = {"kept_share": 0.2, "clip_norm": 1.0}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: ``mechanism`` "none" is the same without noise; ``kept_share`` 1 sends everything."""

    devices: int
    mechanism: Any = "auto"
    mode: Any = "hubs"
    epsilon: float = 8.0
    rounds: int = 50
    kept_share: float = 0.05
    clip_norm: float = 4.0
    adaptive: bool = False
    metrics: bool = False
    epochs: int = 5
    learning_rate: float = 0.2
    server_lr: float = 1.0
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``accuracy`` on held-out examples, what a device spent, and what the last round told."""

    accuracy: float
    epsilon: float
    clip_norm: float
    told: RoundTold


class Digits:
    """The digits, a fifth held out, the rest split among devices by Dirichlet(0.3)."""

    def __init__(self, devices: int, seed: int) -> None:
        with np.load(shipped("digits.npz")) as data:
            x, y = data["x"], data["y"]
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(y))
        held = int(HELD_OUT * len(y))
        self.test = x[order[:held]], y[order[:held]].astype(np.int32)
        train = order[held:]
        split = dirichlet_split(y[train], devices, 0.3, rng)
        self.shards = [(x[train[part]], y[train[part]].astype(np.int32)) for part in split]


def settings_of(trial: Trial, clip_norm: float) -> PlanSettings:
    """Return the settings of every plan of ``trial``."""
    privacy = (
        PrivacySettings()
        if trial.mechanism == "none"
        else PrivacySettings(
            mechanism=trial.mechanism,
            epsilon=trial.epsilon,
            rounds=trial.rounds,
            adaptive_clip=trial.adaptive,
            metrics=trial.metrics,
            allow_small_fleet=True,
        )
    )
    return PlanSettings(
        fleet="bench",
        mode=trial.mode,
        codec="randk" if trial.kept_share < 1 or trial.mode == "hubs" else "dense",
        kept_share=trial.kept_share,
        clip_norm=clip_norm,
        epochs=trial.epochs,
        learning_rate=trial.learning_rate,
        privacy=make_terms(privacy, trial.mode, trial.devices, trial.devices),
    )


def run(trial: Trial) -> Outcome:
    """Train; every device takes part in every round."""
    task = decode_task(shipped("digits.task").read_bytes())
    trainer, digits = LiteRtTrainer(task), Digits(trial.devices, trial.seed)
    model, clip_norm = initial_weights(task.parameters, trial.seed), trial.clip_norm
    names = [f"device-{n:03}" for n in range(trial.devices)]
    rng = np.random.default_rng(trial.seed)
    spent, told = None, RoundTold()
    for number in range(1, trial.rounds + 1):
        hubs = ("hub-1", "hub-2") if trial.mode == "hubs" else ("coordinator",)
        plan = make_plan(
            settings_of(trial, clip_norm),
            number=number,
            task=b"t" * 32,
            base=b"b" * 32,
            roster=b"r" * 32,
            dimension=task.dimension,
            cohort=names,
            offers={hub: HubOffer(hub, b"k" * 32, os.urandom(32)) for hub in hubs},
            hubs=hubs,
            now_ms=10**12,
        )
        updates = _Updates(trainer, digits, plan, model, rng)
        model, told = (_shared if trial.mode == "hubs" else _plain)(updates, trial.server_lr)
        if told.clipped is not None:
            clip_norm *= float(np.exp(-0.2 * (1 - told.clipped.value - 0.5)))
        if plan.privacy is not None:
            spent = charge_of(plan) if spent is None else spent + charge_of(plan)
    trainer.set_weights(model)
    delta = plan.privacy.delta if plan.privacy is not None else 1e-5
    return Outcome(
        accuracy=trainer.evaluate(*digits.test).accuracy,
        epsilon=spent.epsilon(delta) if spent is not None else float("inf"),
        clip_norm=clip_norm,
        told=told,
    )


class _Updates:
    """The updates of one round, made one after the other."""

    def __init__(
        self, trainer: LiteRtTrainer, digits: Digits, plan: Plan, model: Vector, rng: np.random.Generator
    ) -> None:
        self.trainer, self.digits, self.plan, self.model, self.rng = trainer, digits, plan, model, rng

    def __iter__(self) -> Any:
        training = self.plan.training
        for x, y in self.digits.shards:
            self.trainer.set_weights(self.model)
            counts = self.trainer.evaluate(x, y) if self.plan.privacy else None
            metrics = DeviceMetrics(counts.mean_loss, counts.accuracy) if counts else None
            self.trainer.fit(
                x,
                y,
                FitOptions(
                    epochs=training.epochs,
                    learning_rate=training.learning_rate,
                    batch_size=training.batch_size,
                ),
                self.rng,
            )
            yield self.trainer.get_weights() - self.model, len(y), metrics


def _shared(updates: _Updates, server_lr: float) -> tuple[Vector, RoundTold]:
    plan = updates.plan
    spec = ring_spec(plan)
    total = np.zeros(spec.words, np.uint64)
    for update, examples, metrics in updates:
        total += encode_ring(update, examples, spec, updates.rng, metrics)
    words = (total % (1 << spec.ring_bits)).astype(word_dtype(spec.ring_bits))
    found = decode_sum(words, spec)
    told = told_by(found, spec, len(plan.cohort)) if device_variance(plan) else RoundTold()
    step = step_from_sum(found, spec, server_lr)
    return apply_step(updates.model, spec.coordinates, step), told


def _plain(updates: _Updates, server_lr: float) -> tuple[Vector, RoundTold]:
    plan = updates.plan
    if plan.privacy is None:
        return _mean([(one, n) for one, n, _ in updates], updates.model, server_lr), RoundTold()
    nowhere = Path(os.devnull)
    shares = (clear_share(one, n, plan, updates.rng, nowhere, nowhere).plaintexts[0] for one, n, _ in updates)
    opened = (open_update(plan, share).update for share in shares)
    if plan.privacy.mechanism == "central":
        moved = noised_mean(opened, plan, updates.rng)
        return (updates.model + server_lr * moved).astype(np.float32), RoundTold()
    return _mean([(one, 1) for one in opened], updates.model, server_lr), RoundTold()


def _mean(updates: list[tuple[Vector, int]], model: Vector, server_lr: float) -> Vector:
    weights = np.array([n for _, n in updates], np.float64)
    mean = np.average([one for one, _ in updates], axis=0, weights=weights)
    return (model + server_lr * mean).astype(np.float32)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--runs", type=int, default=2, help="seeds for each row (default %(default)s)")
    options = parser.parse_args()
    hundred = {"devices": 100, **SENT}
    rows: dict[str, dict[str, Any]] = {
        **{f"hubs.n{n}": {"devices": n, **SENT} for n in FLEETS},
        "hubs.n100.no_noise": hundred | {"mechanism": "none", "clip_norm": 4.0},
        "hubs.n100.everything": hundred | {"kept_share": 1.0, "clip_norm": 0.5},
        "hubs.n100.adaptive": hundred | {"adaptive": True, "metrics": True},
        "plain.n100.central": hundred | {"mode": "plain", "mechanism": "central"},
        "plain.n100.local_gaussian": hundred | {"mode": "plain", "mechanism": "local-gaussian"},
        "plain.n100.local_laplace": hundred | {"mode": "plain", "mechanism": "local-laplace"},
    }
    figures = []
    began = time.process_time()
    for name, changes in rows.items():
        found = [run(Trial(seed=seed, **changes)) for seed in range(1, options.runs + 1)]
        figures.append(Figure(f"{name}.accuracy", [round(one.accuracy, 4) for one in found], "share"))
        print(f"{name}: {figures[-1].runs}", flush=True)
    figures.append(Figure("cpu", [round(time.process_time() - began, 1)], "s"))
    write("privacy", {"epsilon": 8, "rounds": 50, "corrupt_share": 0.2, **SENT}, figures, options.json)


if __name__ == "__main__":
    main()
