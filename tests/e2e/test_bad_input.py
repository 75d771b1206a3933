"""A running fleet under bad input: real processes on a real broker; each fault is named, nothing is lost."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from fleet_bench import LiveFleet, change_settings, live_fleet
from shoal_codecs.security.identity import Identity
from shoal_codecs.security.sealing import seal
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.blob import BlobRef, describe
from shoal_codecs.wire.framing import MAX_FRAME_BYTES, decode_frame, encode_frame
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.plan import decode_plan, plan_hash
from shoal_codecs.wire.report import share_context
from shoal_codecs.wire.single import Prekey
from shoal_codecs.wire.task import decode_task, encode_task
from shoal_coordinator.artefacts import templates_of_file
from shoal_coordinator.config import shipped
from shoal_coordinator.demo.fleet import FLEET, DemoFleet
from shoal_coordinator.demo.state import DemoOptions
from shoal_edge.reports import report_messages, sign_report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
DEVICES = tuple(f"device-0{number}" for number in range(1, 5))
OLD_PROTOCOL = DEVICES[3]
"""A device whose link speaks MQTT 3.1.1: there the broker does not hold oversized messages back for it."""


def quick(layout: DemoFleet) -> None:
    """One device of four may be missing, and nobody waits long for it."""
    floors = {"floor_share": 0.75, "quorum_share": 0.75, "patience_s": 0.5}
    change_settings(layout.config_of("coordinator"), rounds=floors)
    for hub in ("hub-1", "hub-2"):
        if layout.config_of(hub).exists():
            change_settings(layout.config_of(hub), floors={"cohort_share": 0.75})
    for device in layout.devices:
        change_settings(layout.config_of(device), heartbeat_s=1.0)
    if OLD_PROTOCOL in layout.devices:
        change_settings(layout.config_of(OLD_PROTOCOL), link={"mqtt_version": "3.1.1"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveFleet]:
    """Coordinator, two hubs and four devices, one round behind them."""
    folder = tmp_path_factory.mktemp("fleet")
    async with live_fleet(folder, DemoOptions(devices=4, calm=True), prepare=quick) as made:
        await made.rounds(1, devices=4)
        yield made


def nested(depth: int = 5000) -> bytes:
    return b"\x91" * depth + b"\xc0"


# --- bytes and words that cannot be believed --------------------------------------------------------


async def test_bytes_that_are_no_message(fleet: LiveFleet) -> None:
    topics = fleet.topics
    good = next(one.payload for one in fleet.heard if isinstance(one.message, wire.Reply))
    bad = (b"\xc1", b"\xff" * 300, good[: len(good) // 2], nested(), encode_frame(nested(), bytes(64)))
    at = {
        "coordinator": topics.device("device-01", "events"),
        "hub-1": topics.report("hub-1", "device-01"),
        "hub-2": topics.hub("hub-2", "control"),
        "device-02": topics.device("device-02", "commands"),
        "device-03": topics.receipt("device-03", "hub-1"),
    }
    marks = {party: fleet.lines(party) for party in at}
    for topic in at.values():
        await fleet.throw(topic, *bad)
    for party, topic in at.items():
        lines = await fleet.lines_about(topic, party, marks[party], len(bad))
        assert {line.get("error") or line.get("fault") for line in lines} == {"MalformedMessageError"}
        assert all(line.get("remedy") for line in lines), lines
    view = await fleet.rounds(2, devices=4)
    assert view.refused["MalformedMessageError"] >= len(bad)


async def test_an_oversized_frame(fleet: LiveFleet) -> None:
    frame = encode_frame(bytes(MAX_FRAME_BYTES), bytes(64))
    topic = fleet.topics.device(OLD_PROTOCOL, "commands")
    # The broker keeps it from parties that told their limit (MQTT 5) and gives it to those that cannot.
    await fleet.throw(fleet.topics.device("device-01", "events"), frame)
    await fleet.throw(topic, frame)
    line = await fleet.logged(OLD_PROTOCOL, "OversizedMessageError", topic)
    assert "blob" in line["remedy"]
    await fleet.rounds(2, devices=4)


async def test_words_said_again_forged_or_in_anothers_place(fleet: LiveFleet) -> None:
    topics, before = fleet.topics, dict(fleet.view.refused)
    heard = next(
        one
        for one in fleet.heard
        if isinstance(one.message, wire.Reply) and one.message.sender == "device-01"
    )
    frame = decode_frame(heard.payload)
    await fleet.throw(heard.topic, heard.payload)
    await fleet.throw(heard.topic, encode_frame(frame.content, bytes(64)), encode_frame(frame.content, None))
    await fleet.throw(topics.device("device-02", "events"), heard.payload)
    # A key of one's own under an enrolled name; a device that nobody enrolled.
    post = fleet.post("device-01")
    post.identity = Identity("device-01", os.urandom(32))
    await fleet.throw(heard.topic, post.encode(heard.topic, post.compose(wire.BlobWanted, digest=bytes(32))))
    post.identity = Identity("stranger", os.urandom(32))
    place = topics.device("stranger", "events")
    await fleet.throw(place, post.encode(place, post.compose(wire.BlobWanted, digest=bytes(32))))

    commands = topics.device("device-02", "commands")
    order = next(one.payload for one in fleet.heard if one.topic == commands and one.message)
    await fleet.throw(commands, order)
    assert await fleet.logged("device-02", "ReplayedMessageError", commands)
    await fleet.throw(topics.device("device-03", "commands"), order)
    assert await fleet.logged("device-03", "BadSignatureError", "device-03/commands")
    control = topics.hub("hub-1", "control")
    await fleet.say("hub-2", control, wire.RoundAborted, round=1, plan_hash=bytes(32), reason="not mine")
    assert await fleet.logged("hub-1", "SenderMismatchError", control)

    view = await fleet.rounds(2, devices=4)
    for name, count in {
        "ReplayedMessageError": 1,
        "BadSignatureError": 2,
        "UnsignedMessageError": 1,
        "SenderMismatchError": 1,
        "UnknownPartyError": 1,
    }.items():
        assert view.refused.get(name, 0) >= before.get(name, 0) + count, (name, view.refused)


async def test_words_about_a_round_that_is_not_open(fleet: LiveFleet) -> None:
    topics, nowhere = fleet.topics, 999_999
    head: dict[str, Any] = {"round": nowhere, "plan_hash": b"\x07" * 32}
    before = dict(fleet.view.refused)
    events = topics.device("device-01", "events")
    await fleet.say("device-01", events, wire.Reply, round=nowhere, plan_id=b"\x07" * 8, accepted=True)
    counts: dict[str, Any] = {"examples": 3, "correct": 1, "loss_sum": 1.0, "round": nowhere}
    await fleet.say("device-01", events, wire.Evaluated, **counts, model_id=b"\x07" * 8)
    counts["loss_sum"] = float("nan")
    await fleet.say("device-01", events, wire.Evaluated, **counts, model_id=b"\x07" * 8)

    report = topics.report("hub-1", "device-01")
    await fleet.say("device-01", report, wire.ReportPart, round=nowhere, index=0, count=1, data=b"x")
    assert (await fleet.logged("hub-1", "UnknownRoundError", report))["remedy"]
    peer = topics.hub("hub-2", "events")
    await fleet.say("hub-2", peer, wire.Agreement, **head, set_digest=bytes(32), members=DEVICES)
    assert (await fleet.logged("hub-1", "UnknownRoundError", peer))["remedy"]

    receipt = topics.receipt("device-02", "hub-1")
    await fleet.say("hub-1", receipt, wire.Receipt, **head, report_id=bytes(32))
    await fleet.logged("device-02", "OutOfRoundError")
    old = fleet.all(wire.Evaluate, on="device-03/")[-1]
    commands = topics.device("device-03", "commands")
    await fleet.say("coordinator", commands, wire.Evaluate, round=nowhere, task=old.task, model=old.model)
    await fleet.logged("device-03", "EvaluationRefusedError")
    await fleet.say("coordinator", commands, wire.Cancel, **head, reason="of no round")
    await fleet.logged("device-03", "OutOfRoundError")

    view = await fleet.rounds(2, devices=4)
    for name in ("OutOfRoundError", "UnknownModelError", "InvalidCountsError"):
        assert view.refused.get(name, 0) > before.get(name, 0), (name, view.refused)


async def test_numbers_beyond_all_measure(fleet: LiveFleet) -> None:
    """Well-formed words with numbers nobody means: from a stranger's telemetry and under a device's key."""
    topics = fleet.topics
    for value in (
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        2**64 - 1,
        -(2**63),
        "x" * 100_000,
        b"\xff" * 99,
    ):
        readings = dict.fromkeys(Reading, value) | {9999: value}
        message = wire.Heartbeat(
            protocol=1,
            sender="guest",
            message_id=os.urandom(8),
            sent_ms=2**63,
            sequence=2**64 - 1,
            full=True,
            readings=readings,
        )
        topic = topics.device("guest", "heartbeat")
        await fleet.throw(topic, fleet.post("device-01").encode(topic, message))
    events = topics.device("device-01", "events")
    for number in (-(2**63), 2**63, 2**64 - 1):
        await fleet.say("device-01", events, wire.Reply, round=number, plan_id=b"", accepted=False, reason="")
        await fleet.say(
            "device-01", events, wire.InstallReport, release="x" * 9999, version=number, state="confirmed"
        )
        counts = {
            "examples": number,
            "correct": number,
            "loss_sum": 1e308,
            "sent": number,
            "received": number,
        }
        await fleet.say("device-01", events, wire.Evaluated, round=number, model_id=b"", **counts)
        for hub in ("hub-1", "hub-2"):
            report = topics.report(hub, "device-01")
            part = {"round": number, "index": number, "count": number, "data": b""}
            await fleet.say("device-01", report, wire.ReportPart, **part)
    view = await fleet.rounds(2, devices=4)
    assert any(row.name == "guest" and row.trust == "guest" for row in view.devices)


class AnyOffer(msgspec.Struct, frozen=True, array_like=True):
    """A model offer of whatever: the real one cannot be made so."""

    version: int
    digest: bytes
    whole: BlobRef
    parent: bytes = b""
    step: bytes = b""
    chain: tuple[BlobRef, ...] = ()


async def test_words_that_nobody_means_under_a_partys_own_key(fleet: LiveFleet) -> None:
    """Coordinator, hub and device beside themselves: refused by name, nobody's process or memory suffers."""
    topics, before = fleet.topics, dict(fleet.view.refused)
    old = fleet.all(wire.Evaluate, on="device-03/")[-1]
    commands = topics.device("device-03", "commands")
    step = describe(b"a step")
    offers = (
        AnyOffer(9, b"", old.model.whole),
        AnyOffer(9, bytes(32), old.model.whole, chain=(step,) * 10_000),
        AnyOffer(9, bytes(32), old.model.whole, parent=bytes(31), step=b"x" * 100_000),
    )
    for offer in offers:
        since = fleet.lines("device-03")
        await fleet.say("coordinator", commands, wire.Evaluate, round=9, task=old.task, model=offer)
        await fleet.logged("device-03", "MalformedMessageError", commands, since=since)
    endless = BlobRef(b"\x07" * 32, 1 << 32, 1 << 20, (bytes(32),) * 4096)
    huge = AnyOffer(9, b"\x08" * 32, endless)
    since = fleet.lines("device-03")
    await fleet.say("coordinator", commands, wire.Evaluate, round=9, task=old.task, model=huge)
    # Refused before a byte of it is fetched: the device sent no report to such a round.
    await fleet.logged("device-03", "EvaluationRefusedError", since=since)

    control, head = topics.hub("hub-1", "control"), {"round": 7, "plan_hash": bytes(32)}
    promise = HubPromise("hub-2", b"", b"\xff" * 1000, b"")
    await fleet.say(
        "coordinator", control, wire.RevealWanted, task=b"x" * 9999, base=b"", promises=(promise,) * 1000
    )
    assert (await fleet.logged("hub-1", "PromiseSetError"))["remedy"]
    await fleet.say("coordinator", control, wire.PlanProposal, plan=os.urandom(100_000), signature=b"")
    assert (await fleet.logged("hub-1", "InvalidPlanError"))["remedy"]
    peer = topics.hub("hub-2", "events")
    for position in (-1, 2**64 - 1):
        since = fleet.lines("hub-1")
        await fleet.say("hub-2", peer, wire.ReportSet, **head, reports={}, position=position, head=bytes(32))
        await fleet.logged("hub-1", "UnexpectedMessageError", peer, since=since)
    for number in range(300):
        claim = {"hub": "hub-1", "session": os.urandom(8), "position": number << 50, "head": bytes(number)}
        await fleet.say("hub-2", peer, wire.PeerLog, **claim)

    beat = topics.device("device-02", "heartbeat")
    for place, value in enumerate((2**64 - 1, 0, -(2**63), 2**53, -(2**53), 1e300, "x" * 9999, None)):
        readings = {
            Reading.SENT: value,
            Reading.RECEIVED: value,
            Reading.METRICS: value,
            Reading.BYTES_PER_DAY: value if value != 2**53 else 0,
        }
        await fleet.say(
            "device-02", beat, wire.Heartbeat, sequence=2**40 + place, full=False, readings=readings
        )
    bundles = tuple(Prekey(os.urandom(place % 64), b"", b"", b"") for place in range(5000))
    await fleet.say("device-01", topics.prekeys("device-01"), wire.Prekeys, bundles=bundles)
    boxes = (b"",) * 60_000
    shares = {"round": 9, "plan_hash": bytes(32), "draw": b"", "seed": b"", "boxes": boxes}
    await fleet.say("device-01", topics.single(9, "shares", "device-01"), wire.SingleShares, **shares)
    view = await fleet.rounds(2, devices=4)
    assert view.refused.get("ValueError", 0) == before.get("ValueError", 0)


