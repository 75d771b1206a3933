"""Enrolment by file: keys, the signed roster and a settings file for every party of a fleet."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.identity import Identity, create_identity, load_identity
from shoal_codecs.security.pins import PINS_NAME, write_pins
from shoal_codecs.security.roster import Party, Role, RosterBody, load_roster, open_roster, sign_roster
from shoal_codecs.wire.topics import check_name

AUTHORITY = "authority"
COORDINATOR = "coordinator"
PUBLISHER = "publisher"
OPERATOR = "operator"


class FleetFolderError(ShoalError):
    """A fleet folder that cannot be used as it is."""


def init_fleet(
    folder: Path,
    fleet: str,
    *,
    devices: Sequence[str],
    hubs: Sequence[str],
    operators: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Make (or complete) the folder of every party and return them by name.

    Keys that exist are kept; parties that are new are added and the roster is signed again with the next
    serial. The authority's key stays in ``folder/authority`` and belongs on no machine of the fleet.
    ``operators`` says who runs a hub. The publisher's key lies in the coordinator's folder.

    Raises:
        InvalidNameError: a name that cannot stand in a topic.
        FleetFolderError: one hub only, a name used twice, or an authority that is elsewhere.
    """
    names = [*hubs, *devices, COORDINATOR, PUBLISHER, OPERATOR, AUTHORITY]
    # Before anything is made: names are folders.
    for name in (fleet, *names):
        check_name(name)
    if len(set(names)) != len(names):
        raise FleetFolderError("a name is used twice: every hub and device needs one of its own")
    if len(hubs) == 1:
        raise FleetFolderError("one hub would read every update: name two or more, or none")
    if not (folder / AUTHORITY / "identity.key").exists() and (folder / COORDINATOR / "roster.bin").exists():
        # Another would sign for a fleet that nobody but these folders believes.
        raise FleetFolderError(f"the key that signs this fleet is not in {folder / AUTHORITY}: bring it back")
    authority = _identity(AUTHORITY, folder / AUTHORITY / "identity.key")
    folders = {name: folder / name for name in (COORDINATOR, OPERATOR, *hubs, *devices)}
    keys = {name: _identity(name, path / "identity.key") for name, path in folders.items()}
    keys[PUBLISHER] = _identity(PUBLISHER, folders[COORDINATOR] / "publisher.key")
    roles: dict[str, Role] = {COORDINATOR: "coordinator", PUBLISHER: "publisher", OPERATOR: "operator"}
    for role, members in (("hub", hubs), ("device", devices)):
        roles.update({name: cast("Role", role) for name in members})
    parties = tuple(
        Party(name, roles[name], keys[name].public, (operators or {}).get(name, "")) for name in sorted(roles)
    )
    signed = _roster(folder, fleet, authority, parties)
    for path in folders.values():
        _write(path / "authority.pub", authority.public)
        _write(path / "roster.bin", signed)
        write_pins(path / PINS_NAME, open_roster(signed, authority.public, fleet))
    return folders


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Write a settings file with ``values`` (nested mappings are tables)."""
    _write(path, "\n".join(_toml(values, ())).strip().encode() + b"\n")


def _roster(folder: Path, fleet: str, authority: Identity, parties: tuple[Party, ...]) -> bytes:
    """Return the signed roster: the present one where nothing changed, else the next."""
    path, public = folder / AUTHORITY / "roster.bin", folder / AUTHORITY / "authority.pub"
    _write(public, authority.public)
    serial = 1
    if path.exists():
        present = load_roster(path, public, fleet)
        if present.parties == parties:
            return path.read_bytes()
        serial = present.serial + 1
    signed = sign_roster(RosterBody(fleet=fleet, serial=serial, parties=parties), authority)
    _write(path, signed)
    return signed


def _identity(name: str, path: Path) -> Identity:
    return load_identity(name, path) if path.exists() else create_identity(name, path)


def _write(path: Path, data: bytes) -> None:
    """Write through a temporary name: a reader sees the old file or the new one, whole."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _toml(values: Mapping[str, Any], table: tuple[str, ...]) -> list[str]:
    lines = ["", f"[{'.'.join(table)}]"] if table else []
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    # JSON's strings, numbers, booleans and lists are TOML too.
    lines += [
        f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items() if key not in inner
    ]
    for key, value in inner.items():
        lines += _toml(value, (*table, key))
    return lines
