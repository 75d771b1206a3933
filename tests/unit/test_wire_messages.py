import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.post import signing_bytes
from shoal_codecs.security.roster import sign_roster
from shoal_codecs.wire.blob import BlobRef, describe
from shoal_codecs.wire.errors import (
    InvalidBlobError,
    MalformedMessageError,
    OversizedMessageError,
    ProtocolVersionError,
    UnknownMessageError,
    WireError,
)
from shoal_codecs.wire.framing import (
    MAX_FRAME_BYTES,
    decode_frame,
    decode_message,
    encode_frame,
    encode_message,
    encode_unsigned,
)
from shoal_codecs.wire.heartbeat import changed, merged
from shoal_codecs.wire.messages import AnyMessage, Heartbeat, ReportPart
from shoal_codecs.wire.packing import unpack_plain
from shoal_codecs.wire.plan import coordinate_seed, encode_plan, plan_hash
from shoal_codecs.wire.report import Report, decode_report, encode_report, report_id, share_context
from shoal_codecs.wire.status import FleetView, decode_view, encode_view
from shoal_codecs.wire.step import ModelStep, decode_step, encode_step
from wire_parts import AUTHORITY, FLEET, every_message, identity, plan, roster_body

VECTORS = Path(__file__).parents[1] / "vectors" / "wire.json"
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=12) | st.dictionaries(st.integers(0, 99) | st.text(max_size=4), inner)
    ),
    max_leaves=24,
)


def names(messages: list[AnyMessage]) -> list[str]:
    return [type(message).__name__ for message in messages]


def golden() -> dict[str, Any]:
    """What the vectors must be, computed by the code under test."""
    content = encode_message(every_message()[0])
    place = signing_bytes(FLEET, "devices/device-01/status", content)
    promise = encode_plan(plan())
    digests = (b"\x31" * 32, b"\x32" * 32)
    return {
        "messages": {type(one).__name__: encode_message(one).hex() for one in every_message()},
        "signing_bytes": place.hex(),
        "frame": encode_frame(content, identity("device-01").sign(place)).hex(),
        "plan": promise.hex(),
        "plan_hash": plan_hash(promise).hex(),
        "coordinate_seed": coordinate_seed(plan()).hex(),
        "report_id": report_id(plan_hash(promise), "device-01", digests).hex(),
        "share_context": share_context(plan_hash(promise), "device-01", "hub-2").hex(),
        "roster": sign_roster(roster_body(), AUTHORITY).hex(),
    }


@pytest.mark.parametrize("key", sorted(golden()))
def test_bytes_are_those_that_fleets_in_the_field_speak(key: str) -> None:
    assert golden()[key] == json.loads(VECTORS.read_text())[key]


def test_every_kind_has_a_tag_of_its_own() -> None:
    tags = [kind.__struct_config__.tag for kind in AnyMessage.__args__]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("message", every_message(), ids=names(every_message()))
def test_every_kind_comes_back_as_it_was(message: AnyMessage) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("message", every_message(), ids=names(every_message()))
def test_a_field_from_the_future_is_ignored(message: AnyMessage) -> None:
    later = [*unpack_plain(encode_message(message)), {"new": [1, 2]}, "newer"]
    assert decode_message(msgpack.packb(later)) == message


