"""The parts of a swarm: the pool of workers, the parts of a data set, the folders, one device's failure."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from shoal_codecs.partition import PartitionError
from shoal_codecs.settings import SettingsError
from shoal_codecs.transport.errors import BadBrokerUrlError
from shoal_codecs.wire.task import InputDescription, TargetDescription
from shoal_coordinator.fleet_init import init_fleet, write_settings
from shoal_edge.agent import EdgeAgent
from shoal_edge.cli import main
from shoal_edge.config import EdgeSettings
from shoal_edge.data import Examples
from shoal_edge.errors import WorkerCrashedError, WorkerRefusedError
from shoal_edge.folder_lock import held_folder
from shoal_edge.sources.npz import NpzSource
from shoal_edge.sources.registry import Shards, open_source
from shoal_edge.sources.settings import DataSettings, ShareSettings
from shoal_edge.sources.source import Wanted
from shoal_edge.swarm.errors import SwarmFailedError, TooFewFoldersError
from shoal_edge.swarm.folders import device_settings
from shoal_edge.swarm.pool import PooledWorker, WorkerPool
from shoal_edge.swarm.source import data_settings
from shoal_edge.swarm.swarm import Swarm
from shoal_edge.trainers.errors import ExampleShapeError, TooFewExamplesError, UnreadableDataError

ABOUT = InputDescription(shape=(4,), dtype="uint8", minimum=0, maximum=16)
WANTED = Wanted(ABOUT, labels=("a", "b", "c"))
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


def data_of(source: Path, index: int = 0, **changes: Any) -> DataSettings:
    share = ShareSettings(partition="shards:2", parts=5, index=index)
    return DataSettings(path=str(source), share=msgspec.structs.replace(share, **changes))


def shard(data: DataSettings, wanted: Wanted = WANTED) -> tuple[Examples, Examples]:
    return Shards().read(data, Path(data.path), wanted)


def counts_of(data: DataSettings) -> list[tuple[int, int]]:
    assert data.share is not None
    return open_source(data, Path(data.path)).share_counts(data.share)


def test_parts_are_the_whole_and_as_many_as_was_told(tmp_path: Path) -> None:
    source = write_data(tmp_path / "all.npz")
    rows: list[bytes] = []
    for index, told in enumerate(counts_of(data_of(source))):
        train, held_out = shard(data_of(source, index))
        assert told == (len(train), len(held_out)) == (8, 2)
        rows += [bytes(row) for part in (train, held_out) for row in np.asarray(part.x)]
    with np.load(source) as whole:
        assert sorted(rows) == sorted(bytes(row) for row in whole["x"])


def test_nothing_is_held_out_where_that_is_asked_for(tmp_path: Path) -> None:
    train, held_out = shard(data_of(write_data(tmp_path / "all.npz"), held_out=0.0))
    assert (len(train), len(held_out)) == (10, 0)


def test_the_set_is_read_once_for_all_and_again_when_it_changes(tmp_path: Path, monkeypatch: Any) -> None:
    source = write_data(tmp_path / "all.npz")
    reads: list[Path] = []
    read = NpzSource.read

    def counted(self: NpzSource, wanted: Wanted) -> Any:
        reads.append(source)
        return read(self, wanted)

    monkeypatch.setattr(NpzSource, "read", counted)
    for index in range(5):
        shard(data_of(source, index))
    assert len(reads) == 1
    write_data(source, 70)
    assert len(shard(data_of(source))[0]) == 11
    assert len(reads) == 2


def test_a_part_of_values_or_windows_is_split_evenly(tmp_path: Path) -> None:
    table = tmp_path / "all.csv"
    table.write_text("a,b,wanted\n" + "".join(f"{n},{n + 1},{n / 2}\n" for n in range(40)))
    data = DataSettings(kind="csv", path=str(table), target_columns=("wanted",), window=2, stride=1)
    data = msgspec.structs.replace(data, share=ShareSettings(parts=3, index=2))
    about = InputDescription(shape=(2, 2), dtype="float32", minimum=-100, maximum=100)
    wanted = Wanted(about, target=TargetDescription(kind="values", shape=(1,)))
    train, held_out = shard(data, wanted)
    assert 10 <= len(train) + len(held_out) <= 13
    # What an example is, only the task says.
    assert counts_of(data) == []


def test_parts_that_cannot_be_are_a_named_fault(tmp_path: Path) -> None:
    source = write_data(tmp_path / "all.npz")
    with pytest.raises(PartitionError):
        shard(data_of(source, partition="halves"))
    with pytest.raises(TooFewExamplesError, match="part 0 has 2 examples"):
        shard(data_of(source, partition="iid", parts=25))
    with pytest.raises(ExampleShapeError):
        shard(data_of(source), Wanted(msgspec.structs.replace(ABOUT, shape=(5,)), labels=("a", "b", "c")))
    source.unlink()
    with pytest.raises(UnreadableDataError):
        shard(data_of(source))
    with pytest.raises(ValueError, match="no part 5 of 5"):
        ShareSettings(parts=5, index=5)


def test_a_source_is_a_file_a_kind_with_a_place_or_a_table(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_settings("x.npz") == DataSettings(path=str(tmp_path / "x.npz"))
    assert data_settings("mnist:images") == DataSettings(kind="mnist", path=str(tmp_path / "images"))
    Path("a.toml").write_text('[data]\nkind = "csv"\npath = "t.csv"\nwindow = 4\n')
    assert data_settings("a.toml") == DataSettings(kind="csv", path=str(tmp_path / "t.csv"), window=4)
    for text in ("[other]\n", "[data]\nkind = 3\n", "[data", "[data.share]\nparts = 2\n"):
        Path("a.toml").write_text(text)
        with pytest.raises(SettingsError, match=r"a\.toml"):
            data_settings("a.toml")
    Path("a.toml").write_text('[data]\nkind = "svg"\n')
    with pytest.raises(SettingsError, match=r"a\.toml.*'svg'.*csv, images, .* are possible"):
        data_settings("a.toml")
    with pytest.raises(SettingsError, match="No such file"):
        data_settings("b.toml")


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
    # One fault, and not each device's.
    with pytest.raises(BadBrokerUrlError):
        device_settings(tmp_path, 0, "localhost")


async def test_a_swarm_whose_devices_all_fail_ends_with_the_first_fault(tmp_path: Path) -> None:
    settings = [EdgeSettings(name=f"device-{n}", folder=str(tmp_path / str(n))) for n in (1, 2)]
    data = data_settings(str(write_data(tmp_path / "all.npz")))
    swarm = Swarm(settings, data, ShareSettings(), workers=1)
    with pytest.raises(SwarmFailedError, match=r"all 2 devices have failed; device-\d: BadRosterError"):
        await swarm.run()
    assert await swarm.ready() == (0, 2)


async def test_a_swarm_leaves_a_folder_alone_that_an_agent_works_in(tmp_path: Path) -> None:
    """And an agent one of a swarm's: that device fails by itself, with the remedy."""
    settings = [EdgeSettings(name="device-1", folder=str(tmp_path))]
    data = data_settings(str(write_data(tmp_path / "all.npz")))
    with (
        held_folder(settings[0].state),
        pytest.raises(SwarmFailedError, match=r"device-1: FolderInUseError: .* in use by another agent"),
    ):
        await Swarm(settings, data, ShareSettings(), workers=1).run()
    # It is let go of when the device ends, here for want of a roster.
    with pytest.raises(SwarmFailedError, match="BadRosterError"):
        await Swarm(settings, data, ShareSettings(), workers=1).run()
    with held_folder(settings[0].state):
        pass