# --- inside a round ---------------------------------------------------------------------------------


async def test_shares_that_cannot_be_added(fleet: LiveFleet) -> None:
    """A device with its real key and a program of its own reports nonsense; the round goes on without it."""
    device, mark = "device-04", fleet.mark
    await fleet.children.kill(device)
    await fleet.online(device, online=False)
    session: dict[str, Any] = {"session": os.urandom(8), "agent_version": "own"}
    status = fleet.topics.device(device, "status")
    await fleet.say(device, status, wire.DeviceStatus, online=True, **session)
    readings = {Reading.PHASE: "idle", Reading.EXAMPLES: 50, Reading.MEMORY_AVAILABLE: 4000}
    beat = fleet.topics.device(device, "heartbeat")
    await fleet.say(device, beat, wire.Heartbeat, sequence=0, full=True, readings=readings)
    await fleet.online(device)

    target = await fleet.ask(1)
    invitation = await fleet.first(wire.Invitation, on=device, since=mark)
    head = {"round": invitation.round, "plan_id": invitation.plan_hash[:8]}
    await fleet.say(device, fleet.topics.device(device, "events"), wire.Reply, **head, accepted=True)
    notices = fleet.all(wire.PlanNotice, since=mark)
    notice = next(one for one in notices if plan_hash(one.plan) == invitation.plan_hash)
    plan, post = decode_plan(notice.plan), fleet.post(device)
    contexts = [share_context(invitation.plan_hash, device, offer.hub) for offer in plan.hubs]
    short = [seal(o.key, bytes(n), c) for o, n, c in zip(plan.hubs, (77, 31), contexts, strict=True)]
    torn = [one[:-1] + bytes([one[-1] ^ 1]) for one in short]
    foreign = Identity(device, os.urandom(32))
    for identity, sealed in ((post.identity, short), (post.identity, torn), (foreign, short)):
        report = sign_report(identity, plan, invitation.plan_hash, sealed)
        for hub, data in report.parts.items():
            for part in report_messages(post, plan.round, data):
                topic = fleet.topics.report(hub, device)
                await fleet.throw(topic, post.encode(topic, part))
    for hub in ("hub-1", "hub-2"):
        for name in ("ShareLengthError", "UnsealError", "BadSignatureError"):
            line = await fleet.logged(hub, name, f"reports/0/{device}")
            assert line["remedy"]
    view = await fleet.reach(target)
    assert view.rounds[-1].devices == 3
    await fleet.say(device, status, wire.DeviceStatus, online=False, **session)
    await fleet.children.restart(device)
    await fleet.online(device)
    await fleet.rounds(1, devices=4)


