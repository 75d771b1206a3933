"""The worker as a real process: what it computes, and every way in which it can fail."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_parts import (
    TASK,
    TASK_BYTES,
    TASK_REF,
    base_vector,
    codec_plan,
    make_fleet,
    make_plan,
    write_examples,
)
from shoal_codecs.privacy.examples import example_charge
from shoal_codecs.secagg.additive import combine
from shoal_codecs.secagg.prg import expand
from shoal_codecs.security.sealing import unseal
from shoal_codecs.updates.base import EncodeContext, to_dense
from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.levels import pack_levels
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import decode_sum, unpack_ring
from shoal_codecs.updates.step import Step, apply_step, step_from_sum
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.packing import unpack_plain
from shoal_codecs.wire.plan import PrivacyPlan, TrainingPlan, coordinate_seed, encode_plan, plan_hash
from shoal_codecs.wire.report import SHARE_SEED_BYTES, share_context
from shoal_codecs.wire.step import ModelStep, encode_step, initial_step
from shoal_codecs.wire.task import encode_task
from shoal_edge.errors import (
    WorkerCrashedError,
    WorkerMemoryError,
    WorkerRefusedError,
    WorkerStartError,
    WorkerTimeLimitError,
)
from shoal_edge.jobs.state import WorkerState
from shoal_edge.worker import Worker
from shoal_edge.worker_client import WorkerClient
from shoal_edge.worker_settings import WorkerSettings

FLEET = make_fleet()
DEVICE = "device-01"
LIMIT_S = 60.0


@pytest.fixture
async def worker() -> AsyncIterator[WorkerClient]:
    client = WorkerClient(idle_s=60)
    yield client
    await client.close()


class Device:
    """A device's files and the requests made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task = folder / "task"
        self.task.write_bytes(TASK_BYTES)
        self.data = folder / "examples.npz"
        write_examples(self.data)
        self.base = base_vector()
        self.digest = self.put("base", self.base)

    def put(self, name: str, vector: np.ndarray[Any, Any]) -> bytes:
        data = vector.astype("<f4").tobytes()
        (self.folder / name).write_bytes(data)
        return digest_of(data)

    @property
    def common(self) -> dict[str, Any]:
        return self.of_task | {"data_path": str(self.data)}

    @property
    def of_task(self) -> dict[str, Any]:
        return {"task": TASK_REF.digest, "task_path": str(self.task)}

    def fit(self, plan: bytes, **changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "model_path": str(self.folder / "base"),
            "plan": plan,
            "source_path": "",
            "device": DEVICE,
            "residual_path": str(self.folder / "residual"),
            "residual_next_path": str(self.folder / "residual.next"),
            "own_path": str(self.folder / "own"),
            "own_next_path": str(self.folder / "own.next"),
            "preview": False,
        }
        return self.common | values | changes


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def opened(answer: dict[str, Any], plan: bytes, hub: str, position: int) -> bytes:
    private = FLEET.keys[hub][0]
    return unseal(private, answer["ciphertexts"][position], share_context(plan_hash(plan), DEVICE, hub))


async def test_both_shares_add_up_to_the_update(worker: WorkerClient, device: Device) -> None:
    plan = make_plan(FLEET, device.digest)
    data = encode_plan(plan)
    answer = await worker.request("fit_and_report", LIMIT_S, **device.fit(data, preview=True))
    spec = ring_spec(plan)
    first = unpack_ring(opened(answer, data, "hub-1", 0), spec.words, spec.ring_bits)
    seed = opened(answer, data, "hub-2", 1)
    assert len(seed) == SHARE_SEED_BYTES
    second = expand(seed, plan_hash(data), DEVICE, 2, spec.words, spec.ring_bits)
    total = decode_sum(combine([first, second], spec.ring_bits), spec)
    assert total.weight == answer["examples"] == 48
    preview = answer["preview"]
    level = step_from_sum(total, spec).scale * spec.kept / spec.dimension
    sent = total.q[-8:] * level
    # One level of rounding, and the preview's own four digits.
    np.testing.assert_allclose(sent, preview["update"], rtol=0, atol=level + 1e-4)
    assert preview["share"] == [int(word) for word in first[spec.kept - 8 : spec.kept]]
    assert set(answer) == {
        "ciphertexts", "examples", "steps", "loss_before", "loss_after", "norm", "seconds", "preview"
    }  # fmt: skip
    assert answer["loss_after"] < answer["loss_before"]


