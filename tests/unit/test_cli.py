import io
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console, RenderableType

from shoal_codecs import __version__
from shoal_codecs.settings import print_settings
from shoal_codecs.wire.status import DeviceRow, FleetView, HubRow, PrivacyRow, ReleaseRow, RoundRow
from shoal_coordinator.cli.privacy import privacy_tables
from shoal_coordinator.cli.tables import round_as_json, rounds_table, status_as_json, status_tables
from shoal_coordinator.config import CoordinatorSettings
from shoal_coordinator.demo.broker import free_port
from shoal_coordinator.hub.config import HubSettings


def shoal(
    *words: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shoal_coordinator", *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"} | (environment or {}),
        stdin=subprocess.DEVNULL,
    )


def assert_one_line_fault(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr


def test_the_version_is_the_packages() -> None:
    assert shoal("--version").stdout == f"shoal {__version__}\n"


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ((), ("coordinator", "hub", "fleet", "status", "rounds", "release", "demo")),
        (("demo",), ("--devices", "--rounds", "--mode", "--codec", "--seed", "--data-dir", "--report")),
        (("status",), ("--watch", "--broker", "--config")),
        (("release",), ("create", "withdraw")),
        (("rounds", "run"), ("--count",)),
    ],
)
def test_help_names_what_there_is(words: tuple[str, ...], known: tuple[str, ...]) -> None:
    done = shoal(*words, "--help")
    assert done.returncode == 0
    assert [word for word in known if word not in done.stdout] == []


@pytest.mark.parametrize("party", ["coordinator", "hub"])
def test_printed_settings_are_settings(tmp_path: Path, party: str) -> None:
    printed = shoal(party, "run", "--print-config", folder=tmp_path).stdout
    (tmp_path / "config.toml").write_text(printed)
    again = shoal(party, "run", "--config", "config.toml", "--print-config", folder=tmp_path).stdout
    first, second = tomllib.loads(printed), tomllib.loads(again)
    assert first["link"] == second["link"]
    assert set(first) == set(second)


def test_the_environment_and_the_command_line_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('name = "hub-1"\n[link]\nurl = "mqtt://file:1"\n')
    words = ("hub", "run", "--config", "config.toml", "--print-config")
    environment = {"SHOAL_NAME": "hub-7", "SHOAL_LINK__URL": "mqtt://environment:1"}
    done = tomllib.loads(shoal(*words, folder=tmp_path, environment=environment).stdout)
    assert (done["name"], done["link"]["url"]) == ("hub-7", "mqtt://environment:1")
    done = tomllib.loads(
        shoal(*words, "--broker", "mqtt://line:1", folder=tmp_path, environment=environment).stdout
    )
    assert done["link"]["url"] == "mqtt://line:1"


@pytest.mark.parametrize("party", ["coordinator", "hub"])
@pytest.mark.parametrize(
    ("text", "fault"), [("colour = 1", "colour"), ("[link]\nspeed = 1", "speed"), ("name = ", "not TOML")]
)
def test_a_settings_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, party: str, text: str, fault: str
) -> None:
    (tmp_path / "config.toml").write_text(text)
    done = shoal(party, "run", "--config", "config.toml", folder=tmp_path)
    assert_one_line_fault(done, "SettingsError", fault, "config.toml")
    assert done.stdout == ""
    # The remedy it names is of use with such a file, too.
    shown = shoal(party, "run", "--config", "config.toml", "--print-config", folder=tmp_path)
    assert_one_line_fault(shown, "SettingsError", fault, "--print-config")
    default = CoordinatorSettings() if party == "coordinator" else HubSettings()
    assert tomllib.loads(shown.stdout) == tomllib.loads(print_settings(default))


def test_a_number_that_no_message_can_carry_is_one_line(tmp_path: Path) -> None:
    """Before a broker is asked for anything."""
    shoal("fleet", "init", ".", folder=tmp_path)
    place = ("--broker", f"mqtt://127.0.0.1:{free_port()}")
    for words in (("rounds", "run", "--count"), ("release", "create", "--version")):
        done = shoal(*words, str(10**30), *place, folder=tmp_path)
        assert_one_line_fault(done, "OperatorError", f"'{words[0]}.{words[1]}'", "64 bits")


