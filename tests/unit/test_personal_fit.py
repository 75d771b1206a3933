"""Tensors that stay on the device: through a fit, an evaluation and the first vector, in every mode."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edge_parts import TASK, TASK_BYTES, TASK_REF, codec_plan, make_fleet, make_plan, write_examples
from shoal_codecs.secagg.additive import combine
from shoal_codecs.secagg.prg import expand
from shoal_codecs.security.sealing import unseal
from shoal_codecs.updates.base import EncodeContext, to_dense
from shoal_codecs.updates.errors import LocalParameterError
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import decode_sum, unpack_ring
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.packing import unpack_plain
from shoal_codecs.wire.plan import Plan, TrainingPlan, encode_plan, plan_hash
from shoal_codecs.wire.report import share_context
from shoal_codecs.wire.step import encode_step, initial_step
from shoal_codecs.wire.task import initial_weights
from shoal_coordinator.config import CoordinatorSettings, RoundSettings
from shoal_coordinator.service import plan_settings
from shoal_edge.errors import ModelDimensionError
from shoal_edge.jobs.registry import job
from shoal_edge.jobs.state import WorkerState
from shoal_edge.own_tensors import read_own

FLEET = make_fleet()
DEVICE = "device-01"
HEAD = tuple(one.name for one in TASK.parameters[-2:])
PART = SharedPart(TASK.parameters, HEAD)
WEIGHTS = initial_weights(TASK.parameters, 7)


class Device:
    """A device's files, and the worker's requests made in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = WorkerState()
        (folder / "task").write_bytes(TASK_BYTES)
        write_examples(folder / "examples.npz")
        self.base = self.put("base", PART.of(WEIGHTS))

    def put(self, name: str, vector: np.ndarray[Any, Any]) -> bytes:
        data = vector.astype("<f4").tobytes()
        (self.folder / name).write_bytes(data)
        return digest_of(data)

    @property
    def of_task(self) -> dict[str, Any]:
        return {
            "task": TASK_REF.digest,
            "task_path": str(self.folder / "task"),
            "own_path": str(self.folder / "own"),
            "should_stop": lambda: False,
        }

    def fit(self, plan: Plan, **changes: Any) -> dict[str, Any]:
        return job(self.state, "fit_and_report")(
            **self.of_task,
            data_path=str(self.folder / "examples.npz"),
            model_path=str(self.folder / "base"),
            plan=encode_plan(plan),
            source_path="",
            device=DEVICE,
            residual_path=str(self.folder / "residual"),
            residual_next_path=str(self.folder / "residual.next"),
            own_next_path=str(self.folder / "own.next"),
            preview=False,
            **changes,
        )

    def evaluate(self, name: str = "base") -> dict[str, Any]:
        return job(self.state, "evaluate")(
            **self.of_task,
            model_path=str(self.folder / name),
            digest=digest_of((self.folder / name).read_bytes()),
            data_path=str(self.folder / "examples.npz"),
        )


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def plan_of(device: Device, mode: str = "plain", **changes: Any) -> Plan:
    codec_part = codec_plan(
        4, name="randk" if mode == "hubs" else "dense", dimension=PART.dimension, kept=PART.dimension
    )
    training = TrainingPlan(epochs=2, learning_rate=0.2, batch_size=16, local=HEAD)
    return make_plan(
        FLEET, device.base, **({"mode": mode, "codec": codec_part, "training": training} | changes)
    )


def opened(answer: dict[str, Any], plan: Plan, name: str, position: int = 0) -> bytes:
    context = share_context(plan_hash(encode_plan(plan)), DEVICE, name)
    return unseal(FLEET.keys[name][0], answer["ciphertexts"][position], context)


def test_the_report_holds_the_shared_part_and_the_folder_the_rest(device: Device) -> None:
    plan = plan_of(device)
    answer = device.fit(plan)
    payload = unpack_plain(opened(answer, plan, "coordinator"))[1]
    context = EncodeContext(dimension=PART.dimension, kept=PART.dimension)
    update = to_dense(codec("dense").decode(payload, context))
    assert update.shape == (PART.dimension,)
    assert answer["norm"] == pytest.approx(np.linalg.norm(update), rel=1e-3)
    kept = read_own(device.folder / "own.next").tensors
    first = PART.own_of(initial_weights(TASK.parameters, TASK.reference.seed))
    assert set(kept) == set(HEAD)
    assert all((kept[name] != first[name]).any() for name in HEAD)
    assert not (device.folder / "own").exists()


