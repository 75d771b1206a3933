"""``shoal-edge`` as a person meets it."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from edge_parts import DEMO_DATA, FLEET, TASK_BYTES, TASK_REF, base_vector, enrol, make_fleet, write_examples
from shoal_codecs.ota.manifest import Artefact, Manifest, Provenance, sign_manifest
from shoal_codecs.settings import SettingsError, print_settings
from shoal_codecs.wire.blob import describe
from shoal_coordinator.artefacts import float_artefact, templates_of_file
from shoal_edge.cli import main
from shoal_edge.config import EdgeSettings, load_edge_settings
from shoal_edge.errors import StoreError
from shoal_edge.folder_lock import held_folder
from shoal_edge.predict import _told, predict
from shoal_edge.releases import slots_of

DEVICE = "device-01"


def home(folder: Path, settings: str = "") -> Path:
    enrol(make_fleet(), DEVICE, folder, f'name = "{DEVICE}"\nfleet = "{FLEET}"\n{settings}')
    return folder


def deploy(folder: Path) -> None:
    """Install a release as the updater does."""
    fleet = make_fleet()
    data = float_artefact(templates_of_file(DEMO_DATA.parents[1] / "tasks" / "digits.task"), base_vector())
    source = folder / "artefact"
    source.write_bytes(data)
    artefact = Artefact("float32", describe(data))
    manifest = Manifest(
        fleet=FLEET,
        release="first-light",
        version=3,
        model=b"m" * 32,
        parent=b"",
        task=TASK_REF.digest,
        artefacts=(artefact,),
        provenance=Provenance(),
        created_ms=1,
        expires_ms=2,
    )
    packed, signature = sign_manifest(manifest, fleet.identities["publisher"])
    slots = slots_of(folder / "data" / "releases", fleet.roster, FLEET)
    slots.write("A", source, artefact, packed, signature)
    slots.switch("A")


def test_settings_of_a_folder_with_the_command_line_on_top(tmp_path: Path) -> None:
    home(tmp_path, 'modes = ["plain"]\n[link]\nurl = "mqtt://a:1"\nkeepalive_s = 7\n')
    settings = load_edge_settings(None, folder=tmp_path, broker="mqtt://b:2")
    assert (settings.link.url, settings.link.keepalive_s) == ("mqtt://b:2", 7)
    assert settings.modes == ("plain",)
    assert settings.home == tmp_path
    assert load_edge_settings(tmp_path / "config.toml").home == tmp_path


def test_a_device_is_known_to_the_broker_by_its_name_unless_told_otherwise(tmp_path: Path) -> None:
    home(tmp_path)
    assert load_edge_settings(None, folder=tmp_path).named_link.username == DEVICE
    other = home(tmp_path / "other", '[link]\nusername = "other"\n')
    assert load_edge_settings(None, folder=other).named_link.username == "other"


@pytest.mark.parametrize("line", ["colour = 1", 'n_min = "many"', 'modes = ["secret"]', "[link]\nport = 1"])
def test_a_setting_nobody_knows_is_refused_by_name(tmp_path: Path, line: str) -> None:
    home(tmp_path, line)
    with pytest.raises(SettingsError, match=r"colour|n_min|modes|port"):
        load_edge_settings(None, folder=tmp_path)


def test_every_setting_is_printed_and_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home(tmp_path)
    assert main(["run", "--data-dir", str(tmp_path), "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert set(EdgeSettings.__struct_fields__) <= {
        line.split(" ")[0].strip("[]") for line in printed.split("\n")
    }
    (tmp_path / "again.toml").write_text(printed)
    assert load_edge_settings(tmp_path / "again.toml") == load_edge_settings(None, folder=tmp_path)


def test_the_defaults_are_printed_where_the_file_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home(tmp_path, "colour = 1")
    assert main(["run", "--data-dir", str(tmp_path), "--print-config"]) == 2
    printed = capsys.readouterr()
    assert printed.out == print_settings(EdgeSettings())
    assert printed.err.startswith("shoal-edge: SettingsError: Object contains unknown field `colour`")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["run"], "SettingsError: the settings name no device"),
        (["run", "--config", "/nonexistent.toml"], "SettingsError: cannot read"),
        (["run", "--data-dir", "{home}", "--broker", "http://x"], "BadBrokerUrlError"),
        (["run", "--data-dir", "{open}"], "BadKeyFileError"),
        (["predict", "--data-dir", "{home}"], "NoReleaseError"),
    ],
)
def test_a_fault_is_one_line_with_its_remedy_and_code_2(
    tmp_path: Path, arguments: list[str], fault: str
) -> None:
    home(tmp_path / "home")
    home(tmp_path / "open")
    (tmp_path / "open" / "identity.key").chmod(0o644)
    words = [word.format(home=tmp_path / "home", open=tmp_path / "open") for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "shoal_edge", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"shoal-edge: {fault}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_state_that_cannot_be_read_is_one_line_too(tmp_path: Path) -> None:
    """A fault of one of the agent's tasks comes out in its own words."""
    home(tmp_path)
    (tmp_path / "data" / "outbox").mkdir(parents=True)
    (tmp_path / "data" / "outbox" / "x.bin").mkdir()
    broker = ["--broker", "mqtt://127.0.0.1:1"]
    command = [sys.executable, "-m", "shoal_edge", "run", "--data-dir", str(tmp_path), *broker]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("shoal-edge: StoreError: cannot read")
    assert "Traceback" not in done.stderr