async def test_a_plan_with_noise_on_examples_is_trained_by_dp_sgd(
    worker: WorkerClient, device: Device
) -> None:
    plan = make_plan(FLEET, device.digest, training=TrainingPlan(1, 1.0, 48, 1.0, 5.0))
    answer = await worker.request("fit_and_report", LIMIT_S, **device.fit(encode_plan(plan)))
    # Beside noise of 5 clip norms a coordinate, over a batch of 48, what was learned is nothing.
    assert answer["norm"] == pytest.approx(5 / 48 * TASK.dimension**0.5, rel=0.05)
    assert answer["example_epsilon"] == pytest.approx(example_charge(plan.training).epsilon(1e-5))


def _without_data(device: Device) -> None:
    device.data.unlink()


def _with_a_label_too_many(device: Device) -> None:
    with np.load(device.data) as shard:
        np.savez(device.data, x=shard["x"], y=shard["y"] + np.uint8(100))


@pytest.mark.parametrize(
    ("spoil", "rate", "fault"),
    [
        (_without_data, 0.2, "UnreadableDataError"),
        (_with_a_label_too_many, 0.2, "LabelRangeError"),
        (lambda _: None, 1e30, "NonFiniteLossError"),
    ],
)
async def test_a_device_that_tells_nothing_sends_noise_where_it_cannot_train(
    worker: WorkerClient, device: Device, spoil: Callable[[Device], None], rate: float, fault: str
) -> None:
    """A task can be made to fail on chosen examples: who stays away then has told of them, in clear."""
    noise = PrivacyPlan("skellam", 4.4e6, 1, 1e-5, clip_bit=9, metric_levels=9)
    plan = make_plan(
        FLEET,
        device.digest,
        privacy=noise,
        codec=codec_plan(4, ring_bits=20),
        training=TrainingPlan(1, rate, 16),
    )
    spoil(device)
    data = encode_plan(plan)
    with pytest.raises(WorkerRefusedError) as caught:
        await worker.request("fit_and_report", LIMIT_S, **device.fit(data))
    assert caught.value.fault == fault
    answer = await worker.request("fit_and_report", LIMIT_S, **device.fit(data, hide_faults=True))
    assert answer["fault"] == fault
    spec = ring_spec(plan)
    first = unpack_ring(opened(answer, data, "hub-1", 0), spec.words, spec.ring_bits)
    second = expand(opened(answer, data, "hub-2", 1), plan_hash(data), DEVICE, 2, spec.words, spec.ring_bits)
    words = combine([first, second], spec.ring_bits).astype(np.int64)
    levels = (words + (1 << 19)) % (1 << 20) - (1 << 19)
    assert levels.std() == pytest.approx(spec.noise**0.5, rel=0.2)
    idle = await worker.request("fit_and_report", LIMIT_S, **device.fit(data, train=False))
    assert set(idle) == {"ciphertexts", "seconds"}
    # A round without noise has nothing to hide behind.
    bare = encode_plan(make_plan(FLEET, device.digest, training=TrainingPlan(1, rate, 16)))
    with pytest.raises(WorkerRefusedError):
        await worker.request("fit_and_report", LIMIT_S, **device.fit(bare, hide_faults=True))


async def test_a_task_without_private_training_declines_such_a_plan(
    worker: WorkerClient, device: Device
) -> None:
    older = encode_task(msgspec.structs.replace(TASK, private=None))
    device.task.write_bytes(older)
    plan = make_plan(FLEET, device.digest, training=TrainingPlan(1, 1.0, 48, 1.0, 5.0))
    with pytest.raises(WorkerRefusedError, match="example_noise to 0"):
        await worker.request(
            "fit_and_report", LIMIT_S, **device.fit(encode_plan(plan), task=digest_of(older))
        )


