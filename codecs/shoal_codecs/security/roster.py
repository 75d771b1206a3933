"""The roster: who belongs to the fleet, signed by an authority that is not the coordinator.

Devices and hubs hold the authority's public key from enrolment; everything else they believe because the
roster names its key.
"""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from shoal_codecs.security.errors import BadRosterError, UnknownPartyError
from shoal_codecs.security.identity import Identity, verify
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.held import MARK_BYTES, HeldRoster
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.topics import check_name

Role = Literal["coordinator", "publisher", "operator", "hub", "device"]
_SIGN_LABEL = b"shoal/1 roster\x00"


class Party(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One name, its role, its Ed25519 public key, and who runs it."""

    name: str
    role: Role
    key: bytes
    operator: str = ""


class RosterBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the authority signs; a higher ``serial`` replaces a lower one."""

    fleet: str
    serial: int
    parties: tuple[Party, ...]


class _SignedRoster(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: bytes
    signature: bytes


class Roster:
    """A verified roster, by name and by role."""

    def __init__(self, body: RosterBody, digest: bytes) -> None:
        self.fleet = body.fleet
        self.serial = body.serial
        self.digest = digest
        self._parties = {party.name: party for party in body.parties}
        if len(self._parties) != len(body.parties):
            raise BadRosterError("a name stands twice on the roster: sign one without doubles")

    @property
    def held(self) -> HeldRoster:
        """What a party that goes by it says of it."""
        return HeldRoster(self.serial, self.digest[:MARK_BYTES])

    @property
    def parties(self) -> tuple[Party, ...]:
        """Everybody on it, by name."""
        return tuple(self._parties[name] for name in sorted(self._parties))

    def party(self, name: str) -> Party:
        """Return the party called ``name``.

        Raises:
            UnknownPartyError: it is not on the roster.
        """
        try:
            return self._parties[name]
        except KeyError:
            raise UnknownPartyError(
                f"{name!r} is not on the roster of {self.fleet!r}: enrol it, sign a new roster, "
                "and start this one again with it"
            ) from None

    def role(self, name: str) -> str:
        """Return the role of ``name``, or an empty string for a stranger."""
        party = self._parties.get(name)
        return party.role if party else ""

    def names(self, role: Role) -> tuple[str, ...]:
        """Return the names with ``role``, sorted."""
        return tuple(sorted(p.name for p in self._parties.values() if p.role == role))

    def sole(self, role: Role) -> Party:
        """Return the only party with ``role``.

        Raises:
            BadRosterError: there is none, or more than one.
        """
        found = self.names(role)
        if len(found) != 1:
            raise BadRosterError(f"the roster names {len(found)} parties as {role}, it must name one")
        return self._parties[found[0]]


def sign_roster(body: RosterBody, authority: Identity) -> bytes:
    """Return the roster file: the body and the authority's signature over it."""
    for party in body.parties:
        check_name(party.name)
    data = pack(body)
    return pack(_SignedRoster(data, authority.sign(_SIGN_LABEL + data)))


def open_roster(data: bytes, authority: bytes, fleet: str) -> Roster:
    """Return the roster in ``data`` if ``authority`` (public key) signed it for ``fleet``.

    Raises:
        BadRosterError: not a roster, or of another fleet.
        BadSignatureError: another authority's, or changed.
    """
    try:
        signed = unpack(data, _SignedRoster)
        verify(authority, _SIGN_LABEL + signed.body, signed.signature)
        body = unpack(signed.body, RosterBody)
        for party in body.parties:
            check_name(party.name)
    except (msgspec.ValidationError, WireError) as error:
        raise BadRosterError(f"not a roster: {error}; ask the authority for the file") from error
    if body.fleet != fleet:
        raise BadRosterError(
            f"the roster is of fleet {body.fleet!r}, this party belongs to {fleet!r}: set `fleet` right"
        )
    return Roster(body, hashlib.sha256(signed.body).digest())


def load_roster(path: Path, authority_path: Path, fleet: str) -> Roster:
    """Read and verify the roster file against the authority's public key file.

    Raises:
        BadRosterError: a file is missing or no roster; or of another fleet.
        BadSignatureError: another authority's, or changed.
    """
    try:
        data, authority = path.read_bytes(), authority_path.read_bytes()
    except OSError as error:
        raise BadRosterError(
            f"cannot read {error.filename}: {error.strerror}; copy it from the authority"
        ) from error
    return open_roster(data, authority, fleet)
