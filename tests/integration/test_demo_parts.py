"""The demo's relay and its children, on real sockets and real processes."""

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import pytest

from shoal_coordinator.demo.processes import ChildFailedError, Children, Command
from shoal_coordinator.demo.proxy import CuttableLink

ENDS_WITH_PARENT = "import sys; print('up', flush=True); sys.stdin.read()"
IGNORES_TERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(60)"
)


async def echo_server() -> tuple[asyncio.Server, int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_a_cut_link_drops_and_refuses_and_comes_back_on_the_same_port() -> None:
    server, port = await echo_server()
    link = CuttableLink("127.0.0.1", port)
    await link.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    before = link.port
    await link.cut()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", before)
    await link.start()
    assert link.port == before
    reader, again = await asyncio.open_connection("127.0.0.1", link.port)
    again.write(b"back")
    assert await reader.readexactly(4) == b"back"
    for stream in (writer, again):
        stream.close()
    await link.cut()
    server.close()


async def started(children: Children, folder: Path, name: str, code: str) -> Command:
    command = Command(name, ("-c", code), folder / f"{name}.log")
    await children.start(command)
    async with asyncio.timeout(20):
        while "up" not in command.log.read_text():
            await asyncio.sleep(0.02)
    return command


async def test_children_are_killed_started_again_and_stopped(tmp_path: Path) -> None:
    children = Children()
    await started(children, tmp_path, "one", ENDS_WITH_PARENT)
    await started(children, tmp_path, "deaf", IGNORES_TERM)
    await children.kill("one")
    children.check()
    await children.restart("one")
    children.check()
    mine = psutil.Process().children(recursive=True)
    assert len(mine) == 2
    await children.stop()
    assert not [process for process in mine if process.is_running()]


async def test_a_child_that_ends_by_itself_is_named_with_its_last_words(tmp_path: Path) -> None:
    children = Children()
    code = "import sys; print('port 1883 is busy'); sys.exit(3)"
    await children.start(Command("hub-1", ("-c", code), tmp_path / "hub-1.log"))
    with pytest.raises(ChildFailedError, match=r"hub-1 ended with 3: port 1883 is busy"):
        await check_for(children, seconds=20)
    await children.stop()


async def check_for(children: Children, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while True:
            children.check()
            await asyncio.sleep(0.02)


async def test_children_end_with_a_launcher_that_was_killed(tmp_path: Path) -> None:
    launcher = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from shoal_coordinator.demo.processes import Children, Command\n"
        "async def main():\n"
        "    children = Children()\n"
        f"    command = Command('c', ('-c', {ENDS_WITH_PARENT!r}), Path({str(tmp_path / 'c.log')!r}))\n"
        "    await children.start(command)\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n",
        stdout=asyncio.subprocess.PIPE,
    )
    assert launcher.stdout
    assert await launcher.stdout.readline() == b"ready\n"
    children = psutil.Process(launcher.pid).children()
    assert len(children) == 1
    launcher.send_signal(signal.SIGKILL)
    await launcher.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
