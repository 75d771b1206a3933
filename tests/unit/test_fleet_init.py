import tomllib
from pathlib import Path

import pytest

from shoal_codecs.security.errors import BadKeyFileError
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.roster import Roster, load_roster
from shoal_codecs.wire.errors import InvalidNameError
from shoal_coordinator.fleet_init import FleetFolderError, init_fleet, write_settings

HUBS = ["hub-1", "hub-2"]
DEVICES = ["device-01", "device-02"]


def roster_of(folder: Path) -> Roster:
    return load_roster(folder / "roster.bin", folder / "authority.pub", "herd")


def test_every_party_gets_what_it_needs_and_nobody_elses_key(tmp_path: Path) -> None:
    folders = init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS)
    assert set(folders) == {"coordinator", "operator", *HUBS, *DEVICES}
    for name, folder in folders.items():
        own = load_identity(name, folder / "identity.key")
        assert roster_of(folder).party(name).key == own.public
        keys = {path.name for path in folder.glob("*.key")}
        assert keys == ({"identity.key", "publisher.key"} if name == "coordinator" else {"identity.key"})
    seeds = [path.read_bytes() for path in tmp_path.rglob("*.key")]
    assert len(set(seeds)) == len(seeds) == len(folders) + 2
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.key")} == {0o600}


def test_the_authoritys_key_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS)
    authority = load_identity("authority", tmp_path / "authority" / "identity.key")
    assert tmp_path / "authority" not in folders.values()
    assert (folders["coordinator"] / "authority.pub").read_bytes() == authority.public


def test_the_roster_names_everybody_in_their_role(tmp_path: Path) -> None:
    folders = init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS, operators={"hub-2": "another farm"})
    roster = roster_of(folders["device-01"])
    assert (roster.serial, roster.names("hub"), roster.names("device")) == (1, tuple(HUBS), tuple(DEVICES))
    for role in ("coordinator", "publisher", "operator"):
        assert roster.sole(role).name == role
    assert roster.party("hub-2").operator == "another farm"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS)
    before = contents(tmp_path)
    init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS)
    assert contents(tmp_path) == before


def test_a_device_is_added_with_the_next_serial_and_keys_are_kept(tmp_path: Path) -> None:
    folders = init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS)
    before = {path: data for path, data in contents(tmp_path).items() if path.suffix == ".key"}
    again = init_fleet(tmp_path, "herd", devices=[*DEVICES, "device-03"], hubs=HUBS)
    assert before.items() <= contents(tmp_path).items()
    for folder in again.values():
        assert roster_of(folder).serial == 2
        assert roster_of(folder).role("device-03") == "device"
    assert roster_of(folders["hub-1"]).digest == roster_of(again["device-03"]).digest


@pytest.mark.parametrize(
    ("devices", "hubs", "fault"),
    [
        (DEVICES, ["hub-1"], "two or more"),
        (["device-01", "device-01"], HUBS, "used twice"),
        (["hub-1"], HUBS, "used twice"),
        (["coordinator"], HUBS, "used twice"),
        (["authority"], HUBS, "used twice"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused_and_nothing_is_made(
    tmp_path: Path, devices: list[str], hubs: list[str], fault: str
) -> None:
    with pytest.raises(FleetFolderError, match=fault):
        init_fleet(tmp_path, "herd", devices=devices, hubs=hubs)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["Device", "a/b", "", "../outside", "a b"])
def test_a_name_that_cannot_stand_in_a_topic_makes_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidNameError):
        init_fleet(tmp_path / "fleet", "herd", devices=[name], hubs=HUBS)
    with pytest.raises(InvalidNameError):
        init_fleet(tmp_path / "fleet", name, devices=DEVICES, hubs=HUBS)
    assert contents(tmp_path) == {}


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    folders = init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS)
    (folders["hub-1"] / "identity.key").chmod(0o644)
    with pytest.raises(BadKeyFileError, match="chmod 600"):
        init_fleet(tmp_path, "herd", devices=DEVICES, hubs=HUBS)


def test_settings_are_written_as_toml(tmp_path: Path) -> None:
    values = {
        "name": 'a "quoted" name\\',
        "period_s": 5.0,
        "show": True,
        "modes": ["hubs", "plain"],
        "link": {"url": "mqtt://127.0.0.1:1883", "keepalive_s": 10},
        "last": 1,
    }
    write_settings(tmp_path / "party" / "config.toml", values)
    assert tomllib.loads((tmp_path / "party" / "config.toml").read_text()) == values
