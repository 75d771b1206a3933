"""The roster as a person writes it (TOML or CSV), and its signing by the authority, offline.

Public keys come from the parties' own machines (``shoal roster key``); their private keys never leave them.
"""

import csv
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.identity import KEY_BYTES, Identity
from shoal_codecs.security.pins import SEEN_NAME, SeenRoster, read_seen, write_whole
from shoal_codecs.security.roster import Party, Role, Roster, RosterBody, open_roster, sign_roster
from shoal_codecs.settings_faults import fault_words
from shoal_codecs.wire.errors import InvalidNameError
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.topics import check_name

_SOLE: tuple[Role, ...] = ("coordinator", "publisher")


class RosterFileError(ShoalError):
    """A written roster that cannot be signed as it is."""


class RosterSerialError(RosterFileError):
    """A serial that this authority has used already, or passed."""


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    role: Role
    key: str
    operator: str = ""


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    party: list[_Line]
    fleet: str = ""
    serial: int = 0


@dataclass(frozen=True, slots=True)
class WrittenRoster:
    """What a file says; an empty ``fleet`` and a ``serial`` of 0 are left to the command."""

    fleet: str
    serial: int
    parties: tuple[Party, ...]


def read_roster_file(path: Path) -> WrittenRoster:
    """Return the parties in a TOML file (``[[party]]``) or a CSV file (name, role, key, operator).

    Raises:
        RosterFileError: unreadable, an unknown field, a key that is none, a double, or a role too many.
    """
    try:
        text = path.read_text(encoding="utf-8")
        written = msgspec.convert(_plain(path, text), _Written)
    except (
        OSError,
        UnicodeDecodeError,
        tomllib.TOMLDecodeError,
        csv.Error,
        msgspec.ValidationError,
    ) as error:
        words = fault_words(error, _Written) if isinstance(error, msgspec.ValidationError) else error
        raise RosterFileError(
            f"cannot use {path} ({words}): give every party a name, a role, a key and, for hubs, an operator"
        ) from error
    parties = tuple(_party(line) for line in written.party)
    _check_together(parties)
    return WrittenRoster(written.fleet, written.serial, parties)


def sign_written(written: WrittenRoster, authority: Identity, folder: Path) -> bytes:
    """Sign the roster with the next serial, or its own, which ``folder`` remembers; return the file's bytes.

    Raises:
        RosterFileError: no fleet is named.
        RosterSerialError: the serial is not higher than the last.
    """
    if not written.fleet:
        raise RosterFileError("the roster names no fleet: write `fleet` into the file, or give --fleet")
    seen = read_seen(folder / SEEN_NAME)
    last = seen.serial if seen else 0
    serial = written.serial or last + 1
    if serial <= last:
        raise RosterSerialError(
            f"serial {serial} is not higher than {last}, which was signed before: leave `serial` out"
        )
    body = RosterBody(fleet=written.fleet, serial=serial, parties=written.parties)
    signed = sign_roster(body, authority)
    digest = open_roster(signed, authority.public, written.fleet).digest
    # Remembered before it is given away: a lost file costs a serial, never two rosters of one.
    write_whole(folder / SEEN_NAME, pack(SeenRoster(serial, digest)))
    return signed


def operators_shared(roster: Roster) -> tuple[str, ...]:
    """Return who runs more than one hub: together they can read what is shared between them."""
    counted = Counter(roster.party(hub).operator for hub in roster.names("hub"))
    return tuple(sorted(operator for operator, count in counted.items() if count > 1))


def _plain(path: Path, text: str) -> Any:
    if path.suffix != ".csv":
        return tomllib.loads(text)
    rows = csv.DictReader(text.splitlines(), restval="", strict=True)
    return {"party": [dict(row) for row in rows]}


def _party(line: _Line) -> Party:
    try:
        check_name(line.name)
        key = bytes.fromhex(line.key)
    except (InvalidNameError, ValueError) as error:
        raise RosterFileError(f"{line.name[:64]!r}: {error}; take what `shoal roster key` prints") from error
    if len(key) != KEY_BYTES:
        raise RosterFileError(
            f"the key of {line.name!r} has {len(key)} bytes, not {KEY_BYTES}: take what `shoal roster key` "
            "prints"
        )
    return Party(line.name, line.role, key, line.operator)


def _check_together(parties: tuple[Party, ...]) -> None:
    for what, found in (("name", [one.name for one in parties]), ("key", [one.key.hex() for one in parties])):
        twice = [str(value)[:16] for value, count in Counter(found).items() if count > 1]
        if twice:
            raise RosterFileError(f"the {what} {twice[0]} stands twice: every party has its own")
    roles = Counter(one.role for one in parties)
    for role in _SOLE:
        if roles[role] != 1:
            raise RosterFileError(f"the roster names {roles[role]} parties as {role}: name one")
    if roles["hub"] == 1:
        raise RosterFileError("one hub cannot keep a secret from itself: name two or more, or none")
