import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.errors import ShoalError
from shoal_codecs.security import post as post_module
from shoal_codecs.security.errors import BadSignatureError, UnknownPartyError, UnsignedMessageError
from shoal_codecs.security.identity import Identity
from shoal_codecs.security.post import Post
from shoal_codecs.wire.errors import (
    MalformedMessageError,
    OversizedMessageError,
    ReplayedMessageError,
    SenderMismatchError,
)
from shoal_codecs.wire.framing import MAX_FRAME_BYTES, decode_frame, encode_frame
from shoal_codecs.wire.messages import (
    AnyMessage,
    BlobWanted,
    CoordinatorEvent,
    CoordinatorStatus,
    DeviceStatus,
    Heartbeat,
    HubStatus,
    OperatorCommand,
    PlanNotice,
    ReportPart,
    SingleConsent,
)
from shoal_codecs.wire.topics import Topics
from wire_parts import FLEET, NOW_MS, ROLES, every_message, identity, post

TOPICS = Topics(FLEET)
CONSENT: dict[str, Any] = {"round": 1, "plan_hash": bytes(32), "signature": b"signed inside"}
EVENTS = TOPICS.device("device-01", "events")
PLACES = {
    "devices/device-01/status": {"device-01"},
    "devices/device-01/events": {"device-01"},
    "devices/device-01/commands": {"coordinator"},
    "devices/device-01/receipts/hub-1": {"hub-1"},
    "devices/device-01/receipts/coordinator": {"coordinator"},
    "devices/device-01/receipts/device-02": set(),
    "hubs/hub-1/status": {"hub-1"},
    "hubs/hub-1/events": {"hub-1"},
    "hubs/hub-1/control": {"coordinator"},
    "hubs/hub-1/reports/0/device-01": {"device-01"},
    "hubs/device-01/events": set(),
    "prekeys/device-01": {"device-01"},
    "rounds/7": {"coordinator"},
    "rounds/7/single/shares/device-01": {"device-01"},
    "rounds/7/single/consent/device-01": {"device-01"},
    "rounds/7/single/unmask/device-01": {"device-01"},
    "coordinator/beacon": {"coordinator"},
    "coordinator/status": {"coordinator"},
    "coordinator/events": {"coordinator"},
    "coordinator/commands": {"operator"},
}


def wanted(sender: Post) -> BlobWanted:
    return sender.compose(BlobWanted, digest=b"\x01" * 32)


def test_a_signed_word_arrives_as_it_was_said() -> None:
    sender = post("device-01")
    message = wanted(sender)
    address, heard = post("coordinator").open(EVENTS, sender.encode(EVENTS, message))
    assert (address.kind, address.name, address.part, heard) == ("devices", "device-01", "events", message)
    assert (message.sender, message.sent_ms, len(message.message_id)) == ("device-01", NOW_MS, 8)


@pytest.mark.parametrize("place", sorted(PLACES))
@pytest.mark.parametrize("name", sorted(ROLES))
def test_each_topic_is_believed_from_its_owner_alone(place: str, name: str) -> None:
    sender, receiver, topic = post(name), post("operator"), f"{TOPICS.prefix}/{place}"
    frame = sender.encode(topic, wanted(sender))
    if name in PLACES[place]:
        assert receiver.open(topic, frame)[1].sender == name
    else:
        with pytest.raises(SenderMismatchError, match="may not speak"):
            receiver.open(topic, frame)


def test_a_signature_is_worth_nothing_in_another_place() -> None:
    sender = post("device-01")
    frame = sender.encode(EVENTS, wanted(sender))
    with pytest.raises(BadSignatureError):
        post("coordinator").open(TOPICS.device("device-01", "status"), frame)


def test_a_signature_is_worth_nothing_in_another_fleet() -> None:
    sender = post("device-01", fleet="flock", prefix=TOPICS.prefix)
    with pytest.raises(BadSignatureError):
        post("coordinator").open(EVENTS, sender.encode(EVENTS, wanted(sender)))


def test_a_bridge_may_move_the_fleet_under_another_prefix() -> None:
    sender, receiver = post("device-01"), post("coordinator", prefix="site/7")
    frame = sender.encode(EVENTS, wanted(sender))
    assert receiver.open("site/7/devices/device-01/events", frame)[1].sender == "device-01"


