"""What a hub or device holds a new roster against: the newest serial it has seen, and the hubs it pinned.

The authority signs who belongs to the fleet. A roster that was replaced may still be handed around, and one
with other hubs would send every update to strangers: a party takes neither without a person at its machine.
"""

import tomllib
from pathlib import Path

import msgspec

from shoal_codecs.durable import replace_whole
from shoal_codecs.security.errors import BadPinsError, OldRosterError, PinnedHubsError
from shoal_codecs.security.roster import Roster, load_roster
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.packing import pack, unpack

PINS_NAME = "pins.toml"
SEEN_NAME = "roster.seen"
_HEAD = (
    "# The hubs this party shares updates between, and who runs them, as they were at enrolment.\n"
    "# A roster with others is refused until a person changes this file, or removes it to pin anew.\n"
)


class HubPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hub's Ed25519 key in hex, and who runs it."""

    key: str
    operator: str = ""


class _Pins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hubs: dict[str, HubPin] = {}


class SeenRoster(msgspec.Struct, frozen=True, array_like=True):
    """The newest roster that was taken: its serial and its digest (32 bytes)."""

    serial: int
    digest: bytes


def trusted_roster(folder: Path, state: Path, fleet: str) -> Roster:
    """Return the roster in ``folder`` if it is no older than the newest seen and names the pinned hubs.

    ``state`` keeps the newest serial. Pins lie beside the roster, or else in ``state``, where the roster's
    hubs are pinned if there are none yet, at enrolment.

    Raises:
        BadRosterError, BadSignatureError: no roster of this fleet and authority.
        OldRosterError: a newer one was taken before, or another with the same serial.
        PinnedHubsError: other hubs, keys or operators than those pinned.
        BadPinsError: a pins file that cannot be read.
    """
    roster = load_roster(folder / "roster.bin", folder / "authority.pub", fleet)
    seen_path = state / SEEN_NAME
    seen = read_seen(seen_path)
    if seen is not None:
        check_serial(roster, seen)
    laid_down, own = folder / PINS_NAME, state / PINS_NAME
    pins_path = laid_down if laid_down.exists() else own
    if pins_path.exists():
        check_pins(roster, read_pins(pins_path))
    else:
        write_pins(own, roster)
    if seen is None or seen.serial < roster.serial:
        write_whole(seen_path, pack(SeenRoster(roster.serial, roster.digest)))
    return roster


def check_serial(roster: Roster, seen: SeenRoster) -> None:
    """Refuse a roster that is older than ``seen``, or another of the same serial.

    Raises:
        OldRosterError: with both serials.
    """
    if roster.serial < seen.serial:
        raise OldRosterError(
            f"the roster has serial {roster.serial}, serial {seen.serial} was taken before: copy the newest "
            "one from the authority"
        )
    if roster.serial == seen.serial and roster.digest != seen.digest:
        raise OldRosterError(
            f"another roster with serial {roster.serial} was taken before: have the authority sign one "
            "with a higher serial"
        )


def check_pins(roster: Roster, pins: dict[str, HubPin]) -> None:
    """Refuse a roster whose hubs are not the pinned ones.

    Raises:
        PinnedHubsError: with the names that differ.
    """
    named = pins_of(roster)
    if named == pins:
        return
    differ = sorted(hub for hub in named.keys() | pins.keys() if named.get(hub) != pins.get(hub))
    raise PinnedHubsError(
        f"the roster has other hubs than were pinned at enrolment ({', '.join(differ)}): ask who runs them "
        f"now; if that is right, change {PINS_NAME} in this party's folder (or its data folder) by hand, or "
        "remove it"
    )


def pins_of(roster: Roster) -> dict[str, HubPin]:
    """Return the pins of the hubs that ``roster`` names."""
    hubs = (roster.party(name) for name in roster.names("hub"))
    return {hub.name: HubPin(hub.key.hex(), hub.operator) for hub in hubs}


def read_pins(path: Path) -> dict[str, HubPin]:
    """Return the pins in a file.

    Raises:
        BadPinsError: no TOML, or other fields than key and operator.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Pins).hubs
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadPinsError(f"cannot use {path} ({error}): mend it, or remove it to pin anew") from error


def write_pins(path: Path, roster: Roster) -> None:
    """Write the pins of the roster's hubs, whole or not at all."""
    lines = [_HEAD]
    for hub, pin in pins_of(roster).items():
        operator = msgspec.json.encode(pin.operator).decode()
        lines.append(f'\n[hubs."{hub}"]\nkey = "{pin.key}"\noperator = {operator}\n')
    write_whole(path, "".join(lines).encode())


def read_seen(path: Path) -> SeenRoster | None:
    """Return the newest roster that was taken, None where there is none yet.

    Raises:
        BadPinsError: a file that is damaged.
    """
    try:
        return unpack(path.read_bytes(), SeenRoster)
    except FileNotFoundError:
        return None
    except (OSError, WireError, msgspec.ValidationError) as error:
        raise BadPinsError(
            f"cannot use {path} ({error}): remove it once you are sure that the roster is the newest"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, durably: a reader sees the old one or the new one.

    Raises:
        BadPinsError: the disk does not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, data, path.with_name(path.name + ".new"))
    except OSError as error:
        raise BadPinsError(
            f"cannot write {path} ({error.strerror}): let this party write there, or mend the disk"
        ) from error