async def test_a_device_killed_after_it_accepted(fleet: LiveFleet) -> None:
    """Its worker is not up yet, so that the kill falls between the word and the report."""
    device = "device-02"
    await fleet.children.kill(device)
    await fleet.online(device, online=False)
    await fleet.children.restart(device)
    await fleet.online(device)
    mark, target = fleet.mark, await fleet.ask(1)
    reply = await fleet.first(wire.Reply, sender=device, since=mark)
    assert reply.accepted
    await fleet.children.kill(device)
    assert not fleet.all(wire.ReportPart, sender=device, since=mark)
    view = await fleet.reach(target)
    assert view.rounds[-1].devices == 3
    await fleet.children.restart(device)
    await fleet.online(device)
    await fleet.rounds(1, devices=4)


async def test_a_device_killed_after_its_report_reached_one_hub_only(fleet: LiveFleet) -> None:
    device = "device-03"
    refused = f"user {device}\ntopic deny shoal/+/hubs/hub-2/reports/#"
    fleet.deny(refused)
    mark, since, target = fleet.mark, fleet.lines(device), await fleet.ask(1)
    await fleet.first(wire.Receipt, sender="hub-1", on=f"/{device}/", since=mark)
    await fleet.logged(device, "PublishRefusedError", since=since)
    await fleet.children.kill(device)
    view = await fleet.reach(target)
    assert view.rounds[-1].devices == 3
    sets = {one.sender: set(one.reports) for one in fleet.all(wire.ReportSet, since=mark)}
    assert device in sets["hub-1"]
    assert device not in sets["hub-2"]
    assert device not in fleet.all(wire.Agreement, since=mark)[-1].members
    fleet.deny("")
    await fleet.children.restart(device)
    await fleet.online(device)
    await fleet.rounds(1, devices=4)


