"""From keys on their own machines to a roster that hubs and devices hold against what they have seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal_codecs.security.errors import (
    BadPinsError,
    BadSignatureError,
    OldRosterError,
    PinnedHubsError,
    SecurityError,
)
from shoal_codecs.security.identity import Identity, create_identity, load_identity
from shoal_codecs.security.pins import PINS_NAME, SEEN_NAME, pins_of, read_pins, trusted_roster, write_pins
from shoal_codecs.security.roster import Party, RosterBody, load_roster, open_roster, sign_roster
from shoal_coordinator.fleet_init import init_fleet
from shoal_coordinator.hub.__main__ import main as run_hub
from shoal_coordinator.roster_file import (
    RosterFileError,
    RosterSerialError,
    operators_shared,
    read_roster_file,
    sign_written,
)

FLEET = "farm"
AUTHORITY = Identity("authority", b"\x01" * 32)
KEYS = {
    name: Identity(name, bytes([place + 7]) * 32).public
    for place, name in enumerate(
        ("coordinator", "publisher", "operator", "hub-1", "hub-2", "hub-3", "device-1")
    )
}
ROLES = {"operator": "operator", "coordinator": "coordinator", "publisher": "publisher"}


def role(name: str) -> str:
    return ROLES.get(name, name.partition("-")[0])


def written(path: Path, names: list[str], head: str = 'fleet = "farm"\n', **changes: str) -> Path:
    lines = [head]
    for name in names:
        fields = {"name": name, "role": role(name), "key": KEYS[name].hex(), "operator": f"owner of {name}"}
        lines.append("[[party]]\n" + "".join(f'{k} = "{v}"\n' for k, v in (fields | changes).items()))
    path.write_text("\n".join(lines))
    return path


EVERYBODY = ["coordinator", "publisher", "operator", "hub-1", "hub-2", "device-1"]


def party_folder(
    root: Path, serial: int, hubs: dict[str, tuple[bytes, str]] | None = None, by: Identity = AUTHORITY
) -> Path:
    """Lay a party's roster out, with ``hubs`` by name: key and operator."""
    hubs = hubs or {"hub-1": (KEYS["hub-1"], "a"), "hub-2": (KEYS["hub-2"], "b")}
    parties = (
        Party("coordinator", "coordinator", KEYS["coordinator"]),
        Party("device-1", "device", KEYS["device-1"]),
        *(Party(name, "hub", key, operator) for name, (key, operator) in hubs.items()),
    )
    root.mkdir(exist_ok=True)
    (root / "authority.pub").write_bytes(AUTHORITY.public)
    (root / "roster.bin").write_bytes(sign_roster(RosterBody(FLEET, serial, parties), by))
    return root


def taken(root: Path) -> int:
    return trusted_roster(root, root / "state", FLEET).serial


# --- what is signed ---------------------------------------------------------------------------------


def test_toml_and_csv_say_the_same(tmp_path: Path) -> None:
    toml = read_roster_file(written(tmp_path / "fleet.toml", EVERYBODY))
    rows = ["name,role,key,operator"]
    rows += [f"{name},{role(name)},{KEYS[name].hex()},owner of {name}" for name in EVERYBODY]
    (tmp_path / "fleet.csv").write_text("\n".join(rows))
    assert read_roster_file(tmp_path / "fleet.csv").parties == toml.parties
    assert toml.fleet == FLEET


@pytest.mark.parametrize(
    ("names", "changes", "fault"),
    [
        (["coordinator", "coordinator"], {}, "stands twice"),
        (["coordinator", "publisher", "hub-1"], {}, "one hub cannot"),
        (["publisher", "hub-1", "hub-2"], {}, "0 parties as coordinator"),
        (["coordinator", "publisher"], {"key": "ab"}, "stands twice|1 bytes"),
        (["coordinator"], {"key": "zz"}, "roster key"),
        (["coordinator"], {"role": "king"}, "role.*coordinator, .* possible"),
        (["coordinator"], {"colour": "red"}, "colour"),
        (["coordinator"], {"name": "No/Name"}, "No/Name"),
    ],
)
def test_what_cannot_be_signed_is_refused_with_the_reason(
    tmp_path: Path, names: list[str], changes: dict[str, str], fault: str
) -> None:
    with pytest.raises(RosterFileError, match=fault):
        read_roster_file(written(tmp_path / "fleet.toml", names, **changes))