def test_a_changed_word_is_not_believed() -> None:
    sender = post("device-01")
    frame = decode_frame(sender.encode(EVENTS, wanted(sender)))
    changed = bytes(frame.content[:-1]) + bytes([frame.content[-1] ^ 1])
    with pytest.raises(BadSignatureError):
        post("coordinator").open(EVENTS, encode_frame(changed, frame.signature))


@pytest.mark.parametrize("signature", [b"", b"short", bytes(64), bytes(65)])
def test_a_signature_that_is_none_is_not_believed(signature: bytes) -> None:
    sender = post("device-01")
    frame = decode_frame(sender.encode(EVENTS, wanted(sender)))
    with pytest.raises(BadSignatureError):
        post("coordinator").open(EVENTS, encode_frame(frame.content, signature))


def test_another_key_under_the_same_name_is_not_believed() -> None:
    honest = post("device-01")
    forger = Post(TOPICS, Identity("device-01", b"\xee" * 32), honest.roster)
    with pytest.raises(BadSignatureError):
        post("coordinator").open(EVENTS, forger.encode(EVENTS, wanted(forger)))


def test_a_word_that_must_be_signed_and_is_not_is_refused() -> None:
    sender = post("device-01")
    frame = decode_frame(sender.encode(EVENTS, wanted(sender)))
    with pytest.raises(UnsignedMessageError, match="BlobWanted"):
        post("coordinator").open(EVENTS, encode_frame(frame.content, None))


def test_a_stranger_is_not_believed() -> None:
    stranger = Post(TOPICS, identity("stranger"), post("device-01").roster)
    topic = TOPICS.device("stranger", "events")
    with pytest.raises(UnknownPartyError, match="enrol"):
        post("coordinator").open(topic, stranger.encode(topic, wanted(stranger)))


def test_a_guest_may_send_heartbeats_and_nothing_else() -> None:
    guest = Post(TOPICS, identity("guest"), post("device-01").roster)
    beat = guest.compose(Heartbeat, sequence=0, full=True, readings={0: "idle"})
    topic = TOPICS.device("guest", "heartbeat")
    assert post("coordinator").open(topic, guest.encode(topic, beat))[1] == beat
    with pytest.raises(MalformedMessageError, match="only heartbeats"):
        post("coordinator").open(topic, guest.encode(topic, wanted(guest)))


@pytest.mark.parametrize(
    ("sender", "kind", "fields", "place"),
    [
        ("device-01", Heartbeat, {"sequence": 0, "full": True, "readings": {}}, "devices/device-01/events"),
        ("device-01", Heartbeat, {"sequence": 0, "full": True, "readings": {}}, "devices/device-01/status"),
        (
            "device-01",
            ReportPart,
            {"round": 1, "index": 0, "count": 1, "data": b""},
            "devices/device-01/events",
        ),
        ("device-01", SingleConsent, CONSENT, "devices/device-01/events"),
        ("device-01", SingleConsent, CONSENT, "rounds/1/single/unmask/device-01"),
        ("coordinator", PlanNotice, {"plan": b"", "signatures": {}}, "devices/device-01/commands"),
        ("coordinator", PlanNotice, {"plan": b"", "signatures": {}}, "coordinator/events"),
        ("coordinator", PlanNotice, {"plan": b"", "signatures": {}}, "hubs/hub-1/control"),
    ],
)
def test_what_goes_unsigned_is_believed_in_its_own_place_alone(
    sender: str, kind: Any, fields: dict[str, Any], place: str
) -> None:
    office, topic = post(sender), f"{TOPICS.prefix}/{place}"
    with pytest.raises(UnsignedMessageError, match="goes unsigned"):
        post("operator").open(topic, office.encode(topic, office.compose(kind, **fields)))