async def test_a_hub_killed_between_agreement_and_sum(fleet: LiveFleet) -> None:
    mark, target = fleet.mark, await fleet.ask(1)
    # Held back so that each stands where it is wanted: hub-2 agrees while hub-1 has not yet.
    await fleet.first(wire.PlanSigned, sender="hub-2", since=mark)
    fleet.freeze("hub-2")
    await fleet.first(wire.ReportSet, sender="hub-1", since=mark)
    fleet.freeze("hub-1")
    fleet.thaw("hub-2")
    agreed = await fleet.first(wire.Agreement, sender="hub-2", since=mark)
    await fleet.children.kill("hub-2")
    assert not fleet.all(wire.HubSumPart, since=mark)
    await fleet.children.restart("hub-2")
    fleet.thaw("hub-1")
    view = await fleet.reach(target)
    assert (view.rounds[-1].round, view.rounds[-1].devices) == (agreed.round, 4)
    words = [one for one in fleet.all(wire.Agreement, since=mark) if one.round == agreed.round]
    assert len({(one.set_digest, one.members) for one in words}) == 1
    await fleet.rounds(1, devices=4)


# --- what lies on the broker and on the devices -----------------------------------------------------


async def test_a_retained_chunk_overwritten_with_garbage(fleet: LiveFleet) -> None:
    device = "device-02"
    task = fleet.all(wire.Invitation)[-1].task
    await fleet.children.kill(device)
    shutil.rmtree(fleet.layout.folders[device] / "data" / "blobs")
    await fleet.throw(fleet.topics.blob(task.name, 0), os.urandom(500), retain=True)
    mark, since = fleet.mark, fleet.lines(device)
    await fleet.children.restart(device)
    await fleet.online(device)
    await fleet.rounds(1, devices=4)
    await fleet.logged(device, "CorruptChunkError", since=since)
    assert fleet.all(wire.BlobWanted, sender=device, since=mark)