@pytest.mark.parametrize("content", ["[[party]", "\xff\xfe", "", "party = 5"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RosterFileError):
        read_roster_file(path)
    with pytest.raises(RosterFileError, match="No such file"):
        read_roster_file(tmp_path / "none.csv")


def test_serials_only_grow_also_where_the_signed_file_was_lost(tmp_path: Path) -> None:
    one = read_roster_file(written(tmp_path / "fleet.toml", EVERYBODY))
    serials = [
        open_roster(sign_written(one, AUTHORITY, tmp_path), AUTHORITY.public, FLEET).serial for _ in range(3)
    ]
    assert serials == [1, 2, 3]
    for serial in (1, 3):
        old = read_roster_file(
            written(tmp_path / "old.toml", EVERYBODY, f'fleet = "farm"\nserial = {serial}\n')
        )
        with pytest.raises(RosterSerialError, match="not higher than 3"):
            sign_written(old, AUTHORITY, tmp_path)
    nameless = read_roster_file(written(tmp_path / "nameless.toml", EVERYBODY, ""))
    with pytest.raises(RosterFileError, match="--fleet"):
        sign_written(nameless, AUTHORITY, tmp_path)


def test_one_operator_of_two_hubs_is_pointed_out(tmp_path: Path) -> None:
    same = {"hub-1": (KEYS["hub-1"], "a"), "hub-2": (KEYS["hub-2"], "a"), "hub-3": (KEYS["hub-3"], "b")}
    folder = party_folder(tmp_path, 1, same)
    assert operators_shared(trusted_roster(folder, folder, FLEET)) == ("a",)


# --- what hubs and devices take ---------------------------------------------------------------------


def test_an_older_roster_is_not_taken_back(tmp_path: Path) -> None:
    assert taken(party_folder(tmp_path, 4)) == 4
    assert taken(party_folder(tmp_path, 9)) == 9
    with pytest.raises(OldRosterError, match="serial 9 was taken"):
        taken(party_folder(tmp_path, 8))
    assert taken(party_folder(tmp_path, 9)) == 9


def test_two_rosters_of_one_serial_are_not_both_taken(tmp_path: Path) -> None:
    taken(party_folder(tmp_path, 4))
    (tmp_path / "state" / PINS_NAME).unlink()
    with pytest.raises(OldRosterError, match="another roster with serial 4"):
        taken(party_folder(tmp_path, 4, {"hub-1": (KEYS["hub-3"], "a"), "hub-2": (KEYS["hub-2"], "b")}))


@pytest.mark.parametrize(
    "hubs",
    [
        {"hub-1": (KEYS["hub-3"], "a"), "hub-2": (KEYS["hub-2"], "b")},
        {"hub-1": (KEYS["hub-1"], "a"), "hub-2": (KEYS["hub-2"], "a")},
        {"hub-1": (KEYS["hub-1"], "a"), "hub-3": (KEYS["hub-3"], "b")},
        {"hub-1": (KEYS["hub-1"], "a"), "hub-2": (KEYS["hub-2"], "b"), "hub-3": (KEYS["hub-3"], "c")},
    ],
    ids=["another key", "another operator", "another hub", "one more"],
)
def test_hubs_that_were_not_pinned_wait_for_a_person(
    tmp_path: Path, hubs: dict[str, tuple[bytes, str]]
) -> None:
    taken(party_folder(tmp_path, 1))
    with pytest.raises(PinnedHubsError, match="by hand"):
        taken(party_folder(tmp_path, 2, hubs))
    # The refusal changed nothing: the first roster still counts.
    assert taken(party_folder(tmp_path, 1)) == 1
    party_folder(tmp_path, 2, hubs)
    (tmp_path / "state" / PINS_NAME).unlink()
    assert taken(tmp_path) == 2


def test_a_roster_of_another_authority_pins_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadSignatureError):
        taken(party_folder(tmp_path, 1, by=Identity("authority", b"\x02" * 32)))
    assert not (tmp_path / "state" / PINS_NAME).exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(content=st.binary(max_size=60))
def test_damaged_pins_and_serials_are_named(tmp_path: Path, content: bytes) -> None:
    for path in (tmp_path / "state" / PINS_NAME, tmp_path / "state" / SEEN_NAME):
        path.unlink(missing_ok=True)
    taken(party_folder(tmp_path, 1))
    pins, seen = tmp_path / "state" / PINS_NAME, tmp_path / "state" / SEEN_NAME
    kept = pins.read_bytes()
    pins.write_bytes(content)
    with pytest.raises((BadPinsError, PinnedHubsError)):
        taken(tmp_path)
    pins.write_bytes(kept)
    seen.write_bytes(content)
    with pytest.raises(SecurityError):
        taken(tmp_path)


