"""Every file in broker_config/ is accepted by a real Mosquitto and enforces what it says."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from brokers import Collector, eventually, running
from shoal_codecs.transport.errors import BrokerStartError, PortInUseError, PublishRefusedError
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Publication
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import (
    BrokerHandle,
    broker_config_folder,
    free_port,
    loopback_configuration,
    start_broker,
    start_embedded,
    start_mosquitto,
)

TOPICS = Topics("fleet")
DEVICE, OTHER, HUB = "device-1", "device-2", "hub-1"
AUDITOR = "\nuser auditor\ntopic read #\n"

# Who writes what, and whether the rules let it through.
WRITES = [
    (DEVICE, TOPICS.device(DEVICE, "status"), True),
    (DEVICE, TOPICS.device(DEVICE, "heartbeat"), True),
    (DEVICE, TOPICS.device(DEVICE, "events"), True),
    (DEVICE, TOPICS.report(HUB, DEVICE), True),
    (DEVICE, TOPICS.device(OTHER, "status"), False),
    (DEVICE, TOPICS.device(OTHER, "heartbeat"), False),
    (DEVICE, TOPICS.report(HUB, OTHER), False),
    (DEVICE, TOPICS.device(DEVICE, "commands"), False),
    (DEVICE, TOPICS.receipt(DEVICE, HUB), False),
    (DEVICE, TOPICS.round(1), False),
    (DEVICE, TOPICS.blob("0" * 64, 0), False),
    (DEVICE, TOPICS.hub(HUB, "control"), False),
    (DEVICE, TOPICS.hub(HUB, "status"), False),
    (DEVICE, TOPICS.coordinator("beacon"), False),
    (DEVICE, TOPICS.coordinator("commands"), False),
    (HUB, TOPICS.hub(HUB, "status"), True),
    (HUB, TOPICS.hub(HUB, "events"), True),
    (HUB, TOPICS.receipt(DEVICE, HUB), True),
    (HUB, TOPICS.receipt(DEVICE, "hub-2"), False),
    (HUB, TOPICS.hub("hub-2", "events"), False),
    (HUB, TOPICS.hub(HUB, "control"), False),
    ("coordinator", TOPICS.coordinator("beacon"), True),
    ("coordinator", TOPICS.coordinator("status"), True),
    ("coordinator", TOPICS.coordinator("events"), True),
    ("coordinator", TOPICS.round(1), True),
    ("coordinator", TOPICS.blob("0" * 64, 0), True),
    ("coordinator", TOPICS.device(DEVICE, "commands"), True),
    ("coordinator", TOPICS.hub(HUB, "control"), True),
    ("coordinator", TOPICS.receipt(DEVICE, "coordinator"), True),
    ("coordinator", TOPICS.device(DEVICE, "status"), False),
    ("coordinator", TOPICS.coordinator("commands"), False),
    ("operator", TOPICS.coordinator("commands"), True),
    ("operator", TOPICS.coordinator("beacon"), False),
]

# Who gets to read what.
READS = [
    (DEVICE, TOPICS.device(DEVICE, "commands"), True),
    (DEVICE, TOPICS.receipt(DEVICE, HUB), True),
    (DEVICE, TOPICS.round(1), True),
    (DEVICE, TOPICS.blob("0" * 64, 0), True),
    (DEVICE, TOPICS.hub(HUB, "status"), True),
    (DEVICE, TOPICS.coordinator("beacon"), True),
    (DEVICE, TOPICS.device(OTHER, "commands"), False),
    (DEVICE, TOPICS.receipt(OTHER, HUB), False),
    (DEVICE, TOPICS.report(HUB, OTHER), False),
    (DEVICE, TOPICS.device(OTHER, "heartbeat"), False),
    (HUB, TOPICS.hub(HUB, "control"), True),
    (HUB, TOPICS.report(HUB, DEVICE), True),
    (HUB, TOPICS.hub("hub-2", "events"), True),
    (HUB, TOPICS.report("hub-2", DEVICE), False),
    (HUB, TOPICS.hub("hub-2", "control"), False),
    ("coordinator", TOPICS.device(DEVICE, "status"), True),
    ("coordinator", TOPICS.device(DEVICE, "heartbeat"), True),
    ("coordinator", TOPICS.device(DEVICE, "events"), True),
    ("coordinator", TOPICS.hub(HUB, "events"), True),
    ("coordinator", TOPICS.coordinator("commands"), True),
    ("coordinator", TOPICS.report("coordinator", DEVICE), True),
    ("coordinator", TOPICS.report(HUB, DEVICE), False),
    ("operator", TOPICS.coordinator("status"), True),
    ("operator", TOPICS.coordinator("events"), True),
    ("operator", TOPICS.device(DEVICE, "events"), False),
]


async def with_witness(folder: Path, rules: str) -> BrokerHandle:
    """Mosquitto from loopback.conf, with fleet.acl and one more user."""
    port = free_port()
    return await start_mosquitto(folder, port, configuration=add_rules(folder, port, rules))


def add_rules(folder: Path, port: int, rules: str) -> str:
    folder.mkdir()
    acl = folder / "fleet.acl"
    original = broker_config_folder() / "fleet.acl"
    acl.write_text(original.read_text() + rules)
    return loopback_configuration(folder, port).replace(str(original), str(acl))


async def test_nobody_writes_under_anothers_name(tmp_path: Path) -> None:
    broker = await with_witness(tmp_path / "b", AUDITOR)
    seen = Collector()
    try:
        async with running(broker.url, "auditor") as auditor:
            await auditor.subscribe(f"{TOPICS.prefix}/#", seen)
            for user in dict.fromkeys(user for user, _, _ in WRITES):
                async with running(broker.url, user) as link:
                    for _, topic, allowed in (row for row in WRITES if row[0] == user):
                        if allowed:
                            await link.publish(topic, user.encode())
                        else:
                            with pytest.raises(PublishRefusedError):
                                await link.publish(topic, user.encode())
                            await link.publish(topic, user.encode(), qos=0)
            expected = [(topic, user.encode()) for user, topic, allowed in WRITES if allowed]
            await seen.count(len(expected))
            await asyncio.sleep(0.05)
    finally:
        await broker.stop()
    assert [(d.topic, d.payload) for d in seen.deliveries] == expected


async def test_nobody_reads_what_is_anothers(tmp_path: Path) -> None:
    broker = await with_witness(tmp_path / "b", "\nuser author\ntopic write #\n")
    try:
        async with running(broker.url, "author") as author:
            for user in dict.fromkeys(user for user, _, _ in READS):
                seen = Collector()
                async with running(broker.url, user) as link:
                    await link.subscribe(f"{TOPICS.prefix}/#", seen)
                    mine = [row for row in READS if row[0] == user]
                    for _, topic, _ in mine:
                        await author.publish(topic, b"")
                    expected = [topic for _, topic, allowed in mine if allowed]
                    await seen.count(len(expected))
                    await asyncio.sleep(0.05)
                assert [d.topic for d in seen.deliveries] == expected
    finally:
        await broker.stop()


async def test_a_will_under_anothers_name_is_not_delivered(tmp_path: Path) -> None:
    broker = await with_witness(tmp_path / "b", AUDITOR)
    seen = Collector()
    try:
        async with running(broker.url, "auditor") as auditor:
            await auditor.subscribe(f"{TOPICS.prefix}/#", seen)
            for topic in (TOPICS.device(OTHER, "status"), TOPICS.device(DEVICE, "status")):
                async with running(broker.url, DEVICE, will=Publication(topic, b"gone")) as link:
                    assert link._session is not None
                    link._session.abort()
                    await eventually(lambda link=link: link.stats.reconnects == 1)  # type: ignore[misc]
            await seen.count(1)
    finally:
        await broker.stop()
    assert [d.topic for d in seen.deliveries] == [TOPICS.device(DEVICE, "status")]


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path, *names: str) -> None:
    """An authority, a broker's certificate for 127.0.0.1, and one for each of ``names``."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "1",
            "-subj", "/CN=authority")  # fmt: skip
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("broker", *names):
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", f"{name}.crt", "-days", "1", "-extfile", "san")  # fmt: skip


