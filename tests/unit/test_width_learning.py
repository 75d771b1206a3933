"""Devices that train models of different widths make one model: real trainers, reports and averaging."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_parts import make_fleet, make_plan
from shoal_codecs.secagg.additive import combine
from shoal_codecs.secagg.prg import expand
from shoal_codecs.security.sealing import unseal
from shoal_codecs.updates.base import kept_for
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import decode_sum, ring_bits_for, unpack_ring
from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.packing import unpack_plain
from shoal_codecs.wire.plan import CodecPlan, Plan, TrainingPlan, encode_plan, plan_hash
from shoal_codecs.wire.report import share_context
from shoal_codecs.wire.task import decode_task, initial_weights
from shoal_coordinator.aggregation import aggregate_reports, vector_bytes
from shoal_coordinator.config import shipped
from shoal_edge.errors import WiderModelError
from shoal_edge.jobs.registry import job
from shoal_edge.jobs.state import WorkerState
from shoal_edge.trainers.litert import LiteRtTrainer

TASK_PATH = Path(__file__).parents[1] / "tasks" / "digits_widths.task"
TASK_BYTES = TASK_PATH.read_bytes()
TASK = decode_task(TASK_BYTES)
LEVELS = ModelLevels(TASK)
DEVICES = 6
FLEET = make_fleet(devices=DEVICES)
NAMES = FLEET.roster.names("device")
PERCENTS = (100, 100, 50, 50, 25, 25)


class Boards:
    """Six devices of three sizes, each with its own digits; the rest of the digits judge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A worker holds one model at a time: one worker a size, as one board has one size.
        self.states = {percent: WorkerState() for percent in PERCENTS}
        with np.load(shipped("digits.npz")) as digits:
            order = np.random.default_rng(0).permutation(len(digits["y"]))
            x, y = digits["x"][order], digits["y"][order]
        np.savez(folder / "judge.npz", x=x[:400], y=y[:400])
        for name, part in zip(NAMES, np.array_split(np.arange(400, len(y)), DEVICES), strict=True):
            np.savez(folder / f"{name}.npz", x=x[part], y=y[part])

    def common(self, name: str, vector: bytes) -> dict[str, Any]:
        (self.folder / "vector").write_bytes(vector)
        return {
            "task": digest_of(TASK_BYTES),
            "task_path": str(TASK_PATH),
            "model_path": str(self.folder / "vector"),
            "data_path": str(self.folder / f"{name}.npz"),
            "own_path": str(self.folder / "own"),
            "should_stop": lambda: False,
        }

    def fit(self, name: str, plan: Plan, vector: bytes, percent: int) -> dict[str, Any]:
        return job(self.states[percent], "fit_and_report")(
            **self.common(name, vector),
            plan=encode_plan(plan),
            source_path="",
            device=name,
            residual_path=str(self.folder / f"{name}.residual"),
            residual_next_path=str(self.folder / f"{name}.next"),
            own_next_path=str(self.folder / "own.next"),
            percent=percent,
            preview=False,
        )

    def accuracy(self, vector: bytes, level: int = 0) -> float:
        weights, cut = np.frombuffer(vector, "<f4").astype(np.float32), LEVELS.slice_of(level)
        trainer = LiteRtTrainer(LEVELS.bundle_of(level))
        trainer.set_weights(weights if cut is None else cut.cut(weights))
        with np.load(self.folder / "judge.npz") as judge:
            return trainer.evaluate(judge["x"], judge["y"].astype(np.int32)).accuracy


def plan_for(vector: bytes, variants: bytes, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "mode": "plain",
        "task": digest_of(TASK_BYTES),
        "codec": CodecPlan("int8", TASK.dimension, TASK.dimension, 100.0, 127, 0, 1000),
        "training": TrainingPlan(4, 0.1, 16),
        "variants": variants,
        "n_max": DEVICES,
    }
    return make_plan(FLEET, digest_of(vector), **(fields | changes))