def test_pins_come_back_as_they_were_written(tmp_path: Path) -> None:
    hubs = {"hub-1": (KEYS["hub-1"], 'a "quoted"\\ name'), "hub.2-x": (KEYS["hub-2"], "ä")}
    folder = party_folder(tmp_path, 1, hubs)
    roster = trusted_roster(folder, folder, FLEET)
    write_pins(folder / PINS_NAME, roster)
    assert read_pins(folder / PINS_NAME) == pins_of(roster)


def test_pins_beside_the_roster_win_and_a_folder_that_is_read_only_is_left_alone(tmp_path: Path) -> None:
    taken(party_folder(tmp_path, 1))
    assert not (tmp_path / PINS_NAME).exists()
    other = {"hub-1": (KEYS["hub-3"], "a"), "hub-2": (KEYS["hub-2"], "b")}
    party_folder(tmp_path, 2, other)
    with pytest.raises(PinnedHubsError):
        taken(tmp_path)
    write_pins(tmp_path / PINS_NAME, load_roster(tmp_path / "roster.bin", tmp_path / "authority.pub", FLEET))
    assert taken(tmp_path) == 2


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = party_folder(tmp_path / "party", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadPinsError, match="cannot"):
        trusted_roster(folder, tmp_path / "file", FLEET)


def test_a_fleet_made_at_once_is_pinned_and_may_grow(tmp_path: Path) -> None:
    folders = init_fleet(tmp_path, FLEET, devices=["d1"], hubs=["h1", "h2"])
    assert trusted_roster(folders["d1"], folders["d1"] / "data", FLEET).serial == 1
    folders = init_fleet(tmp_path, FLEET, devices=["d1"], hubs=["h1", "h2", "h3"])
    assert trusted_roster(folders["d1"], folders["d1"] / "data", FLEET).names("hub") == ("h1", "h2", "h3")


def test_a_hub_does_not_start_with_hubs_it_did_not_pin(tmp_path: Path) -> None:
    folders = init_fleet(tmp_path, FLEET, devices=["d1"], hubs=["h1", "h2"])
    config = tmp_path / "h1.toml"
    config.write_text(f'name = "h1"\nfleet = "farm"\nfolder = "{folders["h1"]}"\n')
    pins = folders["h1"] / PINS_NAME
    pins.write_text(pins.read_text().replace("h2", "h7"))
    with pytest.raises(PinnedHubsError, match="h2, h7"):
        run_hub(config)


# --- the commands -----------------------------------------------------------------------------------


def shoal(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal_coordinator", "roster", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_whole_ceremony_by_its_commands(tmp_path: Path) -> None:
    names = ["coordinator", "publisher", "operator", "hub-1", "hub-2", "device-1"]
    lines = ["name,role,key,operator"]
    for name in names:
        if name == "hub-1":
            key = shoal("key", name, "--folder", name, cwd=tmp_path).stdout.strip()
            assert load_identity(name, tmp_path / name / "identity.key").public.hex() == key
            assert shoal("key", name, "--folder", name, cwd=tmp_path).stdout.strip() == key
        else:
            key = create_identity(name, tmp_path / name / "identity.key").public.hex()
        lines.append(f"{name},{role(name)},{key},one and the same")
    (tmp_path / "fleet.csv").write_text("\n".join(lines))
    refused = shoal("sign", "fleet.csv", "--fleet", "farm", cwd=tmp_path)
    assert (refused.returncode, "identity.key" in refused.stderr) == (2, True)
    shoal("key", "authority", "--folder", "authority", cwd=tmp_path)
    done = shoal("sign", "fleet.csv", "--fleet", "farm", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "serial 1" in done.stdout
    assert "one and the same runs more than one hub" in done.stderr
    public = str(tmp_path / "authority" / "authority.pub")
    shown = json.loads(
        shoal("show", "--authority", public, "--fleet", "farm", "-o", "json", cwd=tmp_path).stdout
    )
    assert (shown["serial"], len(shown["parties"])) == (1, len(names))
    again = shoal("sign", "fleet.csv", "--fleet", "farm", "--serial", "1", cwd=tmp_path)
    assert (again.returncode, "RosterSerialError" in again.stderr or "not higher" in again.stderr) == (
        2,
        True,
    )
    wrong = shoal("show", "--authority", public, "--fleet", "other", cwd=tmp_path)
    assert wrong.returncode == 2
    # Everybody takes it, each from the folder where its key was made.
    for name in ("hub-1", "device-1"):
        for file in (tmp_path / "roster.bin", Path(public)):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        roster = trusted_roster(tmp_path / name, tmp_path / name / "data", "farm")
        assert roster.party(name).key == load_identity(name, tmp_path / name / "identity.key").public