@pytest.mark.parametrize(
    ("option", "value"), [("--devices", "-1"), ("--workers", "two"), ("--held-out", "1"), ("--held-out", "x")]
)
def test_a_number_that_cannot_be_meant_is_refused_by_its_option(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["swarm", "--fleet", "f", "--data", "x.npz", f"{option}={value}"])
    assert re.search(f"argument {option}: take .*, not '{value}'", capsys.readouterr().err)


def test_a_large_swarm_may_open_as_many_files_as_it_needs() -> None:
    script = (
        "import resource\n"
        "from shoal_edge.swarm.command import allow_files\n"
        "limit = resource.RLIMIT_NOFILE\n"
        "hard = resource.getrlimit(limit)[1]\n"
        "resource.setrlimit(limit, (64, hard))\n"
        "allow_files(32); print(resource.getrlimit(limit)[0])\n"
        "allow_files(128); print(resource.getrlimit(limit)[0])\n"
        "resource.setrlimit(limit, (64, 100)); allow_files(128); print(resource.getrlimit(limit)[0])\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["64", "128", "100"]


async def test_a_set_that_cannot_be_read_starts_no_device(tmp_path: Path) -> None:
    swarm = Swarm([EdgeSettings(name="device-1")], data_settings("nowhere.npz"), ShareSettings(), workers=1)
    with pytest.raises(WorkerRefusedError, match="nowhere"):
        await swarm.run()


def test_a_set_that_cannot_be_read_is_named_by_the_fault_the_worker_met(tmp_path: Path) -> None:
    init_fleet(tmp_path / "f", "swarm", devices=["device-1"], hubs=["hub-1", "hub-2"])
    command = (sys.executable, "-m", "shoal_edge", "swarm", "--fleet", "f", "--data", "nowhere.npz")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "shoal-edge: UnreadableDataError: " in done.stderr


async def test_a_device_of_a_swarm_that_fails_is_named_by_the_fault_the_worker_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_self: EdgeAgent) -> None:
        raise WorkerRefusedError("DamagedDataError", "copy it again")

    folder = init_fleet(tmp_path / "f", "swarm", devices=["device-1"], hubs=["hub-1", "hub-2"])["device-1"]
    settings = [EdgeSettings(name="device-1", fleet="swarm", folder=str(folder))]
    monkeypatch.setattr(EdgeAgent, "run", refuse)
    swarm = Swarm(settings, data_settings(str(write_data(tmp_path / "all.npz"))), ShareSettings(), workers=1)
    with pytest.raises(SwarmFailedError, match="device-1: DamagedDataError: copy it again"):
        await swarm.run()


def test_a_swarm_that_hangs_on_its_way_down_ends_all_the_same() -> None:
    script = (
        "import asyncio\n"
        "from shoal_edge.swarm.command import end_anyway_after\n"
        "end_anyway_after(0.2)\n"
        "asyncio.run(asyncio.Event().wait())\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=20).returncode == 1