def make_password(folder: Path, name: str, *options: str) -> None:
    """Tell the broker a password, and write it where the party reads it."""
    subprocess.run(
        ["mosquitto_passwd", *options, "-b", "passwd", name, f"secret of {name}"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / f"{name}.password").write_text(f"secret of {name}\n")


def field_configuration(folder: Path, port: int) -> str:
    """field.conf with its paths moved into ``folder``, and nothing else changed."""
    moves = {
        "listener 8883": f"listener {port} 127.0.0.1",
        "/etc/mosquitto/certs/": f"{folder}/",
        "/etc/mosquitto/shoal.passwd": f"{folder}/passwd",
        "/etc/mosquitto/shoal.acl": str(broker_config_folder() / "fleet.acl"),
        "/var/lib/mosquitto/": f"{folder}/",
        "log_dest syslog": f"log_dest file {folder}/mosquitto.log\nuser root",
    }
    text = (broker_config_folder() / "field.conf").read_text()
    for old, new in moves.items():
        assert old in text
        text = text.replace(old, new)
    return text


async def test_the_field_configuration_with_passwords(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    make_password(tmp_path, DEVICE, "-c")
    make_password(tmp_path, "coordinator")
    port = free_port()
    broker = await start_mosquitto(tmp_path, port, configuration=field_configuration(tmp_path, port))
    url, ca = f"mqtts://127.0.0.1:{port}", str(tmp_path / "ca.crt")
    password = str(tmp_path / f"{DEVICE}.password")
    try:
        async with running(url, DEVICE, ca_file=ca, password_file=password) as device:
            await device.publish(TOPICS.device(DEVICE, "status"), bytes(300_000))
            with pytest.raises(PublishRefusedError):
                await device.publish(TOPICS.device(OTHER, "status"), b"")
            assert device.traffic.sent > 300_000
        assert await fault_of(url, "coordinator", ca_file=ca, password_file=password) == (
            "BrokerAuthenticationError"
        )
        assert await fault_of(url, "nobody", ca_file=ca) == "BrokerAuthenticationError"
        assert await fault_of(url, DEVICE, password_file=password) == "BrokerCertificateError"
        assert await fault_of(url, DEVICE, ca_file=str(tmp_path / "none")) == ("BrokerCertificateError")
        assert await fault_of(url, DEVICE, ca_file=ca, password_file="/none") == ("BrokerCertificateError")
    finally:
        await broker.stop()


async def test_the_field_configuration_with_client_certificates(tmp_path: Path) -> None:
    make_certificates(tmp_path, DEVICE)
    port = free_port()
    text = (
        field_configuration(tmp_path, port)
        .replace("password_file ", "#password_file ")
        .replace("#require_certificate", "require_certificate")
        .replace("#use_identity", "use_identity")
    )
    broker = await start_mosquitto(tmp_path, port, configuration=text)
    url, ca = f"mqtts://127.0.0.1:{port}", str(tmp_path / "ca.crt")
    cert, key = str(tmp_path / f"{DEVICE}.crt"), str(tmp_path / f"{DEVICE}.key")
    try:
        # The name comes from the certificate, whatever the user name says.
        async with running(url, "coordinator", ca_file=ca, cert_file=cert, key_file=key) as device:
            seen = Collector()
            await device.subscribe(TOPICS.device(DEVICE, "commands"), seen)
            await device.publish(TOPICS.device(DEVICE, "status"), b"")
            with pytest.raises(PublishRefusedError):
                await device.publish(TOPICS.coordinator("beacon"), b"")
        assert await fault_of(url, DEVICE, ca_file=ca) == "BrokerProtocolError"
    finally:
        await broker.stop()


async def fault_of(url: str, name: str, **settings: Any) -> str:
    """The first fault a link to ``url`` reports."""
    with structlog.testing.capture_logs() as logs:
        async with running(url, name, wait=False, **settings) as link:
            await eventually(lambda: any("fault" in line for line in logs))
            assert not link.is_connected
    (fault, *_) = [line["fault"] for line in logs if "fault" in line]
    return str(fault)


@pytest.mark.parametrize("start", [start_mosquitto, start_embedded])
async def test_a_busy_port_is_named(
    tmp_path: Path, start: Callable[[Path, int], Awaitable[BrokerHandle]]
) -> None:
    port = free_port()
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    try:
        with pytest.raises(PortInUseError, match=f"port {port}.*choose another"):
            await start(tmp_path, port)
    finally:
        server.close()
        await server.wait_closed()


async def test_a_broker_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BrokerStartError, match="Unknown configuration variable"):
        await start_mosquitto(tmp_path, free_port(), configuration="no_such_option 1\n")


async def test_a_broker_ends_in_order_and_by_force(tmp_path: Path) -> None:
    broker = await start_broker(tmp_path)
    assert broker.kind == "mosquitto"
    first = broker.pid
    assert first
    await broker.restart()
    assert broker.pid not in {None, first}
    await broker.kill()
    assert not broker.is_running
    await broker.start()
    await broker.stop()
    await broker.stop()
    assert broker.pid is None


async def test_retained_messages_survive_a_stop(mosquitto: BrokerHandle) -> None:
    seen = Collector()
    topic = TOPICS.coordinator("status")

    async def prepare(link: Link) -> None:
        await link.subscribe(topic, seen)

    async with running(mosquitto.url, "coordinator") as link:
        await link.publish(topic, b"kept", retain=True)
    await mosquitto.restart()
    async with running(mosquitto.url, "operator", prepare=prepare):
        await seen.count(1)
    assert seen.deliveries[0].retain


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
async def test_a_broker_ends_with_the_process_that_started_it(tmp_path: Path, kind: str) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from shoal_coordinator.demo.broker import start_broker\n"
        "async def main():\n"
        "    broker = await start_broker(pathlib.Path(sys.argv[1]), kind=sys.argv[2])\n"
        "    print(broker.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, tmp_path, kind, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert not has_ended(pid)
    parent.kill()
    await parent.wait()
    await eventually(lambda: has_ended(pid))


def has_ended(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
