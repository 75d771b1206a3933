"""``shoal-edge data check``: what an owner sees of the data, and what nobody else does."""

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog.testing

from edge_parts import DEMO_DATA, FLEET, TASK_BYTES, TASK_REF, enrol, make_fleet, write_examples
from shoal_edge.config import EdgeSettings
from shoal_edge.data_check import data_words
from shoal_edge.errors import TaskFileError, WorkerRefusedError
from shoal_edge.example_counts import RECOUNT_S, ExampleCounts, looks_of
from shoal_edge.sources.settings import DataSettings
from shoal_edge.worker_client import Worker

TASK = DEMO_DATA.parents[1] / "tasks" / "digits.task"


def check(folder: Path, *words: str) -> tuple[int, str]:
    """Run the command on a terminal of its own, and return its code and what stood there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "shoal_edge", "data", "check", "--data-dir", str(folder), *words]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        said += part
    os.close(ours)
    return process.wait(), said.decode().replace("\r\n", "\n")


def home(folder: Path, settings: str = "") -> Path:
    enrol(make_fleet(), "device-01", folder, f'name = "device-01"\nfleet = "{FLEET}"\n{settings}')
    return folder


def test_the_owner_sees_counts_shape_and_labels_on_a_terminal(tmp_path: Path) -> None:
    write_examples(home(tmp_path) / "examples.npz")
    code, said = check(tmp_path, "--task", str(TASK))
    assert code == 0
    assert "60: 48 to train on, 12 held out" in said
    assert "8 x 8 uint8, 0 to 16" in said or "64 uint8, 0 to 16" in said
    rows = [line.replace("labels", "").split() for line in said.split("labels", 1)[1].splitlines()]
    with np.load(tmp_path / "examples.npz") as archive:
        counts = np.bincount(archive["y"], minlength=10).tolist()
    assert [int(row[1]) for row in rows] == counts


def test_no_label_leaves_for_a_file_or_a_log(tmp_path: Path) -> None:
    write_examples(home(tmp_path) / "examples.npz")
    command = [sys.executable, "-m", "shoal_edge", "data", "check"]
    words = ["--data-dir", str(tmp_path), "--task", str(TASK)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=True)
    assert "shown on a terminal only" in done.stdout
    assert "#" not in done.stdout


def test_a_fault_is_one_line_and_names_the_owners_file_on_a_terminal_only(tmp_path: Path) -> None:
    table = home(tmp_path, '[data]\nkind = "csv"\npath = "t.csv"\nlabel_column = "digit"\n')
    (tmp_path / "t.csv").write_text("a,digit\n1,2\n")
    code, said = check(table, "--task", str(TASK))
    assert code == 2
    assert said.startswith("shoal-edge: ExampleShapeError: examples of shape (1, 1)")
    assert said.count("\n") == 1
    code, said = check(table)
    assert (code, "--task" in said) == (2, True)
    code, said = check(table, "--task", str(tmp_path / "t.csv"))
    assert (code, f"InvalidTaskError: {tmp_path / 't.csv'}: no task file" in said) == (2, True)


def test_the_task_that_the_device_holds_is_checked_for(tmp_path: Path) -> None:
    import msgspec  # noqa: PLC0415

    from shoal_codecs.wire.packing import pack  # noqa: PLC0415
    from shoal_edge.store import Held  # noqa: PLC0415

    write_examples(home(tmp_path) / "examples.npz")
    settings = EdgeSettings(name="device-01", folder=str(tmp_path))
    with pytest.raises(TaskFileError, match="--task"):
        data_words(settings, None, labels=True)
    (settings.state / "blobs").mkdir(parents=True)
    (settings.state / "blobs" / TASK_REF.name).write_bytes(TASK_BYTES)
    (settings.state / "held.bin").write_bytes(pack(msgspec.structs.replace(Held(), task=TASK_REF.digest)))
    assert "60: 48 to train on" in data_words(settings, None, labels=False)


class Counter(Worker):
    """Stands for the worker; answers with the counts it is given."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[dict[str, Any]] = []

    pid = None

    async def request(
        self, do: str, _limit_s: float, _on_progress: Any = None, /, **arguments: Any
    ) -> dict[str, Any]:
        self.asked.append({"do": do} | arguments)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    async def warm(self) -> None: ...

    async def close(self) -> None: ...


def test_a_device_without_examples_says_so_once_while_it_lasts(tmp_path: Path) -> None:
    counts = ExampleCounts(EdgeSettings(folder=str(tmp_path)), Counter(), lambda: None)
    with structlog.testing.capture_logs() as lines:
        assert (counts.now(), counts.now()) == ((0, 0), (0, 0))
    assert [line["event"] for line in lines] == ["no_examples"]
    # What an owner's file is called stays out of the log.
    assert str(tmp_path) not in lines[0]["remedy"]
    with structlog.testing.capture_logs() as lines:
        (tmp_path / "examples.npz").write_bytes(b"torn")
        assert counts.now() == (0, 0)
        np.savez(tmp_path / "examples.npz", x=np.zeros((10, 64), np.uint8), y=np.zeros(10, np.uint8))
        assert counts.now() == (8, 2)
        assert lines == []
        (tmp_path / "examples.npz").unlink()
        counts.now()
    assert [line["event"] for line in lines] == ["no_examples"]


async def test_other_sources_are_counted_in_the_background_and_not_all_the_time(tmp_path: Path) -> None:
    worker, heard, now = Counter(), [], [0.0]
    settings = EdgeSettings(folder=str(tmp_path), data=DataSettings(kind="csv", path="t.csv"))
    counts = ExampleCounts(settings, worker, lambda: heard.append(1), clock=lambda: now[0])
    assert counts.now() == (0, 0)
    assert worker.asked == []
    (tmp_path / "t.csv").write_text("a\n")
    worker.answers = [WorkerRefusedError("DamagedDataError", "copy it again")]
    assert counts.now() == (0, 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert counts.now() == (0, 0)
    assert (len(worker.asked), heard) == (1, [])
    worker.answers = [{"examples": 8, "held_out": 2}, {"examples": 9, "held_out": 2}]
    (tmp_path / "t.csv").write_text("a\n1\n")
    counts.now()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (counts.now(), heard) == ((8, 2), [1])
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    assert counts.now() == (8, 2)
    assert len(worker.asked) == 2
    now[0] = RECOUNT_S
    counts.now()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert counts.now() == (9, 2)
    (tmp_path / "t.csv").unlink()
    assert counts.now() == (0, 0)
    await counts.close()
    assert worker.asked[0]["do"] == "count_examples"


def test_a_folder_looks_different_when_something_in_it_does(tmp_path: Path) -> None:
    assert looks_of(tmp_path / "none") is None
    (tmp_path / "a").mkdir()
    before = looks_of(tmp_path)
    (tmp_path / "a" / "x.png").touch()
    os.utime(tmp_path / "a", ns=(1, 1))
    assert looks_of(tmp_path) != before