def test_a_prediction_from_the_deployed_slot(tmp_path: Path) -> None:
    home(tmp_path)
    write_examples(tmp_path / "examples.npz")
    deploy(tmp_path)
    (tmp_path / "data" / "blobs").mkdir(parents=True)
    (tmp_path / "data" / "blobs" / TASK_REF.name).write_bytes(TASK_BYTES)
    told = predict(load_edge_settings(None, folder=tmp_path), None, 2)
    assert "held-out example 2 of 12 (its label: " in told
    assert "release first-light, model version 3, float32" in told
    shares = [line.split()[1] for line in told.splitlines()[3:]]
    assert len(shares) == 5
    assert shares == sorted(shares, key=lambda share: -float(share.rstrip("%")))
    own = predict(load_edge_settings(None, folder=tmp_path), tmp_path / "examples.npz", 59)
    assert own.startswith("example 59 of 60")


def test_an_example_that_is_not_there_says_how_many_there_are(tmp_path: Path) -> None:
    home(tmp_path)
    write_examples(tmp_path / "examples.npz")
    deploy(tmp_path)
    command = [sys.executable, "-m", "shoal_edge", "predict", "--data-dir", str(tmp_path), "--index", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "the file has 12" in done.stderr


def test_an_idle_agent_loads_nothing_heavy() -> None:
    heavy = {"numpy", "cryptography", "sqlalchemy", "typer", "pydantic", "ai_edge_litert", "tflite_runtime"}
    script = (
        "import sys; sys.modules['rich'] = None\n"
        "import shoal_edge.agent, shoal_edge.cli\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_values_are_told_with_the_true_ones() -> None:
    answer = {"values": [0.5, 12345.678, 3, 4, 5, 6, 7], "true_values": [1.0], "count": 9, "seconds": 0.001}
    assert _told(answer, "release r", (), held_out=True, index=3) == (
        "held-out example 3 of 9 (its values: 1)\nrelease r\n"
        "prediction: 0.5, 1.235e+04, 3, 4, 5 and 2 more   in 1.00 ms\n"
    )
    assert "its values" not in _told(answer | {"true_values": []}, "", (), held_out=False, index=0)


def test_a_second_agent_on_a_device_s_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """Also where the first was killed: the kernel lets go for it."""
    home(tmp_path)
    command = [sys.executable, "-m", "shoal_edge", "run", "--data-dir", str(tmp_path)]
    command += ["--broker", "mqtt://127.0.0.1:9", "--stop-on-stdin-eof"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def serving(agent: subprocess.Popen[str]) -> str:
        """Return the first line that it logs, which it does when the broker does not answer."""
        assert agent.stderr is not None
        return agent.stderr.readline()

    with start() as first:
        try:
            assert "FolderInUseError" not in serving(first)
            second = subprocess.run(
                command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60, check=False
            )
            assert second.returncode == 2
            assert second.stderr.startswith("shoal-edge: FolderInUseError: ")
            assert "stop that one" in second.stderr
            assert second.stderr.count("\n") == 1
            assert first.poll() is None
        finally:
            first.kill()
    with start() as third:
        try:
            assert "FolderInUseError" not in serving(third)
            assert third.poll() is None
        finally:
            third.kill()


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StoreError, match="give the agent a folder"), held_folder(tmp_path / "taken"):
        pass


def test_a_disk_without_locks_is_not_taken_for_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StoreError, match="a disk that has locks") as caught, held_folder(tmp_path):
        pass
    assert type(caught.value) is StoreError
    assert len(list(Path("/proc/self/fd").iterdir())) == before
