"""The parts of the transport that need no broker."""

import asyncio
import os
import random
import socket
import ssl
import time
from pathlib import Path

import msgspec
import pytest
from aiomqtt.exceptions import MqttCodeError, MqttConnectError
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from shoal_codecs.transport.backoff import Backoff
from shoal_codecs.transport.blob_store import ABANDONED_S, BlobStore
from shoal_codecs.transport.diagnosis import diagnose
from shoal_codecs.transport.errors import (
    BadBrokerUrlError,
    BlobStorageError,
    BrokerAuthenticationError,
    BrokerCertificateError,
    BrokerProtocolError,
    BrokerRefusedError,
    BrokerUnreachableError,
    ConnectionLostError,
    SessionTakenOverError,
    TransportError,
)
from shoal_codecs.transport.inbox import Entry, Inbox
from shoal_codecs.transport.messages import Delivery, LinkStats
from shoal_codecs.transport.settings import BrokerAddress, LinkSettings, parse_broker_url
from shoal_codecs.transport.subscriptions import Subscriptions, matches
from shoal_codecs.transport.traffic import Traffic, read_traffic
from shoal_codecs.wire.blob import describe

ADDRESS = BrokerAddress("broker.example", 1883, tls=False)


# Addresses and settings


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://127.0.0.1:1883", BrokerAddress("127.0.0.1", 1883, tls=False)),
        ("mqtt://broker.example", BrokerAddress("broker.example", 1883, tls=False)),
        ("mqtts://broker.example/", BrokerAddress("broker.example", 8883, tls=True)),
        ("mqtt://[::1]:1884", BrokerAddress("::1", 1884, tls=False)),
    ],
)
def test_a_broker_url_is_read(url: str, address: BrokerAddress) -> None:
    assert parse_broker_url(url) == address


@pytest.mark.parametrize(
    "url",
    ["", "broker", "http://b", "mqtt://", "mqtt://b:x", "mqtt://b:99999", "mqtt://b:0",
     "mqtt://b/path", "mqtt://b?x=1", "mqtt://[::1"],
)  # fmt: skip
def test_a_bad_broker_url_is_refused(url: str) -> None:
    with pytest.raises(BadBrokerUrlError):
        parse_broker_url(url)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadBrokerUrlError) as caught:
        parse_broker_url("mqtt://user:hunter2@broker")
    assert "hunter2" not in str(caught.value)
    assert "password_file" in str(caught.value)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="windows"):
        msgspec.convert({"windows": 3}, LinkSettings)


# Back-off


@given(seed=st.integers(), attempts=st.integers(1, 60))
def test_delays_grow_stay_bounded_and_differ(seed: int, attempts: int) -> None:
    backoff = Backoff(0.2, 30.0, random.Random(seed))
    delays = [backoff.next_delay() for _ in range(attempts)]
    for step, delay in enumerate(delays):
        ceiling = min(30.0, 0.2 * 2.0**step)
        assert ceiling / 2 <= delay <= ceiling
    backoff.reset()
    assert backoff.next_delay() <= 0.2


def test_many_parties_do_not_come_back_at_one_moment() -> None:
    delays = {Backoff(0.2, 30.0, random.Random(seed)).next_delay() for seed in range(16)}
    assert max(delays) - min(delays) > 0.05


# Inbox


def entry(payload: bytes, qos: int) -> Entry:
    return Entry(Delivery("t", payload, retain=False, qos=qos), lambda: None)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40)), max_size=80))
async def test_the_inbox_drops_only_quality_zero_and_keeps_order(
    arrivals: list[tuple[int, int]],
) -> None:
    stats = LinkStats()
    inbox = Inbox(stats, max_loose=5, max_loose_bytes=100)
    put = [entry(bytes(size), qos) for qos, size in arrivals]
    for one in put:
        inbox.put(one)
    kept = []
    for _ in range(len(put) - stats.dropped_in):
        async with asyncio.timeout(1):
            kept.append(await inbox.get())
    loose = [e for e in kept if e.delivery.qos == 0]
    assert len(loose) <= 5
    assert sum(len(e.delivery.payload) for e in loose) <= 100
    assert [e for e in kept if e.delivery.qos == 1] == [e for e in put if e.delivery.qos == 1]
    order = [id(e) for e in put]
    positions = [order.index(id(e)) for e in kept]
    assert positions == sorted(positions)


async def test_the_inbox_says_when_there_is_room_again() -> None:
    inbox = Inbox(LinkStats(), window=3)
    calls: list[int] = []
    inbox.on_room = lambda: calls.append(1)
    for _ in range(4):
        inbox.put(entry(b"", 1))
        inbox.put(entry(b"", 0))
    for expected in ([], [], [1], [1]):
        await inbox.get()
        assert calls == expected


async def test_a_resumed_session_forgets_what_it_will_deliver_again() -> None:
    inbox = Inbox(LinkStats())
    inbox.put(entry(b"again", 1))
    inbox.put(entry(b"once", 0))
    inbox.forget_unacknowledged()
    assert (await inbox.get()).delivery.payload == b"once"


# Subscriptions


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a/", True),
        ("+/+", "/a", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/+/c/#", "a/b/c", True),
        ("a/+/c/#", "a/b/d", False),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, expected: bool) -> None:  # noqa: FBT001
    assert matches(topic_filter, topic) is expected


async def handler(delivery: Delivery) -> None:
    """Do nothing."""