@pytest.mark.parametrize("party", ["coordinator", "hub"])
def test_a_party_without_its_key_says_so_in_one_line(tmp_path: Path, party: str) -> None:
    (tmp_path / "config.toml").write_text('fleet = "herd"\n')
    done = shoal(party, "run", "--config", "config.toml", folder=tmp_path)
    assert_one_line_fault(done, "BadKeyFileError", "identity.key")
    # Whoever starts it in a wrong folder finds nothing left there.
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_coordinator_without_its_task_leaves_nothing_behind(tmp_path: Path) -> None:
    shoal("fleet", "init", "herd", folder=tmp_path)
    folder = tmp_path / "herd" / "coordinator"
    before = sorted(folder.iterdir())
    (folder / "config.toml").write_text('fleet = "demo"\ntask = "nowhere.task"\n')
    done = shoal("coordinator", "run", "--data-dir", str(folder), folder=tmp_path)
    assert_one_line_fault(done, "TaskFileError", "nowhere.task")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("party", "event"), [("coordinator", "data folder made"), ("hub", "data_folder_made")]
)
def test_a_party_says_where_it_makes_its_data_folder(tmp_path: Path, party: str, event: str) -> None:
    shoal("fleet", "init", ".", folder=tmp_path)
    folder = tmp_path / (party if party == "coordinator" else "hub-1")
    command = [sys.executable, "-m", "shoal_coordinator", party, "run"]
    command += ["--broker", f"mqtt://127.0.0.1:{free_port()}"]
    environment = os.environ | {"SHOAL_STOP_ON_STDIN_EOF": "true"}

    def said() -> list[dict[str, Any]]:
        """Return what it logs until it has looked for the broker."""
        lines = []
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stdin is not None
            for line in process.stderr:
                lines.append(msgspec.json.decode(line))
                if lines[-1]["event"] == "not_connected":
                    process.stdin.close()
        return lines

    made = [line["folder"] for line in said() if line["event"] == event]
    assert made == [str(folder / "data")]
    assert event not in [line["event"] for line in said()]


def test_a_task_that_is_none_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "odd.task").write_bytes(b"odd")
    assert_one_line_fault(
        shoal("task", "show", "odd.task", folder=tmp_path), "InvalidTaskError: odd.task: no task"
    )


