"""Enrolment by file: what ``shoal fleet init`` leaves in everybody's folder, and that it is of use there."""

import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from shoal_codecs.privacy.errors import FleetTooSmallError
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.roster import load_roster
from shoal_codecs.settings import find_place, load_settings
from shoal_codecs.transport.errors import BadBrokerUrlError
from shoal_codecs.transport.settings import LinkSettings
from shoal_coordinator.cli.enrol import enrol
from shoal_coordinator.cli.enrolment import Enrolment
from shoal_coordinator.cli.serve import _settings
from shoal_coordinator.config import CoordinatorSettings, shipped
from shoal_coordinator.fleet_init import FleetFolderError
from shoal_coordinator.hub.config import HubSettings
from shoal_edge.config import load_edge_settings


def fleet(folder: Path, broker: str = "mqtt://127.0.0.1:1883", **options: object) -> Path:
    values: dict[str, object] = {"folder": folder, "fleet": "f", "devices": 3, "broker": broker}
    enrol(Enrolment(**(values | options)))  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("mode", ["single", "plain"])
def test_every_folder_is_ready_to_run(tmp_path: Path, mode: str) -> None:
    fleet(tmp_path, mode=mode, hubs=2)
    coordinator = _settings(CoordinatorSettings, None, None, tmp_path / "coordinator")
    hub = _settings(HubSettings, None, None, tmp_path / "hub-2")
    device = load_edge_settings(None, folder=tmp_path / "device-03")
    assert (coordinator.rounds.mode, device.modes) == (mode, (mode,))
    for settings in (coordinator, hub, device):
        assert settings.fleet == "f"
        assert settings.link.username == settings.name
        folder = Path(settings.folder)
        roster = load_roster(folder / "roster.bin", folder / "authority.pub", "f")
        key = load_identity(settings.name, folder / "identity.key").public
        assert roster.party(settings.name).key == key


@pytest.mark.parametrize(("mode", "hubs"), [("hubs", 2), ("single", 0), ("plain", 0)])
def test_only_mode_hubs_makes_hubs_unless_they_are_asked_for(tmp_path: Path, mode: str, hubs: int) -> None:
    fleet(tmp_path, mode=mode)
    assert len(list(tmp_path.glob("hub-*"))) == hubs
    fleet(tmp_path, mode=mode, hubs=3)
    assert len(list(tmp_path.glob("hub-*"))) == 3
    # Who runs it again for more devices keeps the hubs that are there.
    fleet(tmp_path, mode=mode, devices=4)
    roster = load_roster(tmp_path / "device-04" / "roster.bin", tmp_path / "device-04" / "authority.pub", "f")
    assert roster.names("hub") == ("hub-1", "hub-2", "hub-3")
    # Nobody takes a roster that lacks a hub.
    fleet(tmp_path, mode=mode, hubs=2)
    roster = load_roster(tmp_path / "hub-3" / "roster.bin", tmp_path / "hub-3" / "authority.pub", "f")
    assert roster.names("hub") == ("hub-1", "hub-2", "hub-3")


def test_mode_hubs_without_hubs_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(FleetFolderError, match="needs two hubs"):
        fleet(tmp_path / "f", hubs=0)
    assert not (tmp_path / "f").exists()


def test_the_defaults_let_three_devices_train(tmp_path: Path) -> None:
    """Every party's own floor is met by a cohort of three."""
    fleet(tmp_path)
    coordinator = _settings(CoordinatorSettings, None, None, tmp_path / "coordinator")
    hub = _settings(HubSettings, None, None, tmp_path / "hub-1")
    device = load_edge_settings(None, folder=tmp_path / "device-01")
    assert coordinator.rounds.minimum <= 3
    assert hub.floors.least_reports(3) <= 3
    assert device.n_min <= 3


def test_sample_data_is_shared_out_once(tmp_path: Path) -> None:
    fleet(tmp_path, sample_data=True)
    shards = [np.load(tmp_path / f"device-0{number}" / "examples.npz") for number in (1, 2, 3)]
    assert sum(len(shard["y"]) for shard in shards) == len(np.load(shipped("digits.npz"))["y"])
    assert all(len(shard["x"]) == len(shard["y"]) for shard in shards)
    before = (tmp_path / "device-01" / "examples.npz").read_bytes()
    fleet(tmp_path, sample_data=True, devices=4)
    assert (tmp_path / "device-01" / "examples.npz").read_bytes() == before
    assert (tmp_path / "device-04" / "examples.npz").exists()