async def test_a_led_round_takes_its_coordinates_from_the_last_step(
    worker: WorkerClient, device: Device
) -> None:
    moved = np.zeros(480, dtype=np.int32)
    moved[::3] = np.arange(1, 161)
    last = ModelStep("randk", bytes(32), device.digest, bytes(32), 480, 0.25, pack_levels(moved))
    source = encode_step(last)
    (device.folder / "step").write_bytes(source)
    led = codec_plan(4, name="global_topk", source=digest_of(source))
    plan = make_plan(FLEET, device.digest, codec=led)
    data = encode_plan(plan)
    spec = ring_spec(plan, source)
    assert set(spec.selection.leading) == set(rand_coordinates(bytes(32), TASK.dimension, 480)[::3])
    fit = device.fit(data, preview=True, source_path=str(device.folder / "step"))
    answer = await worker.request("fit_and_report", LIMIT_S, **fit)
    first = unpack_ring(opened(answer, data, "hub-1", 0), spec.words, spec.ring_bits)
    second = expand(opened(answer, data, "hub-2", 1), plan_hash(data), DEVICE, 2, spec.words, spec.ring_bits)
    total = decode_sum(combine([first, second], spec.ring_bits), spec)
    level = step_from_sum(total, spec).scale
    moves = total.q * level
    assert spec.selection.is_leading is not None
    moves[~spec.selection.is_leading] /= spec.selection.factor
    np.testing.assert_allclose(moves[-8:], answer["preview"]["update"], rtol=0, atol=level + 1e-4)
    with pytest.raises(WorkerRefusedError) as caught:
        await worker.request("fit_and_report", LIMIT_S, **device.fit(data))
    assert caught.value.fault == "UnledRoundError"


async def test_the_update_stays_in_the_worker_unless_asked_for(worker: WorkerClient, device: Device) -> None:
    plan = encode_plan(make_plan(FLEET, device.digest))
    answer = await worker.request("fit_and_report", LIMIT_S, **device.fit(plan))
    assert "preview" not in answer


@pytest.mark.parametrize("name", ["dense", "int8", "int4", "topk", "topk4", "randk", "randk4"])
async def test_mode_plain_carries_the_coded_update(worker: WorkerClient, device: Device, name: str) -> None:
    kept = TASK.dimension if name in {"dense", "int8", "int4"} else 480
    plan = make_plan(
        FLEET, device.digest, mode="plain", codec=codec_plan(4, name=name, kept=kept, ring_bits=0)
    )
    data = encode_plan(plan)
    answer = await worker.request("fit_and_report", LIMIT_S, **device.fit(data))
    examples, payload, told = unpack_plain(opened(answer, data, "coordinator", 0))
    assert told == {}
    assert examples == 48
    context = EncodeContext(dimension=TASK.dimension, kept=kept, seed=coordinate_seed(plan))
    update = to_dense(codec(name).decode(payload, context))
    assert 0 < float(np.linalg.norm(update)) < 10 * answer["norm"]
    assert (device.folder / "residual.next").exists() is (name in {"topk", "topk4"})


async def test_what_top_k_left_out_comes_with_the_next_report(worker: WorkerClient, device: Device) -> None:
    plan = make_plan(
        FLEET, device.digest, mode="plain", codec=codec_plan(4, name="topk", kept=5, ring_bits=0)
    )
    residual = np.zeros(TASK.dimension, np.float32)
    residual[17] = 100.0
    device.put("residual", residual)
    data = encode_plan(plan)
    answer = await worker.request("fit_and_report", LIMIT_S, **device.fit(data))
    _, payload, _ = unpack_plain(opened(answer, data, "coordinator", 0))
    update = to_dense(codec("topk").decode(payload, EncodeContext(dimension=TASK.dimension, kept=5)))
    # The clip norm of 4 bounds what this round adds and not what earlier rounds left.
    assert update[17] == pytest.approx(100, abs=1)
    following = np.frombuffer((device.folder / "residual.next").read_bytes(), "<f4")
    assert np.linalg.norm(update + following - residual) <= 4.0001
    # What is left of an update is as personal as the update.
    assert (device.folder / "residual.next").stat().st_mode & 0o777 == 0o600