def test_what_goes_unsigned_is_heard_in_its_place() -> None:
    device, coordinator, hub = post("device-01"), post("coordinator"), post("hub-1")
    part = device.compose(ReportPart, round=1, index=0, count=1, data=b"x")
    notice = coordinator.compose(PlanNotice, plan=b"x", signatures={})
    reports = TOPICS.report("hub-1", "device-01")
    assert hub.open(reports, device.encode(reports, part))[1] == part
    assert hub.open(TOPICS.round(1), coordinator.encode(TOPICS.round(1), notice))[1] == notice
    consent, place = device.compose(SingleConsent, **CONSENT), TOPICS.single(1, "consent", "device-01")
    assert coordinator.open(place, device.encode(place, consent))[1] == consent


def test_what_is_kept_retained_comes_again_and_is_heard_again() -> None:
    sender, receiver = post("coordinator"), post("operator")
    topic = TOPICS.coordinator("status")
    frame = sender.encode(topic, sender.compose(CoordinatorStatus, view=b"x"))
    assert [receiver.open(topic, frame)[1] for _ in range(2)]


def test_a_word_handled_before_is_refused() -> None:
    sender, receiver = post("device-01"), post("coordinator")
    frame = sender.encode(EVENTS, wanted(sender))
    assert receiver.open(EVENTS, frame)
    with pytest.raises(ReplayedMessageError, match="BlobWanted"):
        receiver.open(EVENTS, frame)


@pytest.mark.parametrize(
    ("sender", "kind", "place"),
    [
        ("device-01", DeviceStatus, "devices/device-01/status"),
        ("hub-1", HubStatus, "hubs/hub-1/status"),
    ],
)
def test_a_will_is_believed_every_time_it_comes(sender: str, kind: Any, place: str) -> None:
    office, receiver, topic = post(sender), post("coordinator"), f"{TOPICS.prefix}/{place}"
    will = office.encode(topic, office.compose(kind, online=False, session=b"session."))
    assert receiver.open(topic, will)[1] == receiver.open(topic, will)[1]


def test_a_refused_word_does_not_use_up_its_id() -> None:
    sender, receiver = post("device-01"), post("coordinator")
    frame = decode_frame(sender.encode(EVENTS, wanted(sender)))
    with pytest.raises(BadSignatureError):
        receiver.open(EVENTS, encode_frame(frame.content, bytes(64)))
    assert receiver.open(EVENTS, encode_frame(frame.content, frame.signature))


def test_what_is_remembered_against_replays_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_module, "REMEMBERED", 10)
    sender, receiver = post("device-01"), post("coordinator")
    for _ in range(30):
        receiver.open(EVENTS, sender.encode(EVENTS, wanted(sender)))
    assert len(receiver._seen) == 10


def test_a_word_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(OversizedMessageError):
        post("coordinator").open(EVENTS, bytes(MAX_FRAME_BYTES + 1))


def test_operators_alone_command_and_the_coordinator_alone_answers() -> None:
    commands, events = TOPICS.coordinator("commands"), TOPICS.coordinator("events")
    operator, coordinator = post("operator"), post("coordinator")
    order = operator.compose(OperatorCommand, action="rounds.run")
    event = coordinator.compose(CoordinatorEvent, kind="round.opened", text="")
    assert coordinator.open(commands, operator.encode(commands, order))[1] == order
    assert operator.open(events, coordinator.encode(events, event))[1] == event
    with pytest.raises(SenderMismatchError):
        operator.open(commands, coordinator.encode(commands, event))


@given(
    st.sampled_from(sorted(PLACES)) | st.text(max_size=30),
    st.binary(max_size=200),
    st.none() | st.binary(max_size=70),
)
def test_any_bytes_anywhere_are_refused_by_name(place: str, content: bytes, signature: bytes | None) -> None:
    for payload in (content, encode_frame(content, signature)):
        with pytest.raises(ShoalError):
            post("coordinator").open(f"{TOPICS.prefix}/{place}", payload)


@given(st.sampled_from(every_message()), st.sampled_from(sorted(PLACES)), st.data())
def test_a_damaged_frame_is_the_word_itself_or_refused_by_name(
    message: AnyMessage, place: str, data: st.DataObject
) -> None:
    topic = f"{TOPICS.prefix}/{place}"
    frame = bytearray(post("device-01").encode(topic, message))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(ShoalError):
        heard = post("coordinator").open(topic, bytes(frame))[1]
        assert isinstance(heard, Heartbeat | ReportPart | PlanNotice)
