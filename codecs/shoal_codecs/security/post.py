"""The post: every message leaves and enters a party here, signed, checked and counted.

Bytes become a message only when the frame decodes, its sender owns the topic, the roster knows the sender in
the role the topic asks for, the signature covers the message in this very place, and it was not handled
before. Heartbeats are telemetry and unsigned; report parts, consents and plans carry their signatures inside.
"""

import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from shoal_codecs.security.errors import UnsignedMessageError
from shoal_codecs.security.identity import Identity, verify
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.errors import (
    MalformedMessageError,
    ReplayedMessageError,
    SenderMismatchError,
)
from shoal_codecs.wire.framing import (
    decode_frame,
    decode_message,
    encode_frame,
    encode_message,
    encode_unsigned,
)
from shoal_codecs.wire.messages import (
    PROTOCOL_VERSION,
    REPEATABLE,
    UNSIGNED,
    AnyMessage,
    Heartbeat,
    Message,
    PlanNotice,
    ReportPart,
    SingleConsent,
)
from shoal_codecs.wire.packing import prefixed
from shoal_codecs.wire.topics import Address, Topics

M = TypeVar("M", bound=Message)
REMEMBERED = 20_000
_UNSIGNED_AT: dict[str, type[Message]] = {
    "heartbeat": Heartbeat,
    "reports": ReportPart,
    "consent": SingleConsent,
    "plan": PlanNotice,
}
_SIGN_LABEL = b"shoal/1 message\x00"


def signing_bytes(fleet: str, relative_topic: str, content: bytes | memoryview) -> bytes:
    """Return what a frame's signature covers: the message and where in which fleet it was said."""
    return _SIGN_LABEL + prefixed(fleet) + prefixed(relative_topic) + content


class Post:
    """One party's post office.

    ``clock`` returns seconds since the epoch. ``refused`` counts what was not believed, by error name.
    """

    def __init__(
        self,
        topics: Topics,
        identity: Identity,
        roster: Roster,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.topics = topics
        self.identity = identity
        self.roster = roster
        self.refused: Counter[str] = Counter()
        self._clock = clock
        self._seen: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def compose(self, kind: type[M], /, **fields: Any) -> M:
        """Return a message of ``kind`` from this party, with a fresh id and the present time."""
        return kind(
            protocol=PROTOCOL_VERSION,
            sender=self.identity.name,
            message_id=os.urandom(8),
            sent_ms=int(self._clock() * 1000),
            **fields,
        )

    def encode(self, topic: str, message: AnyMessage) -> bytes:
        """Return the frame of ``message`` for ``topic``, signed unless its kind goes unsigned."""
        if isinstance(message, UNSIGNED):
            return encode_unsigned(message)
        content = encode_message(message)
        place = self.topics.relative(topic)
        signature = self.identity.sign(signing_bytes(self.topics.fleet, place, content))
        return encode_frame(content, signature)

    def open(self, topic: str, payload: bytes) -> tuple[Address, AnyMessage]:
        """Return whose topic this is and the message, if it can be believed.

        Raises:
            WireError: malformed, oversized, unknown, from the wrong sender, or handled before.
            SecurityError: unsigned, wrongly signed, or from nobody on the roster.
        """
        address = self.topics.parse(topic)
        frame = decode_frame(payload)
        message = decode_message(frame.content)
        self._check_owner(address, message)
        if isinstance(message, UNSIGNED):
            return address, message
        if frame.signature is None:
            raise UnsignedMessageError(
                f"{type(message).__name__} from {message.sender!r} is not signed: every word but "
                "heartbeats must be"
            )
        key = self.roster.party(message.sender).key
        place = self.topics.relative(topic)
        verify(key, signing_bytes(self.topics.fleet, place, frame.content), frame.signature)
        if not isinstance(message, REPEATABLE):
            self._check_replay(message)
        return address, message

    def _check_owner(self, address: Address, message: AnyMessage) -> None:
        """Refuse a sender that the topic does not belong to."""
        role = self.roster.role(message.sender)
        match address:
            case Address("devices", device, "status" | "heartbeat" | "events"):
                fits = message.sender == device
            case Address("prekeys", device) | Address("rounds", _, "shares" | "consent" | "unmask", device):
                fits = message.sender == device
            case Address("devices", _, "receipts", hub) | Address("hubs", hub, "status" | "events"):
                fits = message.sender == hub and role in {"hub", "coordinator"}
            case Address("hubs", _, "reports", device):
                fits = message.sender == device
            case Address("coordinator", _, "commands"):
                fits = role == "operator"
            case _:
                fits = role == "coordinator"
        if not fits:
            raise SenderMismatchError(
                f"{message.sender[:64]!r} may not speak on {address.kind}/{address.name}/{address.part}: "
                "look at its settings, and at the broker's access rules"
            )
        if address.part == "heartbeat" and not isinstance(message, Heartbeat):
            raise MalformedMessageError(
                "only heartbeats belong on a heartbeat topic: send the rest on events"
            )
        if isinstance(message, UNSIGNED) and not isinstance(message, _UNSIGNED_AT.get(address.part, ())):
            raise UnsignedMessageError(
                f"{type(message).__name__} goes unsigned and is not believed on {address.part[:64]!r}: "
                "send it on its own topic"
            )

    def _check_replay(self, message: AnyMessage) -> None:
        key = (message.sender, message.message_id)
        if key in self._seen:
            raise ReplayedMessageError(
                f"{type(message).__name__} from {message.sender!r} was handled before: if its sender did not "
                "repeat it, see who may write on its topic"
            )
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