async def test_a_step_leads_to_the_version_it_names(worker: WorkerClient, device: Device) -> None:
    seed, kept = b"s" * 32, 480
    q = np.random.default_rng(0).integers(-50, 50, kept).astype(np.int32)
    child = apply_step(device.base, rand_coordinates(seed, TASK.dimension, kept), Step(q, 0.25))
    digest = digest_of(child.astype("<f4").tobytes())
    step = ModelStep("randk", device.digest, digest, seed, kept, 0.25, pack_levels(q))
    paths = {"base_path": str(device.folder / "base"), "child_path": str(device.folder / "child")}
    await worker.request("apply_step", LIMIT_S, step=encode_step(step), **device.of_task, **paths)
    assert digest_of((device.folder / "child").read_bytes()) == digest

    astray = ModelStep("randk", device.digest, b"?" * 32, seed, kept, 0.25, pack_levels(q))
    with pytest.raises(WorkerRefusedError, match="fetch the whole") as caught:
        await worker.request("apply_step", LIMIT_S, step=encode_step(astray), **device.of_task, **paths)
    assert caught.value.fault == "VectorFileError"


async def test_a_step_over_all_coordinates_leads_to_the_version_it_names(
    worker: WorkerClient, device: Device
) -> None:
    q = np.zeros(TASK.dimension, np.int32)
    q[[3, 500, 9000]] = [2, -4, 1]
    child = apply_step(device.base, None, Step(q, 0.5))
    digest = digest_of(child.astype("<f4").tobytes())
    step = ModelStep("dense", device.digest, digest, b"", q.size, 0.5, pack_levels(q))
    paths = {"base_path": str(device.folder / "base"), "child_path": str(device.folder / "child")}
    await worker.request("apply_step", LIMIT_S, step=encode_step(step), **device.of_task, **paths)
    assert digest_of((device.folder / "child").read_bytes()) == digest
    shorter = msgspec.structs.replace(step, kept=q.size - 1)
    endless = msgspec.structs.replace(step, scale=float("inf"))
    for bad in (shorter, endless):
        with pytest.raises(WorkerRefusedError, match="another model"):
            await worker.request("apply_step", LIMIT_S, step=encode_step(bad), **device.of_task, **paths)


async def test_a_seed_leads_to_the_first_version(worker: WorkerClient, device: Device) -> None:
    target = device.folder / "child"

    async def drawn(step: ModelStep, base: str = "") -> None:
        paths = {"base_path": base, "child_path": str(target)}
        await worker.request("apply_step", LIMIT_S, step=encode_step(step), **device.of_task, **paths)

    right = initial_step(1, device.digest)
    await drawn(right)
    assert target.read_bytes() == (device.folder / "base").read_bytes()
    target.unlink()

    stepless = ModelStep("dense", b"", device.digest, b"", 0, 0.0, b"")
    from_parent = msgspec.structs.replace(right, parent=device.digest)
    for step, base in (
        (initial_step(2, device.digest), ""),
        (stepless, ""),
        (from_parent, str(device.folder / "base")),
    ):
        with pytest.raises(WorkerRefusedError, match="fetch the whole model"):
            await drawn(step, base)
        assert not target.exists()


async def test_evaluation_counts_the_held_out_examples(worker: WorkerClient, device: Device) -> None:
    arguments = device.common | {"model_path": str(device.folder / "base"), "digest": device.digest}
    counts = await worker.request("evaluate", LIMIT_S, own_path=str(device.folder / "own"), **arguments)
    assert counts["examples"] == 12
    assert 0 <= counts["correct"] <= 12
    assert counts["loss_sum"] > 0


async def test_preparing_tells_what_the_device_has(worker: WorkerClient, device: Device) -> None:
    answer = await worker.request("prepare", LIMIT_S, **device.common)
    assert (answer["dimension"], answer["examples"], answer["held_out"]) == (TASK.dimension, 48, 12)
    assert "litert" in answer["runtime"] or "tflite" in answer["runtime"]


async def refused(worker: WorkerClient, device: Device, **changes: Any) -> str:
    plan = encode_plan(make_plan(FLEET, changes.pop("base", device.digest), **changes.pop("plan", {})))
    with pytest.raises(WorkerRefusedError) as caught:
        await worker.request("fit_and_report", LIMIT_S, **device.fit(plan, **changes))
    assert len(str(caught.value)) > 20
    return caught.value.fault