@pytest.mark.parametrize("fault", ["ExampleShapeError", "ExampleRangeError", "UnreadableDataError"])
async def test_data_that_cannot_be_used(fleet: LiveFleet, fault: str) -> None:
    device = "device-01"
    path = fleet.layout.folders[device] / "examples.npz"
    good, mark = path.read_bytes(), fleet.mark
    with np.load(path) as archive:
        x, y = archive["x"], archive["y"]
    match fault:
        case "ExampleShapeError":
            np.savez(path, x=np.zeros((len(y), 9, 9), np.uint8), y=y)
        case "ExampleRangeError":
            np.savez(path, x=np.full_like(x, 200), y=y)
        case _:
            np.savez(path, x=x, y=y)
            path.write_bytes(path.read_bytes()[:200] + os.urandom(200) + path.read_bytes()[400:])
    view = await fleet.rounds(2)
    assert view.rounds[-1].devices == 3
    reply = next(one for one in fleet.all(wire.Reply, sender=device, since=mark) if not one.accepted)
    assert reply.reason.startswith(fault)
    assert ": " in reply.reason
    await fleet.until(lambda: error_of(fleet, device) == fault)
    path.write_bytes(good)
    await fleet.rounds(1, devices=4)
    await fleet.until(lambda: not error_of(fleet, device))


