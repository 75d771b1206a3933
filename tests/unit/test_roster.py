import os
from pathlib import Path

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.errors import (
    BadKeyFileError,
    BadRosterError,
    BadSignatureError,
    UnknownPartyError,
)
from shoal_codecs.security.identity import create_identity, load_identity, verify
from shoal_codecs.security.pins import write_whole
from shoal_codecs.security.roster import Party, load_roster, open_roster, sign_roster
from shoal_codecs.wire.errors import InvalidNameError
from wire_parts import AUTHORITY, FLEET, ROLES, identity, roster, roster_body

SIGNED = sign_roster(roster_body(), AUTHORITY)


def signed_by_authority(body: object) -> bytes:
    """Sign what ``sign_roster`` would not make."""
    data = msgpack.packb(msgspec.to_builtins(body, builtin_types=(bytes,)))
    return bytes(msgpack.packb([data, AUTHORITY.sign(b"shoal/1 roster\x00" + data)]))


def test_the_roster_knows_names_roles_and_keys() -> None:
    known = roster()
    assert {name: known.role(name) for name in ROLES} == ROLES
    assert known.names("hub") == ("hub-1", "hub-2")
    assert known.party("device-02").key == identity("device-02").public
    assert known.sole("coordinator").name == "coordinator"
    assert len(known.digest) == 32


def test_strangers_have_no_role_and_no_key() -> None:
    assert roster().role("stranger") == ""
    with pytest.raises(UnknownPartyError, match="enrol"):
        roster().party("stranger")


def test_a_role_that_must_be_one_partys_is_checked() -> None:
    with pytest.raises(BadRosterError, match="2 parties as hub"):
        roster().sole("hub")


def test_another_authoritys_roster_is_not_believed() -> None:
    with pytest.raises(BadSignatureError):
        open_roster(SIGNED, identity("coordinator").public, FLEET)
    with pytest.raises(BadSignatureError):
        open_roster(SIGNED, b"short", FLEET)


def test_a_roster_of_another_fleet_is_refused() -> None:
    with pytest.raises(BadRosterError, match="'flock'"):
        open_roster(SIGNED, AUTHORITY.public, "flock")


def test_a_name_twice_is_refused() -> None:
    parties = (*roster_body().parties, Party("hub-1", "device", bytes(32)))
    with pytest.raises(BadRosterError, match="twice"):
        open_roster(sign_roster(roster_body(parties=parties), AUTHORITY), AUTHORITY.public, FLEET)


def test_a_name_that_cannot_stand_in_a_topic_is_neither_signed_nor_read() -> None:
    body = roster_body(parties=(Party("a/b", "device", bytes(32)),))
    with pytest.raises(InvalidNameError):
        sign_roster(body, AUTHORITY)
    with pytest.raises(BadRosterError, match="no usable name"):
        open_roster(signed_by_authority(body), AUTHORITY.public, FLEET)


@pytest.mark.parametrize(
    "change", [{"more": 1}, {"serial": "one"}, {"parties": [{"name": "x", "role": "king", "key": b""}]}]
)
def test_a_roster_that_says_what_nobody_knows_is_refused(change: dict[str, object]) -> None:
    tree = msgspec.to_builtins(roster_body(), builtin_types=(bytes,)) | change
    with pytest.raises(BadRosterError, match="not a roster"):
        open_roster(signed_by_authority(tree), AUTHORITY.public, FLEET)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(ShoalError):
        open_roster(data, AUTHORITY.public, FLEET)


@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 7))
def test_one_changed_bit_anywhere_is_refused_by_name(place: int, bit: int) -> None:
    changed = bytearray(SIGNED)
    changed[place] ^= 1 << bit
    with pytest.raises(ShoalError):
        open_roster(bytes(changed), AUTHORITY.public, FLEET)


def test_a_roster_is_read_from_its_files(tmp_path: Path) -> None:
    files = tmp_path / "roster.bin", tmp_path / "authority.pub"
    with pytest.raises(BadRosterError, match=r"roster\.bin"):
        load_roster(*files, FLEET)
    files[0].write_bytes(SIGNED)
    with pytest.raises(BadRosterError, match=r"authority\.pub"):
        load_roster(*files, FLEET)
    files[1].write_bytes(AUTHORITY.public)
    assert load_roster(*files, FLEET).digest == roster().digest


def test_the_newest_serial_is_on_the_disk_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not take it back: an older roster would be believed again."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_whole(tmp_path / "roster.seen", b"serial")
    assert done == ["file", "rename", "folder"]


def test_a_key_file_is_its_owners_alone_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "device-01" / "identity.key"
    made = create_identity("device-01", path)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = load_identity("device-01", path)
    verify(made.public, b"word", loaded.sign(b"word"))
    with pytest.raises(FileExistsError):
        create_identity("device-01", path)


def test_a_key_file_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    with pytest.raises(BadKeyFileError, match="No such file"):
        load_identity("device-01", path)
    path.write_bytes(b"\x01" * 32)
    path.chmod(0o640)
    with pytest.raises(BadKeyFileError, match="chmod 600"):
        load_identity("device-01", path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(BadKeyFileError, match="5 bytes"):
        load_identity("device-01", path)