async def test_bad_input_is_named_and_the_worker_lives_on(worker: WorkerClient, device: Device) -> None:
    bad = device.base.copy()
    bad[5] = np.nan
    assert await refused(worker, device, base=device.put("base", bad)) == "DivergedError"
    short = device.put("base", device.base[:-1])
    assert await refused(worker, device, base=short) == "ModelDimensionError"
    device.put("base", device.base + 1)
    assert await refused(worker, device) == "VectorFileError"
    device.put("base", device.base)
    wild = {"training": TrainingPlan(epochs=2, learning_rate=1e30, batch_size=4)}
    assert await refused(worker, device, plan=wild) in {"NonFiniteLossError", "NonFiniteWeightsError"}
    np.savez(device.data, x=np.zeros((60, 9, 9), np.uint8), y=np.zeros(60, np.uint8))
    assert await refused(worker, device) == "ExampleShapeError"
    device.data.unlink()
    assert await refused(worker, device) == "UnreadableDataError"
    write_examples(device.data)
    pid = worker.pid
    device.task.write_bytes(TASK_BYTES[:-1])
    fresh = WorkerClient(idle_s=60)
    assert await refused(fresh, device) == "TaskFileError"
    await fresh.close()
    with pytest.raises(WorkerRefusedError, match="no request is called"):
        await worker.request("dance", LIMIT_S)
    with pytest.raises(WorkerRefusedError, match="report this as a defect"):
        await worker.request("evaluate", LIMIT_S, nonsense=1)
    assert worker.pid == pid


def long_plan(device: Device) -> bytes:
    training = TrainingPlan(epochs=1_000_000, learning_rate=0.001, batch_size=1)
    return encode_plan(make_plan(FLEET, device.digest, training=training))


async def in_a_fit(worker: WorkerClient, device: Device, limit_s: float = LIMIT_S) -> asyncio.Task[Any]:
    """Begin a fit that would take hours."""
    await worker.request("prepare", LIMIT_S, **device.common)
    request = worker.request("fit_and_report", limit_s, **device.fit(long_plan(device)))
    task = asyncio.create_task(request)
    await asyncio.sleep(0.2)
    return task


async def test_a_crash_is_named_and_the_next_request_starts_anew(
    worker: WorkerClient, device: Device
) -> None:
    fit = await in_a_fit(worker, device)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSEGV)
    with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
        await fit
    assert (await worker.request("prepare", LIMIT_S, **device.common))["examples"] == 48


async def test_a_time_limit_ends_the_worker(worker: WorkerClient, device: Device) -> None:
    fit = await in_a_fit(worker, device, limit_s=0.4)
    pid = worker.pid
    with pytest.raises(WorkerTimeLimitError, match="fit_and_report"):
        await fit
    assert (await worker.request("prepare", LIMIT_S, **device.common))["examples"] == 48
    assert worker.pid != pid


async def test_a_fit_whose_caller_goes_away_stops_between_two_steps(
    worker: WorkerClient, device: Device
) -> None:
    fit = await in_a_fit(worker, device)
    pid = worker.pid
    fit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fit
    # The fit would take hours; the worker is free for the next request nevertheless.
    assert (await worker.request("prepare", LIMIT_S, **device.common))["examples"] == 48
    assert worker.pid == pid


async def test_a_worker_that_starts_outlives_callers_that_are_gone_before_it_is_up(
    worker: WorkerClient, device: Device
) -> None:
    """Rounds may follow each other faster than a small board starts its worker."""
    child = device.folder / "child"
    step = {"base_path": "", "child_path": str(child), "step": encode_step(initial_step(1, device.digest))}
    pids = set()
    for _ in range(3):
        left = asyncio.create_task(worker.request("apply_step", LIMIT_S, **device.of_task, **step))
        await asyncio.sleep(0.05)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        pids.add(worker.pid)
    assert (await worker.request("prepare", LIMIT_S, **device.common))["examples"] == 48
    assert pids == {worker.pid}
    # What was left before the worker was up is not done.
    assert not child.exists()


async def test_a_fit_tells_how_far_it_is(worker: WorkerClient, device: Device) -> None:
    await worker.request("prepare", LIMIT_S, **device.common)
    heard: list[tuple[int, int]] = []

    def hear(done: int, total: int) -> None:
        heard.append((done, total))
        if len(heard) == 2:
            fit.cancel()

    request = worker.request("fit_and_report", LIMIT_S, hear, **device.fit(long_plan(device)))
    fit = asyncio.create_task(request)
    with pytest.raises(asyncio.CancelledError):
        await fit
    assert [total for _, total in heard[:2]] == [48_000_000] * 2
    assert 0 < heard[0][0] < heard[1][0]