async def test_a_data_file_that_is_not_there(fleet: LiveFleet) -> None:
    device = "device-04"
    path = fleet.layout.folders[device] / "examples.npz"
    good, mark = path.read_bytes(), fleet.mark
    path.unlink()
    await fleet.until(lambda: next(r for r in fleet.view.devices if r.name == device).examples == 0)
    view = await fleet.rounds(2)
    assert view.rounds[-1].devices == 3
    assert not fleet.all(wire.Invitation, on=f"/{device}/", since=mark)
    path.write_bytes(good)
    await fleet.until(lambda: next(r for r in fleet.view.devices if r.name == device).examples > 0)
    await fleet.rounds(1, devices=4)


def error_of(fleet: LiveFleet, device: str) -> str:
    return next(row.last_error for row in fleet.view.devices if row.name == device)


async def test_nothing_was_lost_in_all_this(fleet: LiveFleet) -> None:
    """Every version follows from the one before; every party still is the process that was started."""
    view = await fleet.rounds(1, devices=4)
    committed = [row.version for row in view.rounds if row.outcome == "committed"]
    assert committed == list(range(1, view.version + 1))
    assert all(hub.online for hub in view.hubs)
    fleet.children.check()
    for party in ("coordinator", "hub-1", "hub-2", *DEVICES):
        text = (fleet.layout.folders[party] / "log.jsonl").read_text(errors="replace")
        assert "Traceback" not in text
        assert "handler_failed" not in text


# --- a task that cannot be trained, training that diverges ------------------------------------------


async def test_a_model_without_signatures_and_weights_that_are_not_finite(tmp_path: Path) -> None:
    """One small fleet, its coordinator started three times: each time the devices say what is wrong."""
    task = decode_task(shipped("digits.task").read_bytes())
    templates = templates_of_file(shipped("digits.task"))
    unsigned = msgspec.structs.replace(task, trainable=templates.float32.model)
    (tmp_path / "unsigned.task").write_bytes(encode_task(unsigned))

    def prepare(layout: DemoFleet) -> None:
        quick(layout)
        change_settings(layout.config_of("coordinator"), task=str(tmp_path / "unsigned.task"))

    options = DemoOptions(devices=2, mode="plain", calm=True)
    async with live_fleet(tmp_path / "fleet", options, prepare=prepare) as fleet:
        config = fleet.layout.config_of("coordinator")

        async def aborted_for(fault: str) -> None:
            await fleet.ask(1)
            await fleet.until(lambda: fleet.view.rounds and fault in fleet.view.rounds[-1].reason)
            assert {row.outcome for row in fleet.view.rounds} == {"aborted"}

        async def again(**changes: Any) -> None:
            await fleet.children.kill("coordinator")
            change_settings(config, **changes)
            began = fleet.view.taken_ms
            await fleet.children.restart("coordinator")
            await fleet.until(
                lambda: fleet.view.taken_ms > began and all(row.examples for row in fleet.view.devices)
            )

        await aborted_for("MissingSignatureError")
        assert error_of(fleet, "device-01") in {"", "MissingSignatureError"}
        other = str(fleet.layout.folders["coordinator"] / "other")
        await again(task="", data_dir=other, rounds={"learning_rate": 1e30})
        await aborted_for("NonFinite")
        await again(rounds={"learning_rate": 0.3})
        await fleet.until(lambda: fleet.view.version >= 1)


# --- the command lines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("shoal_coordinator", "coordinator", "run"),
        ("shoal_coordinator", "hub", "run"),
        ("shoal_coordinator", "status"),
        ("shoal_edge", "run"),
        ("shoal_edge", "predict"),
    ],
)
async def test_an_unknown_configuration_key(tmp_path: Path, words: tuple[str, ...]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'fleet = "{FLEET}"\ncolour = 1\n')
    fault = await one_line([*words, "--config", str(config)])
    assert "SettingsError" in fault
    assert "colour" in fault
    assert str(config) in fault


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
async def test_a_busy_port(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["shoal_coordinator", "demo", "--broker", kind, "--port", str(port)]
        fault = await one_line([*words, "--data-dir", str(tmp_path / "data")])
    assert "PortInUseError" in fault
    assert f"port {port}" in fault
    assert "choose another" in fault


async def one_line(words: list[str]) -> str:
    """Run a command that fails and return its one line."""
    command = [sys.executable, "-m", *words]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
