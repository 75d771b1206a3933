"""The parts of a swarm: the pool of workers, the parts of a data set, the folders, one device's failure."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal_codecs.wire.task import InputDescription
from shoal_coordinator.fleet_init import init_fleet, write_settings
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import WorkerCrashedError
from shoal_edge.files import shard_counts
from shoal_edge.swarm.errors import PartFileError, SwarmFailedError, TooFewFoldersError
from shoal_edge.swarm.folders import device_settings
from shoal_edge.swarm.part import PART_SUFFIX, Part, read_part, write_part
from shoal_edge.swarm.part_source import PartSource
from shoal_edge.swarm.pool import PooledWorker, WorkerPool
from shoal_edge.swarm.swarm import SharedData, Swarm
from shoal_edge.trainers.errors import ExampleShapeError, UnreadableDataError

ABOUT = InputDescription(shape=(4,), dtype="uint8", minimum=0, maximum=16)
ECHO = """
import os, sys, time
from shoal_edge.worker_frames import encode_worker_frame, read_worker_frame
while (frame := read_worker_frame(sys.stdin.buffer)) is not None:
    if frame["do"] == "crash":
        os._exit(3)
    time.sleep(frame.get("seconds", 0))
    answer = {"id": frame["id"], "ok": {"pid": os.getpid(), "word": frame.get("word")}}
    sys.stdout.buffer.write(encode_worker_frame(answer))
    sys.stdout.buffer.flush()
"""


def pool_of(size: int) -> WorkerPool:
    return WorkerPool(size, 60, (sys.executable, "-c", ECHO))


async def test_many_agents_share_a_few_processes() -> None:
    pool = pool_of(2)
    try:
        agents = [PooledWorker(pool) for _ in range(12)]
        asked = (agent.request("echo", 20, word=n, seconds=0.02) for n, agent in enumerate(agents))
        answers = await asyncio.gather(*asked)
        assert [answer["word"] for answer in answers] == list(range(12))
        assert {answer["pid"] for answer in answers} == set(pool.pids)
        assert len(pool.pids) == 2
        # One agent's end is not the others'.
        await agents[0].close()
        assert (await agents[1].request("echo", 20, word="on"))["word"] == "on"
    finally:
        await pool.close()
    assert pool.pids == []


async def test_one_agent_asks_one_thing_at_a_time_and_one_after_the_other_takes_the_warm_worker() -> None:
    pool = pool_of(4)
    try:
        agent = PooledWorker(pool)
        answers = await asyncio.gather(*(agent.request("echo", 20) for _ in range(4)))
        assert len({answer["pid"] for answer in answers}) == 1
        assert len(pool.pids) == 1
    finally:
        await pool.close()


async def test_a_crash_is_the_fault_of_one_request() -> None:
    pool = pool_of(1)
    try:
        one, other = PooledWorker(pool), PooledWorker(pool)
        waiting = asyncio.create_task(one.request("crash", 20))
        answered = asyncio.create_task(other.request("echo", 20, word="still here"))
        with pytest.raises(WorkerCrashedError):
            await waiting
        assert (await answered)["word"] == "still here"
    finally:
        await pool.close()


async def test_who_gives_up_waiting_takes_no_worker_along() -> None:
    pool = pool_of(1)
    try:
        busy = asyncio.create_task(PooledWorker(pool).request("echo", 20, seconds=0.3))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(PooledWorker(pool).request("echo", 20))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        pid = (await busy)["pid"]
        assert (await PooledWorker(pool).request("echo", 20))["pid"] == pid
    finally:
        await pool.close()


def write_data(path: Path, count: int = 50) -> Path:
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.integers(0, 17, (count, 4), dtype=np.uint8), y=np.arange(count) % 3)
    return path


def part_of(source: Path, index: int = 0, **changes: Any) -> Part:
    part = Part(source=str(source), partition="shards:2", parts=5, index=index, seed=1)
    return msgspec.structs.replace(part, **changes)


def test_parts_are_the_whole_and_tell_their_counts(tmp_path: Path) -> None:
    source = write_data(tmp_path / "all.npz")
    shelf, rows = PartSource(), []
    for index, counts in enumerate(shelf.counts(part_of(source))):
        path = tmp_path / f"{index}{PART_SUFFIX}"
        write_part(path, part_of(source, index, training=counts[0], testing=counts[1]))
        train, held_out = shelf.shard(path, ABOUT, 3)
        assert shard_counts(path) == counts == (len(train), len(held_out)) == (8, 2)
        rows += [bytes(row) for row in (*train.x, *held_out.x)]
    with np.load(source) as whole:
        assert sorted(rows) == sorted(bytes(row) for row in whole["x"])


def test_nothing_is_held_out_where_that_is_asked_for(tmp_path: Path) -> None:
    source = write_data(tmp_path / "all.npz")
    write_part(tmp_path / "a.part", part_of(source, held_out=0.0))
    train, held_out = PartSource().shard(tmp_path / "a.part", ABOUT, 3)
    assert (len(train), len(held_out)) == (10, 0)


def test_a_data_set_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    source = write_data(tmp_path / "all.npz")
    shelf = PartSource()
    assert sum(map(sum, shelf.counts(part_of(source)))) == 50
    write_data(source, 70)
    assert sum(map(sum, shelf.counts(part_of(source)))) == 70


def test_data_that_does_not_fit_is_a_named_fault(tmp_path: Path) -> None:
    source = write_data(tmp_path / "all.npz")
    path = tmp_path / "a.part"
    with pytest.raises(PartFileError, match="start the swarm again"):
        read_part(path)
    path.write_bytes(b"[1]")
    with pytest.raises(PartFileError, match="describes no part"):
        read_part(path)
    assert shard_counts(path) == (0, 0)
    write_part(path, part_of(source))
    with pytest.raises(ExampleShapeError):
        PartSource().shard(path, msgspec.structs.replace(ABOUT, shape=(5,)), 3)
    source.unlink()
    with pytest.raises(UnreadableDataError, match="--data"):
        PartSource().shard(path, ABOUT, 3)


def test_folders_are_taken_by_number_and_never_a_hub(tmp_path: Path) -> None:
    names = [f"device-{number}" for number in range(1, 12)]
    folders = init_fleet(tmp_path, "swarm", devices=names, hubs=["hub-1", "hub-2"])
    write_settings(folders["device-2"] / "config.toml", {"name": "device-2", "n_min": 7})
    found = device_settings(tmp_path, 3, "mqtt://127.0.0.1:1")
    assert [one.name for one in found] == names[:3]
    assert [one.n_min for one in found] == [3, 7, 3]
    assert {one.link.url for one in found} == {"mqtt://127.0.0.1:1"}
    assert len({one.state for one in found}) == 3
    assert [one.name for one in device_settings(tmp_path, 0)] == names
    with pytest.raises(TooFewFoldersError, match="--devices 12"):
        device_settings(tmp_path, 12)
    with pytest.raises(TooFewFoldersError):
        device_settings(tmp_path / "nowhere", 0)


async def test_a_swarm_whose_devices_all_fail_ends_with_the_first_fault(tmp_path: Path) -> None:
    settings = [
        EdgeSettings(name=f"device-{n}", folder=str(tmp_path), examples=str(tmp_path / f"{n}.part"))
        for n in (1, 2)
    ]
    source = write_data(tmp_path / "all.npz")
    swarm = Swarm(settings, SharedData(source=source, partition="iid"), workers=1)
    async with asyncio.timeout(20):
        with pytest.raises(SwarmFailedError, match="all 2 devices have failed; device-1: BadRosterError"):
            await swarm.run()
    assert await swarm.ready() == (0, 2)