def test_fields_that_came_later_have_defaults() -> None:
    older = ["ds", 1, "device-01", b"8 bytes.", 1, True, b"session."]
    status = decode_message(msgpack.packb(older))
    assert (status.sender, getattr(status, "agent_version", None)) == ("device-01", "")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", MalformedMessageError),
        (b"\xc1", MalformedMessageError),
        (msgpack.packb([]), MalformedMessageError),
        (msgpack.packb({"tag": "ds"}), MalformedMessageError),
        (msgpack.packb(["ds", 1, "d"]), MalformedMessageError),
        (msgpack.packb([5, 1, "d", b"", 1]), MalformedMessageError),
        (msgpack.packb(["??", 1, "d", b"", 1]), UnknownMessageError),
        (msgpack.packb(["ds", 2, "d", b"", 1, True, b""]), ProtocolVersionError),
        (msgpack.packb(["ds", None, "d", b"", 1, True, b""]), ProtocolVersionError),
        (msgpack.packb(["ds", 1, 5, b"", 1, True, b""]), MalformedMessageError),
        (msgpack.packb(["ds", 1, "d", "text", 1, True, b""]), MalformedMessageError),
        (msgpack.packb(["ds", 1, "d", b"", "now", True, b""]), MalformedMessageError),
        (msgpack.packb(["ds", 1, "d", b"", 1, True]), MalformedMessageError),
        (msgpack.packb(["hb", 1, "d", b"", 1, 1, True, {"phase": "idle"}]), MalformedMessageError),
        (msgpack.packb(["ds", 1, "d", b"", 1, True, b""]) + b"\x00", MalformedMessageError),
        (b"\x91" * 100_000 + b"\xc0", MalformedMessageError),
        (b"\xdd\xff\xff\xff\xff", MalformedMessageError),
        (b"\xdf\xff\xff\xff\xff", MalformedMessageError),
        (b"\xc6\xff\xff\xff\xff", MalformedMessageError),
        (b"\xd6\xff\x00\x00\x00\x00", MalformedMessageError),
        (b"\xa1\xff", MalformedMessageError),
        (b"\x81\x90\xc0", MalformedMessageError),
    ],
)
def test_what_is_no_message_has_a_named_fault(content: bytes, error: type[WireError]) -> None:
    with pytest.raises(error) as caught:
        decode_message(content)
    assert type(caught.value) is error