def test_a_fleet_is_enrolled_and_the_second_run_changes_no_key(tmp_path: Path) -> None:
    words = ("fleet", "init", "herd", "--fleet", "herd", "--devices", "2")
    assert shoal(*words, folder=tmp_path).returncode == 0
    keys = {path: path.read_bytes() for path in tmp_path.rglob("*.key")}
    folders = {path.name for path in (tmp_path / "herd").iterdir()}
    assert {"authority", "coordinator", "operator", "hub-1", "hub-2", "device-01", "device-02"} <= folders
    assert shoal(*words[:-1], "3", folder=tmp_path).returncode == 0
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.key")}
    assert keys.items() < after.items()
    for party in ("coordinator", "hub-1", "operator", "device-03"):
        settings = tomllib.loads((tmp_path / "herd" / party / "config.toml").read_text())
        assert (settings["name"], settings["fleet"]) == (party, "herd")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--fleet", "No Fleet"), ("InvalidNameError", "'No Fleet'")),
        (("--broker", "http://broker"), ("BadBrokerUrlError", "mqtt://HOST:PORT")),
    ],
)
def test_a_fleet_that_cannot_be_enrolled_is_one_line(
    tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_one_line_fault(shoal("fleet", "init", "herd", *words, folder=tmp_path), *parts)
    assert list(tmp_path.rglob("*.key")) == []


def test_an_operator_without_settings_is_told_where_they_are(tmp_path: Path) -> None:
    for words in (("status",), ("rounds", "run"), ("release", "create"), ("release", "withdraw", "spring")):
        assert_one_line_fault(shoal(*words, folder=tmp_path), "SettingsError", "--config")


def test_an_operator_without_a_broker_is_asked_about_it(tmp_path: Path) -> None:
    shoal("fleet", "init", ".", "--fleet", "herd", folder=tmp_path)
    url = f"mqtt://127.0.0.1:{free_port()}"
    for words in (("status",), ("rounds", "run")):
        done = shoal(*words, "--broker", url, folder=tmp_path)
        assert_one_line_fault(
            done, "NoBrokerError", f"no connection to {url}", "BrokerUnreachableError: nothing"
        )


def test_a_codec_that_cannot_be_shared_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = shoal("demo", "--codec", "topk", folder=tmp_path)
    assert_one_line_fault(done, "CodecModeError", "--mode plain")
    assert list(tmp_path.iterdir()) == []


def test_words_that_look_like_markup_are_shown_as_they_are() -> None:
    odd = "[/x][bold]"
    view = FleetView(
        fleet="herd",
        taken_ms=1,
        mode="hubs",
        codec="randk",
        algorithm="fedadam",
        phase="idle",
        round=7,
        target=9,
        version=6,
        digest="ab" * 32,
        parameters=9610,
        devices=(
            DeviceRow("device-01", "roster", online=True, phase=odd, release=odd, last_error=odd),
            DeviceRow("guest", "guest", online=False),
        ),
        hubs=(HubRow("hub-1", online=True), HubRow("hub-2", online=False)),
        rounds=(
            RoundRow(6, "committed", version=6, devices=10, accuracy=0.9512, examples=80),
            RoundRow(7, "aborted", reason=odd),
        ),
        releases=(ReleaseRow(odd, 6, "complete", devices=10, confirmed=9, rolled_back=1, reason=odd),),
        refused={"BadSignatureError": 2},
    )
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(status_tables(view, 250))
    shown = console.export_text()
    assert shown.count(odd) == 7
    words = "mode hubs, codec randk, algorithm fedadam"
    for part in ("herd", words, "hub-2", "guest (guest)", "95.1%", "9 of 10", "2 BadSignatureError"):
        assert part in shown


def test_who_declines_again_and_again_is_shown_with_its_reason() -> None:
    row = DeviceRow(
        "device-01", "roster", online=True, declined=3, declined_for="NoExamplesError: [none]", rests_until=12
    )
    view = msgspec.structs.replace(private_view(), devices=(row,), round=9)
    shown = text_of(status_tables(view, 250))
    assert "declined 3 in a row (NoExamplesError: [none]), asked again after round 12" in shown
    again = msgspec.structs.replace(view, round=12)
    assert "asked again" not in text_of(status_tables(again, 250))


def test_rounds_that_were_taken_back_are_shown_with_the_reason() -> None:
    view = msgspec.structs.replace(private_view(), target=3, stopped="the [hall] is closed")
    assert "no rounds follow: the [hall] is closed" in text_of(status_tables(view, 160))
    under_way = msgspec.structs.replace(view, phase="collecting")
    assert "no rounds follow this one: the [hall]" in text_of(status_tables(under_way, 160))
    asked_again = msgspec.structs.replace(view, target=4)
    assert "no rounds follow" not in text_of(status_tables(asked_again, 160))


def test_who_goes_by_another_roster_is_shown_and_what_rounds_wait_for() -> None:
    device = DeviceRow("device-01", "roster", online=True, last_error="OddError", other_roster="roster 2")
    view = msgspec.structs.replace(
        private_view(),
        devices=(device,),
        hubs=(HubRow("hub-1", online=True), HubRow("hub-2", online=True, other_roster="another roster 3")),
        roster=3,
        waits_for="for [hub-2]",
        next_ms=int(time.time() * 1000) + 60_500,
    )
    shown = text_of(status_tables(view, 250))
    for part in (
        "OddError; goes by roster 2, the coordinator's is 3",
        "hub-2  (another roster 3, the coordinator's is 3)",
        "waits: for [hub-2]",
        "the next not for 60 s",
    ):
        assert part in shown
    assert "waits" not in text_of(status_tables(private_view(), 250))


def test_a_picture_that_the_broker_kept_says_how_old_it_is() -> None:
    """The coordinator may be gone for long: its last picture shows everybody online."""
    now_s = time.time()
    old = msgspec.structs.replace(private_view(), taken_ms=int((now_s - 480) * 1000))
    assert re.search(
        r"told 48\d s ago, and nothing since: is the coordinator running\?", text_of(status_tables(old, 160))
    )
    # A clock that is behind makes no picture old.
    for age_s in (60, 0, -480):
        view = msgspec.structs.replace(old, taken_ms=int((now_s - age_s) * 1000))
        assert "is the coordinator running" not in text_of(status_tables(view, 160))


def test_no_word_about_a_fault_is_cut_in_80_columns() -> None:
    fault = "InsufficientMemoryError"
    well = DeviceRow("device-03", "roster", online=True, release="spring-2026-07")
    ill = [
        msgspec.structs.replace(
            well, name=name, last_error=fault, declined=2, declined_for="RosterMismatchError", rests_until=12
        )
        for name in ("device-01", "device-02")
    ]
    reason = "more than a tenth of the devices failed: they answer worse than chance explains"
    view = msgspec.structs.replace(
        private_view(),
        devices=(*ill, well),
        round=9,
        releases=(ReleaseRow("spring-2026-07", 11, "aborted", devices=3, rolled_back=1, reason=reason),),
    )
    shown = text_of(status_tables(view, 80), width=80)
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    declined = "declined 2 in a row (RosterMismatchError), asked again after round 12"
    # What several suffer from alike is said once.
    assert f"device-01, device-02: {fault}; {declined}" in words
    assert f"spring-2026-07 aborted: {reason}" in words
    assert "…" not in words


def private_view() -> FleetView:
    rows = tuple(
        RoundRow(n, "committed", version=n, devices=4, epsilon=2.0 * n, told={"accuracy": (0.1 * n, 0.05)})
        for n in (2, 3)
    )
    return FleetView(
        fleet="herd",
        taken_ms=1,
        mode="hubs",
        codec="randk",
        algorithm="fedadam",
        phase="idle",
        round=3,
        target=3,
        version=3,
        digest="ab" * 32,
        parameters=9610,
        devices=(DeviceRow("device-01", "roster", online=True, examples=-1, held_out=-1),),
        rounds=rows,
        privacy=PrivacyRow(
            mechanism="skellam",
            epsilon=8.0,
            delta=1e-5,
            spent=6.0,
            spent_by_task=6.5,
            rounds_left=1,
            covers="updates only",
            warning="few devices",
        ),
    )


def text_of(shown: RenderableType, width: int = 250) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def test_a_budget_is_shown_with_what_it_covers_and_what_noise_lets_see() -> None:
    shown = text_of(status_tables(private_view(), 160))
    for part in (
        "epsilon 6.00 of 8 spent",
        "rounds left: 1",
        "covers updates only",
        "few devices",
        "not told",
        # What round 3 told is of version 2, with which it began.
        "accuracy 30% ±5% of version 2",
        "6.00",
    ):
        assert part in shown


def test_what_nobody_evaluated_has_no_accuracy() -> None:
    """A model that was never looked at is not one that gets everything wrong."""
    rows = [
        RoundRow(1, "committed", version=1, devices=4, examples=20, accuracy=0.0, loss=2.5),
        RoundRow(2, "committed", version=2, devices=4),
    ]
    first, second = text_of(rounds_table(rows, with_epsilon=False)).splitlines()[2:4]
    assert "0.0%" in first
    assert "%" not in second
    assert second.split()[4] == "-"
    view = msgspec.structs.replace(private_view(), rounds=tuple(rows), version=2)
    assert "accuracy not told" in text_of(status_tables(view, 160))
    told = msgspec.json.decode(msgspec.json.encode(status_as_json(view)))
    assert told["accuracy"] is None
    assert [row["accuracy"] for row in told["rounds"]] == [0.0, None]
    assert [row["loss"] for row in told["rounds"]] == [2.5, None]
    assert round_as_json(rows[1]) == told["rounds"][1]
    first_view = msgspec.structs.replace(view, version=1, accuracy=0.0)
    assert status_as_json(first_view)["accuracy"] == 0.0
    assert "accuracy 0.0%" in text_of(status_tables(first_view, 160))


def test_the_answer_about_budgets_is_shown_device_by_device() -> None:
    fields: dict[str, Any] = {
        **msgspec.to_builtins(private_view().privacy),
        "rounds": 4,
        "more": 7,
        "devices": [
            {"name": "device-01", "rounds": 3, "epsilon": 6.0, "rounds_left": 1}
            | {"rdp": 6.0, "pld": 5.5, "declines": False},
            {"name": "[bold]", "rounds": 0, "epsilon": 0.0, "rounds_left": 4}
            | {"rdp": None, "pld": None, "declines": True},
        ],
        "charges": [
            {"round": 1, "task": "t", "mechanism": "skellam", "noise": 5.0, "state": "declined"}
            | {"charged": False, "at_ms": 0}
        ],
    }
    shown = text_of(privacy_tables(fields))
    for part in ("6.000", "5.500", "declines: its own budget", "[bold]", "and 7 devices", "declined"):
        assert part in shown
    everything = text_of(privacy_tables(fields | {"covers": "everything"}))
    assert "nothing else derived from data leaves a device" in everything
