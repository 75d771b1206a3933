"""The how-to for two machines, run as it is written, between two network namespaces."""

import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from doc_blocks import Block, Terminals, blocks, terminals
from shoal_coordinator.demo.broker import find_mosquitto

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to" / "two-machines.md"
# TEST-NET-1 (RFC 5737): inside the two namespaces nothing else has it.
SERVER, FIELD = "192.0.2.1", "192.0.2.2"
CUT_S = 4.0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Machines:
    """Two network namespaces and the cable between them."""

    server: str
    field: str

    def inside(self, at: str) -> list[str]:
        return ["ip", "netns", "exec", {"server": self.server, "field": self.field}[at]]

    def plug(self, *, into: bool) -> None:
        ip("-n", self.field, "link", "set", "cable", "up" if into else "down")


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Two namespaces that reach each other and nothing else; skipped where they cannot be made."""
    missing = [name for name in ("ip", "openssl", "mosquitto_passwd") if shutil.which(name) is None]
    if find_mosquitto() is None or missing:
        pytest.skip(f"not installed: {', '.join(missing) or 'mosquitto'}")
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root only")
    if not any(user.pw_name == "mosquitto" for user in pwd.getpwall()):
        pytest.skip("there is no user mosquitto: install the distribution's package")
    token = secrets.token_hex(3)
    made = Machines(f"shoal-s-{token}", f"shoal-f-{token}")
    with contextlib.ExitStack() as undo:
        for name in (made.server, made.field):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"this system makes no network namespaces: {error.stderr.strip()}")
            # A namespace takes its end of the cable with it.
            undo.callback(ip, "netns", "delete", name)
        end = ("peer", "name", "cable", "netns", made.field)
        ip("link", "add", "cable", "netns", made.server, "type", "veth", *end)
        for name, address in ((made.server, SERVER), (made.field, FIELD)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user ``mosquitto`` may enter, with its own /etc/mosquitto and /var/lib/mosquitto."""
    made = Path(tempfile.mkdtemp(prefix="shoal-two-"))
    made.chmod(0o755)
    (made / "etc").mkdir()
    (made / "var").mkdir()
    user = pwd.getpwnam("mosquitto")
    os.chown(made / "var", user.pw_uid, user.pw_gid)
    # The configuration is the real one but for where its folders are and that it logs to the terminal.
    shutil.copytree(ROOT / "broker_config", made / "broker_config")
    conf = made / "broker_config" / "field.conf"
    conf.write_text(moved(conf.read_text(), made).replace("log_dest syslog", "log_dest stderr"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def moved(text: str, folder: Path) -> str:
    """Put the how-to's system folders below ``folder`` and its broker at the server's address."""
    moves = {
        "/etc/mosquitto/": f"{folder}/etc/",
        "/var/lib/mosquitto/": f"{folder}/var/",
        "DNS:broker.example": f"IP:{SERVER}",
        "broker.example": SERVER,
    }
    for old, new in moves.items():
        text = text.replace(old, new)
    return text


def test_the_how_to_does_what_it_says(machines: Machines, folder: Path) -> None:
    def change(text: str) -> str:
        return moved(text, folder)

    with terminals(folder, change=change, inside=machines.inside) as opened:
        for block in blocks(HOW_TO):
            if block.terminal == "device-01":
                # As the how-to says: copied to the other machine, gone from this one.
                for number in (1, 2, 3):
                    (folder / "fleet" / f"device-0{number}").rename(folder / f"device-0{number}")
            opened.run(block)
        check_certificates(folder)
        rounds_go_on_after_a_cut(opened, machines)
        run_device_3_as_systemd_does(opened, folder)
        view = json.loads(opened.run(Block("shoal status -o json", 0, at="server")))
    # Five rounds of the how-to, those around the cut, and one with the service.
    assert (view["fleet"], view["version"], view["target"]) == ("plant", 36, 36)
    assert [row["name"] for row in view["devices"]] == ["device-01", "device-02", "device-03"]
    assert all(row["online"] for row in [*view["devices"], *view["hubs"]])
    assert view["rounds"][-1]["devices"] == 3
    assert view["accuracy"] > 0.7
    (release,) = view["releases"]
    assert (release["state"], release["confirmed"], release["version"]) == ("complete", 3, 5)
    assert "release first-light, model version 5, int8" in "".join(opened.output)
    # Nobody's password stands where the broker reads it.
    hashed = (folder / "etc" / "shoal.passwd").read_text().splitlines()
    assert len(hashed) == 7
    assert all(line.split(":")[1].startswith("$7$") for line in hashed)
    assert set(opened.codes().values()) == {0}, opened.logs()


def check_certificates(folder: Path) -> None:
    """Also as strict as Python 3.13 and newer are."""
    words = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "broker.crt"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


def rounds_go_on_after_a_cut(opened: Terminals, machines: Machines) -> None:
    """Pull the cable in the middle of 30 rounds: nothing moves, and all of them are done afterwards."""
    script = ". ./environment; shoal rounds run --count 30 --wait"
    process = opened.start("server", script)
    assert process.stdout is not None
    said: list[str] = []
    for line in iter(process.stdout.readline, b""):
        said.append(line.decode())
        if "made version 10 " in said[-1]:
            break
    machines.plug(into=False)
    try:
        time.sleep(CUT_S)
        assert process.poll() is None
        status = json.loads(opened.run(Block("shoal status -o json", 0, at="server")))
        assert status["version"] < 20
        time.sleep(0.5)
        again = json.loads(opened.run(Block("shoal status -o json", 0, at="server")))
        assert again["version"] == status["version"]
    finally:
        machines.plug(into=True)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(said) + rest.decode() + opened.logs()
    assert "version 35, accuracy" in rest.decode()


def run_device_3_as_systemd_does(opened: Terminals, folder: Path) -> None:
    """Start the agent by the unit of the how-to, with the folders that systemd would hand it."""
    unit = re.search(r"^```ini\n(.*?)^```$", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
    assert unit is not None
    lines = dict(line.split("=", 1) for line in unit[1].splitlines() if "=" in line)
    assert (lines["ConfigurationDirectory"], lines["StateDirectory"]) == ("shoal", "shoal")
    words = Path(lines["ExecStart"].split()[0]).name, *lines["ExecStart"].split()[1:]
    opened.close("device-03")
    etc, var = folder / "service-etc", folder / "service-var"
    (folder / "device-03").rename(etc)
    (etc / "data").rename(var)
    variables = f"CONFIGURATION_DIRECTORY={etc} STATE_DIRECTORY={var}"
    text = f"env {variables} {' '.join(words)}"
    opened.run(Block(text, 0, at="field", terminal="service", ready="connected"))
    opened.run(Block("shoal rounds run --count 1 --wait", 0, at="server"))
    assert not (etc / "data").exists()