def test_hubs_get_shares_of_the_shared_part(device: Device) -> None:
    plan = plan_of(device, "hubs")
    answer = device.fit(plan)
    spec, digest = ring_spec(plan), plan_hash(encode_plan(plan))
    first = unpack_ring(opened(answer, plan, "hub-1"), spec.words, spec.ring_bits)
    second = expand(opened(answer, plan, "hub-2", 1), digest, DEVICE, 2, spec.words, spec.ring_bits)
    total = decode_sum(combine([first, second], spec.ring_bits), spec)
    assert total.q.size == spec.dimension == PART.dimension
    assert total.q.any()


def test_a_fit_that_is_repeated_begins_where_the_first_began(device: Device) -> None:
    """Nothing is trained twice until the report that belongs to it is persisted."""
    for name in ("first", "second"):
        device.fit(plan_of(device, training=TrainingPlan(1, 0.2, 1024, local=HEAD)))
        (device.folder / "own.next").replace(device.folder / name)
    # One whole batch: there is no order of examples to make a difference.
    first, second = (read_own(device.folder / name).tensors for name in ("first", "second"))
    for name in HEAD:
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=1e-6)
    (device.folder / "first").replace(device.folder / "own")
    device.fit(plan_of(device, training=TrainingPlan(1, 0.2, 1024, local=HEAD)))
    third = read_own(device.folder / "own.next").tensors
    assert any(np.abs(third[name] - first[name]).max() > 1e-4 for name in HEAD)


def test_evaluation_takes_the_device_s_own_tensors(device: Device) -> None:
    device.fit(plan_of(device, training=TrainingPlan(20, 0.5, 16, local=HEAD)))
    (device.folder / "own.next").replace(device.folder / "own")
    own = read_own(device.folder / "own").tensors
    counts = device.evaluate()
    whole = PART.joined(PART.of(WEIGHTS), own)
    device.put("whole", whole)
    assert device.evaluate("whole") == counts
    (device.folder / "own").unlink()
    with pytest.raises(ModelDimensionError, match="plan anew"):
        device.evaluate()


def test_the_first_vector_is_drawn_without_what_stays(device: Device) -> None:
    whole = initial_weights(TASK.parameters, 5)
    paths: dict[str, Any] = {"base_path": "", "child_path": str(device.folder / "child")}
    for vector, local in ((PART.of(whole), HEAD), (whole, ())):
        step = encode_step(initial_step(5, digest_of(vector.astype("<f4").tobytes())))
        job(device.state, "apply_step")(step=step, local=local, **paths, **device.of_task)
        assert_array_equal(np.fromfile(device.folder / "child", "<f4"), vector)


def test_a_device_that_moves_nothing_keeps_what_it_has(device: Device) -> None:
    device.fit(plan_of(device), train=False)
    assert not (device.folder / "own.next").exists()


def test_plans_that_do_not_fit_the_task_are_refused(device: Device) -> None:
    with pytest.raises(LocalParameterError, match="nobody"):
        device.fit(plan_of(device, training=TrainingPlan(1, 0.2, 16, local=("nobody",))))
    with pytest.raises(ModelDimensionError, match=f"shares {TASK.dimension}"):
        device.fit(plan_of(device, training=TrainingPlan(1, 0.2, 16)))


def test_the_operator_s_names_go_before_the_task_s() -> None:
    task = msgspec.structs.replace(TASK, local=HEAD)

    def local(*names: str) -> tuple[str, ...]:
        rounds = RoundSettings(local=names)
        return plan_settings(CoordinatorSettings(rounds=rounds), task, 10).local

    assert local() == HEAD
    assert local("none") == ()
    assert local(HEAD[0]) == HEAD[:1]


def test_a_head_and_a_model_of_its_own_go_together(device: Device) -> None:
    device.fit(plan_of(device), ditto=0.1)
    first = read_own(device.folder / "own.next")
    assert first.personal is not None
    assert set(first.tensors) == set(HEAD)
    assert first.personal.size == TASK.dimension
    (device.folder / "own.next").replace(device.folder / "own")
    counts = device.evaluate()
    assert 0 <= counts["personal"][0] <= counts["examples"]
    # The next round goes on from both; one without Ditto keeps the model as it is.
    device.fit(plan_of(device), ditto=0.1)
    second = read_own(device.folder / "own.next")
    assert second.personal is not None
    assert (second.personal != first.personal).any()
    device.fit(plan_of(device))
    assert_array_equal(read_own(device.folder / "own.next").personal, first.personal)
