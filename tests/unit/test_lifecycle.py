"""Real processes that get real signals."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal_codecs.lifecycle import FINISHED, run_until_stopped

WAIT = """
import asyncio
from shoal_codecs.lifecycle import until_stopped
async def main():
    print("ready", flush=True)
    print(await until_stopped({follow}), flush=True)
asyncio.run(main())
"""
EARLY = """
from shoal_codecs.lifecycle import remember_signals, until_stopped
remember_signals()
print("ready", flush=True)
import asyncio, time
end = time.monotonic() + 0.5
while time.monotonic() < end:
    time.sleep(0.05)
print(asyncio.run(until_stopped(False)), flush=True)
"""
WORK = """
import asyncio
from shoal_codecs.lifecycle import run_until_stopped
async def work():
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    finally:
        print("work ended", flush=True)
async def farewell():
    print("goodbye", flush=True)
    await asyncio.sleep(60)
print(asyncio.run(run_until_stopped(work(), farewell=farewell)), flush=True)
"""
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(program: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def output(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    assert process.stderr is not None
    lines = process.stdout.read().split("\n")[:-1]
    assert process.stderr.read() == ""
    assert process.wait(10) == 0
    return lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_is_the_reason(start: Start, number: signal.Signals) -> None:
    process = start(WAIT.format(follow=False))
    time.sleep(0.1)
    process.send_signal(number)
    assert output(process) == [number.name]


def test_a_parent_that_goes_away_stops_its_child(start: Start) -> None:
    process = start(WAIT.format(follow=True))
    assert process.stdin is not None
    process.stdin.write("what the parent writes is ignored")
    process.stdin.flush()
    time.sleep(0.1)
    assert process.poll() is None
    process.stdin.close()
    assert output(process) == ["stdin ended"]


def test_the_end_of_stdin_is_ignored_unless_asked_for(start: Start) -> None:
    process = start(WAIT.format(follow=False))
    assert process.stdin is not None
    process.stdin.close()
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert output(process) == ["SIGTERM"]


@pytest.mark.parametrize("source", [os.devnull, __file__])
def test_a_stdin_nobody_holds_stops_at_once(source: str) -> None:
    with Path(source).open(encoding="utf-8") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", WAIT.format(follow=True)],
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert done.stdout == "ready\nstdin ended\n"


def test_a_signal_before_the_loop_runs_is_kept(start: Start) -> None:
    process = start(EARLY)
    process.send_signal(signal.SIGINT)
    assert output(process) == ["SIGINT"]


def test_the_farewell_is_bounded_and_then_work_is_cancelled(start: Start) -> None:
    process = start(WORK)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert output(process) == ["goodbye", "work ended", "SIGINT"]


async def test_work_that_ends_is_finished_and_says_goodbye() -> None:
    said: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)

    async def farewell() -> None:
        said.append("goodbye")

    assert await run_until_stopped(work(), farewell=farewell) == FINISHED
    assert said == ["goodbye"]


async def test_what_work_raises_is_raised_after_the_farewell() -> None:
    said: list[str] = []

    async def work() -> None:
        raise LookupError("the work failed")

    async def farewell() -> None:
        said.append("goodbye")

    with pytest.raises(LookupError, match="the work failed"):
        await run_until_stopped(work(), farewell=farewell)
    assert said == ["goodbye"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def work() -> None:
        await asyncio.sleep(0)

    asyncio.run(run_until_stopped(work()))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("party", ["hub.__main__", "cli.serve"])
def test_nothing_loads_numpy_before_its_threads_are_counted(party: str) -> None:
    script = (
        f"import sys, shoal_coordinator.{party}\n"
        "assert 'numpy' not in sys.modules\n"
        "from shoal_codecs.lifecycle import one_thread_for_arrays\n"
        "one_thread_for_arrays()\n"
        "import os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    )
    for given, wanted in ((None, "1"), ("3", "3")):
        environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
        environment |= {"OPENBLAS_NUM_THREADS": given} if given else {}
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == wanted


def test_vectors_come_back_without_fresh_pages() -> None:
    script = (
        "import resource, sys\n"
        "from shoal_codecs.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def some(): return [b'x' * 1_876_000 for _ in range(5)]\n"
        "some(); some(); before = faults()\n"
        "for _ in range(20): some()\n"
        "print(faults() - before)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    found = {
        kept: int(
            subprocess.run(
                [sys.executable, "-c", script, kept],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for kept in ("kept", "given back")
    }
    assert found["kept"] < 1000 < found["given back"]
