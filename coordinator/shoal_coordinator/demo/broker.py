"""A broker of one's own on loopback: Mosquitto where it is installed, else the embedded one."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final, Literal

from shoal_codecs.transport.errors import BrokerStartError, PortInUseError

Kind = Literal["mosquitto", "embedded"]

_HOST: Final = "127.0.0.1"
_START_S: Final = 10.0
_STOP_S: Final = 2.0
_POLL_S: Final = 0.02


class BrokerHandle:
    """A running broker: what it is, where it listens, and the ways it can end.

    It has a session of its own, so that a Ctrl-C in the terminal does not reach it before the
    parties have said farewell, and it ends when this process does, however that ends.
    """

    def __init__(self, kind: Kind, port: int, command: Sequence[str], log: Path) -> None:
        self.kind = kind
        self.port = port
        self._command = tuple(command)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        """Where the broker writes what it does."""
        return self._log

    @property
    def url(self) -> str:
        """Where parties connect."""
        return f"mqtt://{_HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id, or None while it is down."""
        return self._process.pid if self.is_running and self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the broker and return when it listens; nothing happens where it runs already.

        Raises:
            PortInUseError: something else listens on the port.
            BrokerStartError: it ended, or did not listen in time; the text names its log.
        """
        if self.is_running:
            return
        _check_port(self.port)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(_START_S):
                while not await _listens(self.port):
                    self._check_alive()
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            await self.kill()
            raise BrokerStartError(
                f"the {self.kind} broker did not listen on port {self.port} within {_START_S:.0f} s: "
                f"see {self._log}"
            ) from None
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """End the broker in order, or with SIGKILL where it takes more than two seconds."""
        if self._process is not None and self.is_running:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End the broker with SIGKILL, as a power cut would."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def restart(self) -> None:
        """Start it again on the same port and folder, stopping it first where it runs.

        Raises:
            PortInUseError, BrokerStartError: as ``start``.
        """
        await self.stop()
        await self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _check_alive(self) -> None:
        if self.is_running or self._process is None:
            return
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = " / ".join(lines[-2:])[:300] if lines else "it said nothing"
        if any("Address already in use" in line for line in lines[-3:]):
            raise _port_in_use(self.port)
        raise BrokerStartError(
            f"the {self.kind} broker ended with {self._process.returncode}: {last} (its log is {self._log})"
        )


async def start_broker(
    folder: Path, *, kind: Literal["", "mosquitto", "embedded"] = "", port: int = 0
) -> BrokerHandle:
    """Start a broker of ``kind``; by default Mosquitto where it is installed, else the embedded one.

    Raises:
        PortInUseError, BrokerStartError: see ``start_mosquitto`` and ``start_embedded``.
    """
    if kind == "mosquitto" or (not kind and find_mosquitto() is not None):
        return await start_mosquitto(folder, port)
    return await start_embedded(folder, port)


async def start_mosquitto(folder: Path, port: int = 0, *, configuration: str | None = None) -> BrokerHandle:
    """Start Mosquitto on loopback with its database and log in ``folder``; port 0 takes a free one.

    ``configuration`` is the text of another configuration; by default ``loopback.conf`` is filled in.

    Raises:
        PortInUseError: something else listens on the port.
        BrokerStartError: Mosquitto is not installed or did not come up.
    """
    program = find_mosquitto()
    if program is None:
        raise BrokerStartError(
            "mosquitto is not installed: apt install mosquitto, or choose the embedded broker"
        )
    folder = _make(folder)
    port = port or free_port()
    path = folder / "mosquitto.conf"
    path.write_text(configuration or loopback_configuration(folder, port), encoding="utf-8")
    # Mosquitto does not watch its standard input, so the kernel ends it with its parent.
    guard = shutil.which("setpriv")
    command = [guard, "--pdeathsig", "TERM"] if guard else []
    broker = BrokerHandle("mosquitto", port, [*command, program, "-c", str(path)], folder / "mosquitto.log")
    await broker.start()
    return broker


async def start_embedded(folder: Path, port: int = 0) -> BrokerHandle:
    """Start the embedded broker on loopback; it keeps nothing on disk and knows no access rules.

    Raises:
        PortInUseError: something else listens on the port.
        BrokerStartError: ``iotcore`` is not installed, or the broker did not come up.
    """
    if find_spec("iotcore") is None:
        raise BrokerStartError(
            "the embedded broker is not installed: pip install 'shoal[demo]', or apt install mosquitto"
        )
    folder = _make(folder)
    port = port or free_port()
    path = folder / "embedded.toml"
    template = (broker_config_folder() / "embedded.toml").read_text(encoding="utf-8")
    path.write_text(Template(template).substitute(PORT=port), encoding="utf-8")
    # The package's own child entry point: it ends with its standard input.
    options = json.dumps({"config_path": str(path)})
    command = [sys.executable, "-P", "-m", "iotcore._serve", options]
    broker = BrokerHandle("embedded", port, command, folder / "embedded.log")
    await broker.start()
    return broker


def find_mosquitto() -> str | None:
    """Return the path of Mosquitto, which Debian keeps outside of most people's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin")


def broker_config_folder() -> Path:
    """Return the folder of broker configurations, in a checkout or in an installed package.

    Raises:
        BrokerStartError: it is in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "broker_config", package.parents[1] / "broker_config"):
        if (folder / "loopback.conf").is_file():
            return folder
    raise BrokerStartError("the broker configurations are missing: install shoal again")


def loopback_configuration(folder: Path, port: int) -> str:
    """Return ``loopback.conf`` filled in for ``folder`` and ``port``."""
    source = broker_config_folder()
    return Template((source / "loopback.conf").read_text(encoding="utf-8")).substitute(
        PORT=port,
        FOLDER=folder,
        ACL=source / "fleet.acl",
        # Started as root, Mosquitto would become "mosquitto" and be locked out of a private folder.
        USER_LINE="user root" if os.geteuid() == 0 else "",
    )


def free_port() -> int:
    """Return a loopback port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _check_port(port: int) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((_HOST, port))
        except OSError:
            raise _port_in_use(port) from None


def _port_in_use(port: int) -> PortInUseError:
    return PortInUseError(f"port {port} on {_HOST} is taken: stop what listens there, or choose another port")


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(_HOST, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