def test_subscriptions_know_what_the_broker_has_yet_to_be_told() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("a", handler, 1)
    subscriptions.add("b/+", handler, 0)
    assert subscriptions.missing() == [("a", 1), ("b/+", 0)]
    subscriptions.confirm("a")
    subscriptions.remove("b/+")
    assert subscriptions.missing() == []
    assert subscriptions.stale() == ["b/+"]
    assert subscriptions.handlers("b/c") == []
    subscriptions.forget_confirmations()
    assert subscriptions.missing() == [("a", 1)]
    assert subscriptions.stale() == []


# Faults of connections


def refused(name: str) -> MqttConnectError:
    return MqttConnectError(ReasonCode(PacketTypes.CONNACK, name))


@pytest.mark.parametrize(
    ("exc", "fault"),
    [
        (ConnectionRefusedError(), BrokerUnreachableError),
        (socket.gaierror(), BrokerUnreachableError),
        (TimeoutError(), BrokerUnreachableError),
        (OSError(101, "Network is unreachable"), BrokerUnreachableError),
        (ssl.SSLCertVerificationError(), BrokerCertificateError),
        (ssl.SSLError(1, "wrong version"), BrokerCertificateError),
        (FileNotFoundError(2, "no", "ca.crt"), BrokerCertificateError),
        (refused("Bad user name or password"), BrokerAuthenticationError),
        (refused("Not authorized"), BrokerAuthenticationError),
        (refused("Unsupported protocol version"), BrokerProtocolError),
        (refused("Quota exceeded"), BrokerRefusedError),
        (MqttCodeError(ReasonCode(PacketTypes.DISCONNECT, "Session taken over")), SessionTakenOverError),
        (MqttCodeError(ReasonCode(PacketTypes.DISCONNECT, "Unspecified error")), ConnectionLostError),
        (ConnectionLostError("known"), ConnectionLostError),
        (RuntimeError("odd"), ConnectionLostError),
    ],
)  # fmt: skip
def test_each_failure_has_its_name_and_a_remedy(exc: Exception, fault: type[TransportError]) -> None:
    found = diagnose(exc, ADDRESS)
    assert type(found) is fault
    assert str(found)


# Traffic


def test_the_kernels_count_is_the_stream_without_its_ends() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
    ):
        far, _ = server.accept()
        near.sendall(bytes(1000))
        far.sendall(bytes(500))
        assert far.recv(1000, socket.MSG_WAITALL) == bytes(1000)
        assert near.recv(500, socket.MSG_WAITALL) == bytes(500)
        assert read_traffic(near) == Traffic(1000, 500)
        assert read_traffic(far) == Traffic(500, 1000)
        far.close()
        assert near.recv(1) == b""
        assert read_traffic(near) == Traffic(1000, 500)
    assert Traffic(3, 4) + Traffic(1, 1) - Traffic(2, 2) == Traffic(2, 3)


# The store


@given(data=st.binary(min_size=1, max_size=20_000), chunk=st.integers(1024, 8192))
def test_a_blob_comes_back_whole_and_in_chunks(
    data: bytes, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("store"))
    ref = store.put(data, chunk)
    assert ref == describe(data, chunk)
    assert store.read(ref.name) == data
    assert b"".join(store.read_chunk(ref, index) for index in range(ref.count)) == data
    part = BlobStore(tmp_path_factory.mktemp("other")).open_part(ref)
    order = list(range(ref.count))
    random.Random(chunk).shuffle(order)
    zero = [i for i in order if store.read_chunk(ref, i).strip(b"\0") == b""]
    assert set(part.missing()) == set(order) - set(zero)
    for index in order:
        part.write(index, store.read_chunk(ref, index))
    assert part.missing() == []
    path = part.finish()
    part.close()
    assert path is not None
    assert path.read_bytes() == data


def test_what_changed_on_disk_is_not_handed_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref = store.put(b"x" * 3000, 1024)
    store.path(ref.name).write_bytes(b"y" * 3000)
    with pytest.raises(BlobStorageError, match="changed on disk"):
        store.read(ref.name)
    with pytest.raises(BlobStorageError, match="changed on disk"):
        store.read_chunk(ref, 1)
    store.drop(ref.name)
    with pytest.raises(BlobStorageError, match="not here"):
        store.read(ref.name)
    store.drop(ref.name)


def test_the_cap_of_a_store_holds(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, cap_bytes=3000)
    ref = store.put(b"a" * 2000)
    assert store.put(b"a" * 2000) == ref
    with pytest.raises(BlobStorageError, match="raise the cap"):
        store.put(b"b" * 1001)
    store.put(b"b" * 1000)
    assert store.size_bytes() == 3000


@pytest.mark.parametrize("name", ["", "../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_digest_names_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BlobStorageError):
        BlobStore(tmp_path).path(name)


def test_a_full_store_drops_parts_whose_fetch_was_given_up_and_keeps_the_others(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, cap_bytes=10_000)
    given_up, under_way = describe(b"a" * 5000), describe(b"b" * 4000)
    for ref in (given_up, under_way):
        store.open_part(ref).close()
    with pytest.raises(BlobStorageError):
        store.put(b"c" * 3000)
    long_ago = time.time() - 2 * ABANDONED_S
    os.utime(tmp_path / f"{given_up.name}.part", (long_ago, long_ago))
    ref = store.put(b"c" * 3000)
    assert store.has(ref.name)
    assert not (tmp_path / f"{given_up.name}.part").exists()
    assert (tmp_path / f"{under_way.name}.part").exists()