@given(st.binary(max_size=300))
@example(b"\x81" * 2000)
def test_any_bytes_are_a_frame_or_a_named_fault(payload: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_message(decode_frame(payload).content)


@given(st.sampled_from(every_message()), st.data())
def test_a_field_of_the_wrong_kind_is_a_named_fault(message: AnyMessage, data: st.DataObject) -> None:
    fields = unpack_plain(encode_message(message))
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(PLAIN)
    with contextlib.suppress(WireError):
        decode_message(msgpack.packb(fields))


@given(st.sampled_from(every_message()), st.data())
def test_a_damaged_message_is_a_message_or_a_named_fault(message: AnyMessage, data: st.DataObject) -> None:
    content = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode_message(bytes(content))


def test_a_frame_over_the_limit_is_refused_before_it_is_parsed() -> None:
    assert decode_frame(encode_frame(b"x" * (MAX_FRAME_BYTES - 16), None)).signature is None
    with pytest.raises(OversizedMessageError, match="blob"):
        decode_frame(b"\xc1" * (MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize("decode", [lambda data: decode_report(data, 2), decode_step, decode_view])
@given(data=st.binary(max_size=120) | PLAIN.map(msgpack.packb))
def test_what_travels_inside_messages_is_itself_or_a_named_fault(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with contextlib.suppress(ShoalError):
        decode(data)


def test_reports_steps_and_views_come_back_as_they_were() -> None:
    report = Report(memoryview(b"sealed"), (b"\x31" * 32,), b"\x32" * 64)
    step = ModelStep("randk", b"\x33" * 32, b"\x34" * 32, b"\x35" * 32, 5, 0.5, b"payload")
    view = FleetView(
        fleet=FLEET,
        taken_ms=1,
        mode="hubs",
        codec="randk",
        algorithm="fedadam",
        phase="idle",
        round=1,
        target=2,
        version=0,
        digest="00",
        parameters=9610,
    )
    assert decode_report(encode_report(report), 2) == report
    assert decode_step(encode_step(step)) == step
    assert decode_view(encode_view(view)) == view


def test_a_report_for_another_number_of_hubs_is_refused() -> None:
    data = encode_report(Report(memoryview(b"sealed"), (b"\x31" * 32,), b"\x32" * 64))
    with pytest.raises(MalformedMessageError, match="3 hubs"):
        decode_report(data, 3)


@given(st.integers(1, 6000), st.integers(1024, 2048))
def test_a_described_blob_knows_its_chunks(size: int, chunk_bytes: int) -> None:
    data = bytes(size)
    ref = describe(data, chunk_bytes)
    assert sum(ref.chunk_size(index) for index in range(ref.count)) == size
    assert all(len(ref.chunk_digest(index)) == 32 for index in range(ref.count))


@pytest.mark.parametrize(
    "fields",
    [
        (b"short", 10),
        (b"\x01" * 32, 0),
        (b"\x01" * 32, 1 << 40),
        (b"\x01" * 32, 10, 16),
        (b"\x01" * 32, 10, 2048, (b"\x01" * 32,)),
        (b"\x01" * 32, 4096, 2048),
        (b"\x01" * 32, 4096, 2048, (b"\x01" * 32, b"short")),
    ],
)
def test_a_blob_description_that_contradicts_itself_is_refused(fields: Any) -> None:
    with pytest.raises(InvalidBlobError):
        BlobRef(*fields)
    offer = [3, b"\x21" * 32, fields, b"", b""]
    with pytest.raises(InvalidBlobError):
        decode_message(msgpack.packb(["el", 1, "coordinator", b"", 1, 7, fields, offer]))


@given(
    st.dictionaries(st.integers(0, 25), st.integers(0, 3)),
    st.dictionaries(st.integers(0, 25), st.integers(0, 3)),
)
def test_what_changed_laid_over_what_was_is_what_is(last: dict[int, Any], now: dict[int, Any]) -> None:
    assert merged(last, changed(last, now), full=False) == now
    assert merged(last, now, full=True) == now


def test_a_steady_heartbeat_is_small() -> None:
    beat = Heartbeat(
        protocol=1,
        sender="device-01",
        message_id=b"\x11" * 8,
        sent_ms=1_700_000_000_000,
        sequence=200,
        full=False,
        readings={8: 3500, 10: 12},
    )
    assert len(encode_frame(encode_message(beat), None)) <= 55


@pytest.mark.parametrize(
    "changes",
    [{"digest": b""}, {"digest": bytes(31)}, {"parent": bytes(33)}, {"chain": 257}, {"chain": 10_000}],
    ids=str,
)
def test_offers_of_nothing_are_refused_as_they_come(changes: dict[str, Any]) -> None:
    whole = describe(b"whole")
    fields: dict[str, Any] = {"digest": bytes(32), "parent": bytes(32)} | changes
    fields["chain"] = [msgspec.to_builtins(whole, builtin_types=(bytes,))] * fields.get("chain", 0)
    offer = [3, fields["digest"], msgspec.to_builtins(whole, builtin_types=(bytes,)), fields["parent"], b"",
             fields["chain"]]  # fmt: skip
    task = msgspec.to_builtins(describe(b"task"), builtin_types=(bytes,))
    with pytest.raises(MalformedMessageError):
        decode_message(msgpack.packb(["el", 1, "coordinator", bytes(8), 1, 7, task, offer]))


@pytest.mark.parametrize("value", [msgpack.ExtType(5, b"code"), msgpack.Timestamp(1)])
def test_extensions_and_odd_text_have_no_place(value: Any) -> None:
    with pytest.raises(MalformedMessageError):
        decode_message(msgpack.packb(["rp", 1, "device-01", bytes(8), 1, value, bytes(8), True]))
    with pytest.raises(MalformedMessageError):
        decode_message(msgpack.packb(["rp", 1, b"\xff\xfe", bytes(8), 1, 7, bytes(8), True]))
    with pytest.raises(MalformedMessageError):
        decode_message(b"\x98\xa2rp\x01\xa2\xff\xfe\xc4\x08" + bytes(8) + b"\x01\x07\xc4\x00\xc3")


def test_a_frame_and_a_report_are_not_copied() -> None:
    frame = encode_frame(b"content", bytes(64))
    assert decode_frame(frame).content.obj is frame
    data = encode_report(Report(memoryview(b"sealed"), (), b""))
    assert decode_report(data, 1).ciphertext.obj is data


@given(
    st.sampled_from([0, 1, 150, 200, 230, 255, 256, 65_450, 65_500, 65_535, 65_536, 300_000]),
    st.integers(0, 60),
    st.text(max_size=40),
)
def test_a_frame_written_in_one_go_is_the_same_frame(size: int, more: int, sender: str) -> None:
    # Around the sizes at which MessagePack's heads of the data, and of the content, grow.
    message = ReportPart(
        protocol=1,
        sender=sender,
        message_id=b"\xc4\x00" * 4,
        sent_ms=7,
        round=1,
        index=0,
        count=1,
        data=memoryview(b"\xc0" * (size + more)),
    )
    assert encode_unsigned(message) == encode_frame(encode_message(message), None)


def test_other_messages_go_unsigned_as_they_are() -> None:
    beat = next(message for message in every_message() if isinstance(message, Heartbeat))
    assert encode_unsigned(beat) == encode_frame(encode_message(beat), None)