def test_a_tls_broker_gets_passwords_and_everyone_its_authority(tmp_path: Path) -> None:
    ca = tmp_path / "my-ca.pem"
    ca.write_text("certificate")
    folder = fleet(tmp_path / "fleet", "mqtts://broker.example", ca_file=ca)
    lines = dict(line.split(":") for line in (folder / "broker.passwd").read_text().splitlines())
    assert set(lines) == {
        "coordinator",
        "operator",
        *("hub-1", "hub-2"),
        *("device-01", "device-02", "device-03"),
    }
    assert len(set(lines.values())) == len(lines)
    for name, secret in lines.items():
        file = folder / name / "password"
        assert file.read_text().strip() == secret
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "broker.passwd").stat().st_mode) == 0o600
    link = load_edge_settings(None, folder=folder / "device-01").link
    # The folder may be copied anywhere: nothing in it names where it was made.
    assert str(tmp_path) not in (folder / "device-01" / "config.toml").read_text()
    assert Path(link.ca_file).read_text() == "certificate"
    assert Path(link.password_file).read_text().strip() == lines["device-01"]
    # One party's copy, by whatever path, is as good as the file that it was copied from.
    copy = folder / "operator" / ".." / "device-01" / "ca.crt"
    fleet(folder, "mqtts://broker.example", ca_file=copy, devices=4)
    assert (folder / "device-04" / "ca.crt").read_text() == "certificate"
    again = dict(line.split(":") for line in (folder / "broker.passwd").read_text().splitlines())
    assert {name: again[name] for name in lines} == lines
    assert "device-04" in again


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadBrokerUrlError):
        fleet(tmp_path / "a", "http://broker")
    with pytest.raises(FleetFolderError, match="no certificate"):
        fleet(tmp_path / "a", "mqtts://broker", ca_file=tmp_path / "missing")
    assert not (tmp_path / "a").exists()


def test_where_a_party_finds_its_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc, var, mine = tmp_path / "etc", tmp_path / "var", tmp_path / "mine"
    for folder in (etc, mine):
        folder.mkdir()
        (folder / "config.toml").write_text('name = "x"\n')
    assert find_place(None, mine) == (mine / "config.toml", None)
    assert find_place(None, tmp_path) == (None, None)
    assert find_place(mine / "other.toml", None) == (mine / "other.toml", None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.chdir(mine)
    assert find_place(None, None) == (Path("config.toml"), None)
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(etc))
    monkeypatch.setenv("STATE_DIRECTORY", str(var))
    assert find_place(None, None) == (etc / "config.toml", var)
    assert find_place(mine / "config.toml", None) == (mine / "config.toml", var)
    assert find_place(None, mine) == (mine / "config.toml", None)
    (etc / "config.toml").write_text('name = "hub-1"\nfleet = "f"\n[link]\nca_file = "ca.crt"\n')
    hub = _settings(HubSettings, None, None, None)
    assert (hub.party_folder, hub.data_folder) == (etc.resolve(), var)
    assert hub.link.ca_file == str(etc.resolve() / "ca.crt")
    edge = load_edge_settings(None)
    assert (edge.home, edge.state, edge.releases) == (etc.resolve(), var, var / "releases")
    (etc / "config.toml").write_text('name = "hub-1"\ndata_dir = "/elsewhere"\n')
    assert load_edge_settings(None).state == Path("/elsewhere")


def test_files_of_a_link_are_found_beside_the_settings() -> None:
    link = LinkSettings(ca_file="ca.crt", password_file="/run/secret").beside(Path("/etc/shoal"))
    assert (link.ca_file, link.password_file, link.key_file) == ("/etc/shoal/ca.crt", "/run/secret", "")
    assert load_settings(LinkSettings, None, environment={}).ca_file == ""


def test_a_privacy_budget_stands_in_the_settings_of_both_sides(tmp_path: Path) -> None:
    fleet(tmp_path, epsilon=4.0, allow_small_fleet=True)
    coordinator = _settings(CoordinatorSettings, None, None, tmp_path / "coordinator")
    device = load_edge_settings(None, folder=tmp_path / "device-01")
    assert (coordinator.rounds.privacy.mechanism, coordinator.rounds.privacy.epsilon) == ("auto", 4.0)
    assert (device.privacy.epsilon, device.privacy.delta, device.privacy.told) == (4.0, 1e-5, "verdict")
    fleet(tmp_path / "none")
    assert load_edge_settings(None, folder=tmp_path / "none" / "device-01").privacy.epsilon == 0.0