async def test_a_fit_has_so_much_memory_and_no_more(device: Device) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 17, (40_000, 64)).astype(np.uint8)
    np.savez(device.data, x=x, y=rng.integers(0, 10, len(x)).astype(np.uint8))
    greedy, modest = (
        encode_plan(make_plan(FLEET, device.digest, training=TrainingPlan(1, 0.1, size)))
        for size in (32_000, 32)
    )
    # The data take 6 MB, a batch of all of them five times as much and more.
    client = WorkerClient(60, WorkerSettings(memory_limit_bytes=32 << 20).command)
    with pytest.raises(WorkerRefusedError, match=r"batch_size|memory_limit_bytes") as caught:
        await client.request("fit_and_report", LIMIT_S, **device.fit(greedy))
    assert caught.value.fault == "FitMemoryError"
    assert (await client.request("fit_and_report", LIMIT_S, **device.fit(modest)))["examples"] == 32_000
    await client.close()


async def test_a_request_over_the_memory_ends_the_worker_and_not_its_hearing(device: Device) -> None:
    client = WorkerClient(60, WorkerSettings(memory_limit_bytes=32 << 20).command)
    # The limit stands once the worker is up.
    await client.request("prepare", LIMIT_S, **device.common)
    with pytest.raises(WorkerMemoryError, match="fit_memory_limit_bytes"):
        await client.request("prepare", 20, task=bytes(256 << 20))
    await client.close()


@pytest.mark.parametrize(
    ("error", "limit_bytes", "fault"),
    [
        (MemoryError(), 0, "FitMemoryError"),
        (ImportError("x.so: failed to map segment from shared object"), 1 << 30, "FitMemoryError"),
        (ImportError("x.so: undefined symbol: y"), 0, "ImportError"),
        (ModuleNotFoundError("No module named 'x'"), 1 << 30, "ModuleNotFoundError"),
    ],
)
def test_a_library_that_finds_no_room_under_the_limit_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, error: Exception, limit_bytes: int, fault: str
) -> None:
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr("shoal_edge.worker.job", refused)
    worker = Worker(io.BytesIO(), io.BytesIO(), WorkerSettings(memory_limit_bytes=limit_bytes))
    answer = worker._answer(WorkerState(), {"id": 1, "do": "prepare"})
    assert answer["fault"] == fault
    assert ("memory_limit_bytes" in answer["text"]) is (fault == "FitMemoryError")


async def test_a_worker_that_is_refused_memory_says_so() -> None:
    words = "import os, sys; sys.stderr.write('what():  std::bad_alloc\\n'); sys.stderr.flush(); os.abort()"
    client = WorkerClient(idle_s=60, command=(sys.executable, "-c", words))
    with pytest.raises(WorkerMemoryError, match=r"SIGABRT.*fit_memory_limit_bytes"):
        await client.request("prepare", LIMIT_S)
    await client.close()


async def test_an_idle_worker_is_ended(device: Device) -> None:
    client = WorkerClient(idle_s=0.1)
    await client.request("prepare", LIMIT_S, **device.common)
    async with asyncio.timeout(10):
        while client.pid is not None:
            await asyncio.sleep(0.02)
    await client.close()


async def test_a_worker_ends_with_its_agent() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shoal_edge.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(20):
        assert await process.wait() == 0


async def test_last_words_of_a_crash_are_told() -> None:
    words = "import sys; sys.stderr.write('no such library\\n'); sys.stdin.buffer.read(9); sys.exit(3)"
    client = WorkerClient(idle_s=60, command=(sys.executable, "-c", words))
    with pytest.raises(WorkerCrashedError, match=r"code 3.*no such library"):
        await client.request("prepare", LIMIT_S)
    await client.close()


async def test_a_worker_that_cannot_start_says_so() -> None:
    client = WorkerClient(idle_s=60, command=("/nonexistent/python",))
    with pytest.raises(WorkerStartError, match="nonexistent"):
        await client.request("prepare", LIMIT_S)
    await client.close()