def opened(answer: dict[str, Any], plan: Plan, name: str, hub: str, place: int = 0) -> bytes:
    context = share_context(plan_hash(encode_plan(plan)), name, hub)
    return unseal(FLEET.keys[hub][0], answer["ciphertexts"][place], context)


def learned(boards: Boards, percents: tuple[int, ...], rounds: int = 6) -> bytes:
    vector = vector_bytes(initial_weights(TASK.parameters, 1))
    variants = bytes(LEVELS.level_for(percent) or 0 for percent in percents)
    for _ in range(rounds):
        plan = plan_for(vector, variants if any(variants) else b"")
        shares = {
            name: opened(boards.fit(name, plan, vector, percent), plan, name, "coordinator")
            for name, percent in zip(NAMES, percents, strict=True)
        }
        vector = aggregate_reports(plan, vector, shares, levels=LEVELS).data
    return vector


def test_mixed_widths_learn_as_well_as_full_ones(tmp_path: Path, repeatable: None) -> None:
    """Thirty orders of examples gave .96 to .97, .95 to .97, .84 to .97 and .37 to .39; another one .90."""
    boards = Boards(tmp_path)
    full, mixed = learned(boards, (100,) * DEVICES), learned(boards, PERCENTS, 12)
    assert boards.accuracy(full) > 0.9
    assert boards.accuracy(mixed) > boards.accuracy(full) - 0.04
    # And the quarter that the smallest board holds is a model too, which it is not where nobody trains it.
    assert boards.accuracy(mixed, 2) > 0.75
    assert boards.accuracy(full, 2) < 0.6


def test_a_narrow_report_is_short_and_full_of_its_own_coordinates(tmp_path: Path) -> None:
    boards, vector = Boards(tmp_path), vector_bytes(initial_weights(TASK.parameters, 1))
    plan = plan_for(vector, bytes([0, 0, 1, 1, 2, 2]))
    sizes = [
        len(unpack_plain(opened(boards.fit(name, plan, vector, percent), plan, name, "coordinator"))[1])
        for name, percent in zip(NAMES[::2], PERCENTS[::2], strict=True)
    ]
    dimensions = [TASK.dimension, *(one.dimension for one in TASK.variants)]
    # One byte a coordinate and a scale for every 256.
    assert sizes == [size + 4 * -(-size // 256) for size in dimensions]
    with pytest.raises(WiderModelError):
        boards.fit(NAMES[0], plan, vector, 50)


def test_unseen_updates_of_one_width_are_added_up_in_the_full_model_s_place(tmp_path: Path) -> None:
    boards, vector = Boards(tmp_path), vector_bytes(initial_weights(TASK.parameters, 1))
    kept = kept_for(TASK.dimension, 1.0)
    about = CodecPlan("randk", TASK.dimension, kept, 8.0, 127, ring_bits_for(DEVICES, 127), 150)
    plan = plan_for(
        vector, bytes([2] * DEVICES), mode="hubs", codec=about, hubs=make_plan(FLEET, b"b" * 32).hubs
    )
    answer = boards.fit(NAMES[0], plan, vector, 25)
    spec, digest = ring_spec(plan), plan_hash(encode_plan(plan))
    first = unpack_ring(opened(answer, plan, NAMES[0], "hub-1"), spec.words, spec.ring_bits)
    seed = opened(answer, plan, NAMES[0], "hub-2", 1)
    second = expand(seed, digest, NAMES[0], 2, spec.words, spec.ring_bits)
    total = decode_sum(combine([first, second], spec.ring_bits), spec)
    cut = LEVELS.slice_of(2)
    assert cut is not None
    moved = np.zeros(TASK.dimension, bool)
    moved[spec.coordinates[np.flatnonzero(total.q)]] = True
    assert 0 < moved.sum() <= cut.dimension
    assert not np.delete(moved, cut.positions).any()