def test_a_budget_too_small_for_the_fleet_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """With the numbers: how many devices would do, and which epsilon."""
    with pytest.raises(
        FleetTooSmallError, match=r"4 devices .* epsilon 8.*--devices 50, an --epsilon over 8"
    ):
        fleet(tmp_path / "f", epsilon=8.0, devices=4)
    assert not (tmp_path / "f").exists()
    fleet(tmp_path / "more", epsilon=8.0, devices=50)
    fleet(tmp_path / "looser", epsilon=8.5, devices=4)


def test_a_budget_that_no_noise_keeps_is_told_with_what_would_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet(tmp_path, epsilon=0.01, devices=60)
    said = " ".join(capsys.readouterr().out.split())
    assert "the coordinator will not start with these settings" in said
    assert re.search(r"; \d+ rounds would fit", said)


def test_who_joins_later_is_like_those_that_are_there(tmp_path: Path) -> None:
    """Whatever the fleet was made with, or its coordinator was told since, is not said again."""
    ca = tmp_path / "my-ca.pem"
    ca.write_text("certificate")
    folder = fleet(tmp_path / "f", "mqtts://broker.example", ca_file=ca, mode="single", epsilon=9.0)
    config = folder / "coordinator" / "config.toml"
    text = config.read_text()
    assert text.startswith("name = ")
    text = f'heartbeat_s = 10.0\nprefix = "x/y"\n{text}'
    config.write_text(text)
    enrol(Enrolment(folder=folder, devices=4))
    old, new = (load_edge_settings(None, folder=folder / name) for name in ("device-01", "device-04"))
    assert (new.fleet, new.modes, new.privacy) == (old.fleet, old.modes, old.privacy)
    assert (new.heartbeat_s, new.prefix) == (10.0, "x/y")
    assert new.link.url == old.link.url
    assert Path(new.link.ca_file).read_text() == "certificate"
    assert len((folder / "broker.passwd").read_text().splitlines()) == 6
    # A lower number, or none, takes nobody off the roster.
    for devices in (None, 2):
        enrol(Enrolment(folder=folder, devices=devices))
        roster = load_roster(folder / "operator" / "roster.bin", folder / "operator" / "authority.pub", "f")
        assert len(roster.names("device")) == 4


def test_who_loses_a_place_or_a_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that was moved to its machine looks like one that was removed."""
    folder = fleet(tmp_path, devices=4)
    assert "off the roster" not in capsys.readouterr().out
    for name in ("device-02", "device-04"):
        shutil.rmtree(folder / name)
    enrol(Enrolment(folder=folder, devices=3))
    said = capsys.readouterr().out
    assert "off the roster, for no folder is here: device-04" in said
    assert "with a new key, for the old one is not here: device-02" in said
    shutil.rmtree(folder / "authority")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FleetFolderError, match="bring it back"):
        enrol(Enrolment(folder=folder, devices=4))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_who_runs_it_again_is_told_what_is_new_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(devices: int = 3, hubs: int | None = None) -> str:
        fleet(tmp_path, mode="hubs", devices=devices, hubs=hubs)
        return " ".join(capsys.readouterr().out.split())

    again = "and start it again"
    assert again not in said()
    more = said(devices=5)
    assert "new on the roster: device-04, device-05; give every party its new roster.bin and" in more
    # Nothing changed, and nobody is sent around.
    assert again not in said(devices=5)
    # Hubs and devices take no roster with a hub that their pins lack.
    assert "new on the roster: hub-3; give every party its new roster.bin and pins.toml" in said(hubs=3)
    shutil.rmtree(tmp_path / "device-05")
    less = said()
    assert again in less
    assert "new on the roster" not in less


@pytest.mark.parametrize(
    ("option", "value"), [("fleet", "other"), ("mode", "plain"), ("epsilon", 8.0), ("epsilon", 0.0)]
)
def test_who_would_not_fit_the_fleet_is_refused(tmp_path: Path, option: str, value: object) -> None:
    folder = fleet(tmp_path, epsilon=9.0)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FleetFolderError, match=f"leave --{option} out"):
        enrol(Enrolment(**{"folder": folder, "devices": 4, option: value}))  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
