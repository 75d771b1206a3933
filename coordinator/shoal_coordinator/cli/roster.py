"""``shoal roster``: keys on the parties' machines, the signing on one that is offline."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from shoal_codecs.security.identity import create_identity, load_identity
from shoal_codecs.security.pins import write_whole
from shoal_codecs.security.roster import Roster, open_roster
from shoal_coordinator.roster_file import (
    RosterFileError,
    operators_shared,
    read_roster_file,
    sign_written,
)


def show_key(name: str, folder: Path) -> None:
    """Print the public key of the party in ``folder``, as a roster file wants it; make the key if need be."""
    path = folder / "identity.key"
    identity = load_identity(name, path) if path.exists() else create_identity(name, path)
    sys.stdout.write(f"{identity.public.hex()}\n")


def sign(file: Path, authority: Path, out: Path, fleet: str, serial: int) -> None:
    """Sign the roster written in ``file`` with the key in the folder ``authority``; write it to ``out``.

    Raises:
        RosterFileError: it cannot be signed as it is.
        BadKeyFileError: there is no key of an authority.
    """
    written = read_roster_file(file)
    if fleet and written.fleet and fleet != written.fleet:
        raise RosterFileError(f"the file is of fleet {written.fleet!r}, not {fleet!r}: give one of the two")
    written = replace(written, fleet=fleet or written.fleet, serial=serial or written.serial)
    key = load_identity("authority", authority / "identity.key")
    signed = sign_written(written, key, authority)
    write_whole(authority / "authority.pub", key.public)
    write_whole(out, signed)
    roster = open_roster(signed, key.public, written.fleet)
    Console().print(_table(roster))
    _warn(roster)


def show(file: Path, authority: Path, fleet: str, *, as_json: bool) -> None:
    """Print the roster in ``file`` if the authority (public key file) signed it for ``fleet``.

    Raises:
        RosterFileError: a file is missing.
        BadRosterError, BadSignatureError: it is none, or another's.
    """
    try:
        data, public = file.read_bytes(), authority.read_bytes()
    except OSError as error:
        raise RosterFileError(
            f"cannot read {error.filename} ({error.strerror}): name roster and authority.pub"
        ) from error
    roster = open_roster(data, public, fleet)
    if as_json:
        rows = [
            {"name": one.name, "role": one.role, "key": one.key.hex(), "operator": one.operator}
            for one in roster.parties
        ]
        view = {
            "fleet": roster.fleet,
            "serial": roster.serial,
            "digest": roster.digest.hex(),
            "parties": rows,
        }
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(view)) + b"\n")
        return
    Console().print(_table(roster))
    _warn(roster)


def _warn(roster: Roster) -> None:
    for operator in operators_shared(roster):
        who = operator or "nobody who is named"
        sys.stderr.write(
            f"{who} runs more than one hub: whoever holds all of them reads every update; "
            "give them different operators\n"
        )


def _table(roster: Roster) -> Table:
    title = f"roster of {roster.fleet}, serial {roster.serial}, digest {roster.digest.hex()[:16]}"
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    for heading in ("name", "role", "key", "operator"):
        table.add_column(heading)
    for one in roster.parties:
        table.add_row(one.name, one.role, one.key.hex()[:16], one.operator)
    return table
