"""A hub's log on a real file, and what happens when it fails."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from hub_bench import DEVICES, HUBS, Fleet
from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.secagg.hub_messages import Aborted, Reminded, RoundMemory, State
from shoal_codecs.secagg.hub_reveal import Wasted
from shoal_codecs.security.sealing import public_sealing_key
from shoal_codecs.wire.messages import AnyMessage, PeerLog
from shoal_codecs.wire.plan import HubOffer, Plan, encode_plan
from shoal_coordinator.hub.database import FILE_NAME
from shoal_coordinator.hub.errors import (
    HubFolderBusyError,
    HubStoreError,
    MissingCiphertextError,
    UnexpectedMessageError,
)
from shoal_coordinator.hub.held_words import HeldWords
from shoal_coordinator.hub.keeper import RoundKeeper
from shoal_coordinator.hub.live import LiveRound
from shoal_coordinator.hub.peers import PeerHeads
from shoal_coordinator.hub.performer import RoundPerformer
from shoal_coordinator.hub.store import HubStore
from shoal_coordinator.hub.sums import WholeShares, whole_shares
from shoal_coordinator.running_sum import RunningSum

T = TypeVar("T")
SECRET = bytes(range(32))
M = b"m" * 32
CIPHERTEXT = os.urandom(64)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet", "mqtt://127.0.0.1:1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HubStore]:
    one = HubStore(tmp_path / "data", SECRET, "hub-1")
    yield one
    one.close()


def plan_with(fleet: Fleet, offer: HubOffer, number: int = 1, **changes: Any) -> Plan:
    return fleet.plan({"hub-1": offer, "hub-2": HubOffer("hub-2", bytes(32), bytes(32))}, number, **changes)


def signed(store: HubStore, fleet: Fleet, number: int = 1) -> Plan:
    draw = store.promises.show(bytes([number]) * 32, bytes(32), bytes([number]) * 32, 4)
    plan = plan_with(fleet, draw.offer, number, base=bytes([number]) * 32)
    stored = store.sign(M[:31] + bytes([number]), encode_plan(plan), plan, b"s" * 64, draw, 5)
    assert public_sealing_key(stored.private) == draw.offer.key
    return plan


def test_everything_comes_back_in_the_order_it_was_logged(
    store: HubStore, fleet: Fleet, tmp_path: Path
) -> None:
    plan, m = signed(store, fleet), M[:31] + b"\x01"
    for device in ("device-02", "device-01"):
        store.put_report(m, device, device.encode(), CIPHERTEXT, 7)
    held = (("device-02", b"device-02", 7), ("device-01", b"device-01", 7))
    steps: list[tuple[Callable[[], None], dict[str, Any]]] = [
        (lambda: store.log_closed(m, {}, 8), {"closed": True}),
        (lambda: store.log_agreement(m, b"d" * 32, DEVICES, 9), {"agreement": (b"d" * 32, DEVICES)}),
        (lambda: store.log_sum(m, b"sum", 9), {"sealed": b"sum"}),
        (lambda: store.log_ending(m, State.SPENT, "", 9), {"ending": State.SPENT}),
        (lambda: store.log_ending(m, State.COMMITTED, "", 9), {"ending": State.COMMITTED}),
    ]
    known: dict[str, Any] = {"reports": held}
    for log, adds in steps:
        log()
        known |= adds
        store.close()
        store.__init__(tmp_path / "data", SECRET, "hub-1")  # type: ignore[misc]
        (stored,) = store.rounds()
        assert stored.memory == RoundMemory(**known)
        assert stored.plan == encode_plan(plan)


def test_a_promise_stays_until_it_is_shown_and_what_is_shown_until_the_next(
    store: HubStore, fleet: Fleet
) -> None:
    promised = store.promises.present()
    assert store.promises.present() == promised
    assert store.promises.shown() is None
    first = store.promises.show(b"1" * 32, b"t" * 32, b"b" * 32, 4)
    assert first.offer == promised.offer("hub-1")
    assert store.promises.shown() == first
    fresh = store.promises.present()
    assert {fresh.key, fresh.nonce, fresh.challenge}.isdisjoint(
        {promised.key, promised.nonce, promised.challenge}
    )
    second = store.promises.show(b"2" * 32, b"t" * 32, b"b" * 32, 5)
    assert store.promises.shown() == second
    assert store.promises.wasted() == Wasted(2, 5)
    signed(store, fleet)
    store.log_sum(M[:31] + b"\x01", b"sum", 9)
    assert store.promises.wasted() == Wasted()
    assert store.promises.shown() is None


def test_a_set_of_promises_is_shown_for_once(store: HubStore) -> None:
    store.promises.show(b"1" * 32, b"t" * 32, b"b" * 32, 4)
    with pytest.raises(HubStoreError):
        store.promises.show(b"1" * 32, b"t" * 32, b"c" * 32, 5)


def test_every_entry_moves_the_head_and_the_chain_remembers_each(store: HubStore, fleet: Fleet) -> None:
    heads = [store.database.head()]
    signed(store, fleet)
    heads.append(store.database.head())
    m = M[:31] + b"\x01"
    for log in (
        lambda: store.log_closed(m, {}, 8),
        lambda: store.log_agreement(m, b"d" * 32, DEVICES, 9),
        lambda: store.log_sum(m, b"sum", 9),
        lambda: store.log_ending(m, State.SPENT, "", 9),
        lambda: store.renounce(bytes(32), 9),
    ):
        log()
        heads.append(store.database.head())
    assert [position for position, _ in heads] == [0, 2, 3, 4, 5, 6, 7]
    assert all(store.database.link(position) == head for position, head in heads)
    assert len({head for _, head in heads}) == len(heads)
    assert store.database.link(99) == b""


def test_a_hub_certifies_only_what_it_never_releases(store: HubStore, fleet: Fleet) -> None:
    signed(store, fleet)
    m = M[:31] + b"\x01"
    assert not store.renounce(m, 6)
    assert store.renounce(bytes(32), 6)
    assert (store.renounced(bytes(32)), store.renounced(m)) == (True, False)
    position = store.database.head()
    assert store.renounce(bytes(32), 7)
    assert store.database.head() == position
    store.log_ending(m, State.ABANDONED, "too few", 9)
    assert store.renounce(m, 10)


def test_a_base_is_answered_until_its_round_is_abandoned(store: HubStore, fleet: Fleet) -> None:
    plan = signed(store, fleet)
    assert store.answered(plan.task, plan.base) == {(plan.task, plan.base)}
    assert store.answered(plan.task, bytes(32)) == set()
    store.log_ending(M[:31] + b"\x01", State.ABANDONED, "too few", 9)
    assert store.answered(plan.task, plan.base) == set()
    assert store.earlier(plan.task, plan.base) == ((M[:31] + b"\x01", encode_plan(plan)),)
    assert (store.numbers(1), store.numbers(2)) == ({1}, set())


def test_the_log_takes_no_second_answer(store: HubStore, fleet: Fleet) -> None:
    signed(store, fleet)
    m = M[:31] + b"\x01"
    store.log_agreement(m, b"d" * 32, DEVICES, 9)
    with pytest.raises(HubStoreError):
        store.log_agreement(m, b"e" * 32, DEVICES[:3], 9)
    assert store.rounds()[0].memory.agreement == (b"d" * 32, DEVICES)


def test_destroyed_means_gone_from_the_files(store: HubStore, fleet: Fleet, tmp_path: Path) -> None:
    signed(store, fleet)
    m = M[:31] + b"\x01"
    store.put_report(m, "device-01", b"id", CIPHERTEXT, 7)
    assert store.ciphertexts(m, ("device-01",)) == [("device-01", CIPHERTEXT)]
    store.destroy(m)
    assert not any(CIPHERTEXT in file.read_bytes() for file in (tmp_path / "data").iterdir())
    assert store.rounds()[0].private == b""
    with pytest.raises(MissingCiphertextError):
        store.ciphertexts(m, ("device-01",))
    store.destroy(m)


def test_private_keys_lie_encrypted_in_a_file_for_the_owner_only(
    store: HubStore, fleet: Fleet, tmp_path: Path
) -> None:
    signed(store, fleet)
    private = store.rounds()[0].private
    assert private
    assert not any(private in file.read_bytes() for file in (tmp_path / "data").iterdir())
    assert (tmp_path / "data" / FILE_NAME).stat().st_mode & 0o077 == 0
    store.close()
    other = HubStore(tmp_path / "data", bytes(32), "hub-1")
    with pytest.raises(HubStoreError, match="put its identity"):
        other.rounds()
    other.close()


def test_finished_rounds_are_not_all_read_back(store: HubStore, fleet: Fleet) -> None:
    for number in range(1, 22):
        signed(store, fleet, number)
        if number != 2:
            store.log_ending(M[:31] + bytes([number]), State.COMMITTED, "", 9)
    numbers = [stored.plan_hash[-1] for stored in store.rounds()]
    assert numbers == [2, *range(6, 22)]


def test_one_process_holds_the_log(store: HubStore, tmp_path: Path) -> None:
    with pytest.raises(HubFolderBusyError):
        HubStore(tmp_path / "data", SECRET, "hub-1")


@pytest.mark.parametrize("content", [b"no database at all" * 99, None])
def test_files_that_are_no_log_of_this_version_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / FILE_NAME
    if content:
        path.write_bytes(content)
    else:
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
    with pytest.raises(HubStoreError, match=r"restore|update the hub"):
        HubStore(tmp_path, SECRET, "hub-1")


async def test_a_hub_whose_log_fails_says_nothing_and_stops(store: HubStore, fleet: Fleet) -> None:
    said: list[AnyMessage] = []

    async def durably(call: Callable[..., T], *args: Any) -> T:
        return call(*args)

    def say(topic: str, message: AnyMessage) -> None:
        said.append(message)

    signed(store, fleet)
    live = LiveRound.of(store.rounds()[0], HUBS[0], HubFloors(), WholeShares(40, 16))
    performer = RoundPerformer(fleet.post("hub-1"), store, durably, say, lambda: None)
    await performer.feed(live, Reminded())
    assert len(said) == 1
    store.close()
    with pytest.raises(HubStoreError):
        await performer.feed(live, Aborted("too slow", 10))
    assert len(said) == 1
    with pytest.raises(HubStoreError):
        await performer.fault


async def test_running_sums_take_no_more_than_they_may(
    store: HubStore, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = signed(store, fleet)
    shares = whole_shares(plan)
    live = LiveRound.of(store.rounds()[0], HUBS[0], HubFloors(), shares)
    parts: Any = SimpleNamespace(identity=SimpleNamespace(name=HUBS[0]))
    nothing: Any = None
    keeper = RoundKeeper(nothing, parts, store, nothing, nothing, nothing)
    keeper._rounds[M] = live
    device, size = min(live.whole), RunningSum(plan).nbytes
    for room, there in ((size - 1, False), (size, True)):
        monkeypatch.setattr("shoal_coordinator.hub.keeper.RUNNING_BYTES", room)
        await keeper._add_to_sum(live, device, bytes(shares.size))
        assert (live.running is not None) is there


def test_a_hub_between_rounds_has_no_numpy_loaded() -> None:
    program = (
        "import sys, shoal_coordinator.hub.service; print({'numpy', 'cryptography'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_log_of_an_older_format_says_what_to_do(store: HubStore, tmp_path: Path) -> None:
    """A log without a chain cannot be vouched for, so that it is not migrated."""
    store.close()
    with sqlite3.connect(tmp_path / "data" / FILE_NAME) as database:
        database.execute("PRAGMA user_version = 1")
    database.close()
    with pytest.raises(HubStoreError, match="has format 1, this hub writes 2: finish its rounds"):
        HubStore(tmp_path / "data", SECRET, "hub-1")


@pytest.mark.parametrize("position", [-1, 1 << 53, 2**64 - 1])
def test_a_position_that_no_log_has_is_refused(store: HubStore, position: int) -> None:
    with pytest.raises(UnexpectedMessageError, match="log entries"):
        PeerHeads(store.database).note("hub-2", position, bytes(32))
    assert PeerHeads(store.database).known("hub-2") == (0, b"")


def test_what_waits_for_the_peers_is_bounded() -> None:
    held, words = HeldWords(3, 1000), [wire_word(number) for number in range(5)]
    for word in words:
        held.put("control", word, 100)
    assert [word for _, word in held.drain()] == words[2:]
    for word in words[:2]:
        held.put("reports", word, 600)
    assert list(held.drain()) == [("reports", words[1])]
    held.put("reports", words[0], 1000)
    assert len(held) == 1


def wire_word(number: int) -> AnyMessage:
    head: dict[str, Any] = {"protocol": 1, "sender": "hub-2", "message_id": bytes(8), "sent_ms": 1}
    return PeerLog(**head, hub="hub-1", session=bytes(8), position=number, head=b"")
