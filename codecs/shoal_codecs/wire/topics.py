"""Typed topics: every topic of the fleet is made and parsed here."""

import re
from dataclasses import dataclass

from shoal_codecs.wire.errors import InvalidNameError, InvalidTopicError

SINGLE_PHASES = ("shares", "consent", "unmask")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


def check_name(name: str) -> str:
    """Return ``name`` if it may stand in a topic.

    Raises:
        InvalidNameError: anything but 1 to 64 of ``a-z 0-9 . _ -``, starting with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise InvalidNameError(
            f"{name!r} is no usable name: take 1 to 64 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed topic: whose it is and what part of it.

    ``kind`` is one of ``devices hubs rounds blobs prekeys coordinator``; ``name`` is the device, hub, round
    or digest; ``part`` the rest (``heartbeat``, ``receipts``, ``reports``, ``shares``, a chunk number);
    ``peer`` the hub of a receipt or the device of a report or of a phase of mode ``single``, else empty.
    """

    kind: str
    name: str
    part: str
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one fleet under a prefix, ``shoal/{fleet}`` unless the broker is shared otherwise.

    Raises:
        InvalidNameError: a fleet name or a prefix that cannot stand in a topic.
    """

    fleet: str
    prefix: str = ""

    def __post_init__(self) -> None:
        """Fill the prefix in and refuse what would be a filter."""
        check_name(self.fleet)
        if not self.prefix:
            object.__setattr__(self, "prefix", f"shoal/{self.fleet}")
        if not _PREFIX.fullmatch(self.prefix):
            raise InvalidNameError(f"{self.prefix!r} is no topic prefix: no '+', '#', or empty level")

    def device(self, device: str, part: str) -> str:
        """Topic of a device: ``status``, ``heartbeat``, ``events`` or ``commands``."""
        return f"{self.prefix}/devices/{device}/{part}"

    def receipt(self, device: str, hub: str) -> str:
        """Topic on which ``hub`` answers ``device``."""
        return f"{self.prefix}/devices/{device}/receipts/{hub}"

    def hub(self, hub: str, part: str) -> str:
        """Topic of a hub: ``status``, ``control`` (its inbox) or ``events`` (its own word)."""
        return f"{self.prefix}/hubs/{hub}/{part}"

    def report(self, hub: str, device: str) -> str:
        """Topic for the share of ``device`` that is meant for ``hub``."""
        return f"{self.prefix}/hubs/{hub}/reports/0/{device}"

    def round(self, number: int | str) -> str:
        """Topic of the retained plan of a round."""
        return f"{self.prefix}/rounds/{number}"

    def single(self, number: int | str, phase: str, device: str) -> str:
        """Topic of ``device`` in a phase of mode ``single``: ``shares``, ``consent`` or ``unmask``."""
        return f"{self.prefix}/rounds/{number}/single/{phase}/{device}"

    def prekeys(self, device: str) -> str:
        """Topic of the key bundles that ``device`` has parked."""
        return f"{self.prefix}/prekeys/{device}"

    def blob(self, digest_hex: str, chunk: int | str) -> str:
        """Topic of one retained chunk."""
        return f"{self.prefix}/blobs/{digest_hex}/{chunk}"

    def coordinator(self, part: str) -> str:
        """Topic of the coordinator: ``beacon``, ``status``, ``events`` or ``commands``."""
        return f"{self.prefix}/coordinator/{part}"

    def client_id(self, party: str) -> str:
        """Return what ``party`` calls itself at the broker: no other fleet there says the same.

        The prefix with ':' for '/', a character that is in no name: brokers that put client ids into topics
        take no '/' in one.
        """
        return f"{self.prefix.replace('/', ':')}:{party}"

    def relative(self, topic: str) -> str:
        """Return ``topic`` without the prefix: what signatures cover, so that bridges may remap it.

        Raises:
            InvalidTopicError: a topic outside the prefix.
        """
        head = self.prefix + "/"
        if not topic.startswith(head):
            raise InvalidTopicError(f"{topic[:120]!r} is outside {self.prefix!r}: check the subscription")
        return topic[len(head) :]

    def parse(self, topic: str) -> Address:
        """Return whose topic this is.

        Raises:
            InvalidTopicError: a topic that is none of this fleet's.
        """
        address = self._address(topic)
        # Names reach logs and screens: what could not be enrolled does not get that far.
        names = [address.name] if address.kind in {"devices", "hubs", "prekeys"} else []
        names += [address.peer] if address.part in {"receipts", "reports", *SINGLE_PHASES} else []
        if not all(_NAME.fullmatch(name) for name in names):
            raise InvalidTopicError(
                f"{topic[:120]!r} holds a name that no party can have: name its sender as names may be"
            )
        return address

    def _address(self, topic: str) -> Address:
        match self.relative(topic).split("/"):
            case ["devices", device, "status" | "heartbeat" | "events" | "commands" as part]:
                return Address("devices", device, part)
            case ["devices", device, "receipts", hub]:
                return Address("devices", device, "receipts", hub)
            case ["hubs", hub, "status" | "control" | "events" as part]:
                return Address("hubs", hub, part)
            case ["hubs", hub, "reports", _shard, device]:
                return Address("hubs", hub, "reports", device)
            case ["prekeys", device]:
                return Address("prekeys", device, "prekeys")
            case ["rounds", *rest]:
                return self._round_address(topic, rest)
            case ["blobs", digest, chunk]:
                return Address("blobs", digest, chunk)
            case ["coordinator", "beacon" | "status" | "events" | "commands" as part]:
                return Address("coordinator", "coordinator", part)
            case _:
                raise _unknown(topic)

    def _round_address(self, topic: str, rest: list[str]) -> Address:
        match rest:
            case [number]:
                return Address("rounds", number, "plan")
            case [number, "single", "shares" | "consent" | "unmask" as phase, device]:
                return Address("rounds", number, phase, device)
            case _:
                raise _unknown(topic)


def _unknown(topic: str) -> InvalidTopicError:
    return InvalidTopicError(f"{topic[:120]!r} is no topic of this protocol: look at what publishes there")
