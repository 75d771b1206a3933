import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal_codecs.settings import SettingsError, load_settings, print_settings, system_paths
from shoal_coordinator.config import CoordinatorSettings
from shoal_coordinator.hub.config import HubSettings
from shoal_edge.config import EdgeSettings


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table inside the settings."""

    url: str = "mqtt://127.0.0.1:1883"
    keepalive_s: int = 30


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings with one value of every kind."""

    name: str = "device-01"
    period_s: float = 60.0
    show: bool = False
    modes: tuple[str, ...] = ("hubs",)
    note: str | None = None
    link: Link = Link()


def load(text: str, folder: Path, **options: Any) -> Settings:
    path = folder / "config.toml"
    path.write_text(text)
    return load_settings(Settings, path, **({"environment": {}} | options))


def test_without_a_file_everything_has_its_default() -> None:
    assert load_settings(Settings, None, environment={}) == Settings()


def test_a_file_sets_what_it_names_and_no_more(tmp_path: Path) -> None:
    settings = load('period_s = 5\n[link]\nurl = "mqtt://broker:1884"\n', tmp_path)
    assert settings == Settings(period_s=5.0, link=Link(url="mqtt://broker:1884"))


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    environment = {"SHOAL_NAME": "from-env", "SHOAL_LINK__KEEPALIVE_S": "10", "SHOAL_SHOW": "true"}
    text = 'name = "from-file"\nperiod_s = 5.0\n'
    settings = load(text, tmp_path, environment=environment)
    assert settings == Settings(name="from-env", period_s=5.0, show=True, link=Link(keepalive_s=10))
    overrides = {"name": "from-line", "link.url": "mqtt://line", "period_s": None}
    settings = load(text, tmp_path, environment=environment, overrides=overrides)
    assert (settings.name, settings.link) == ("from-line", Link(url="mqtt://line", keepalive_s=10))
    assert settings.period_s == 5.0


def test_other_programs_variables_are_left_alone() -> None:
    environment = {"SHOAL_HOME": "/somewhere", "LINK__URL": "nonsense", "SHOALNAME": "x"}
    assert load_settings(Settings, None, environment=environment) == Settings()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('colour = "red"', "colour"),
        ("[link]\nspeed = 3", "speed"),
        ("[other]\nspeed = 3", "other"),
        ('period_s = "soon"', "period_s"),
        ("link = 3", "link"),
        ("modes = 3", "modes"),
        ("name = ", "not TOML"),
        ("name = 1\nname = 2", "not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_key(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as caught:
        load(text, tmp_path)
    assert "config.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (CoordinatorSettings, "[rounds]\npatiense_s = 3", "at `$.rounds` (is `patience_s` meant?) in "),
        (CoordinatorSettings, "[round]\nwindow_s = 3", "(is `rounds` meant?)"),
        (CoordinatorSettings, "[rounds.privacy]\nepsilo = 3", "(is `epsilon` meant?)"),
        (EdgeSettings, "heartbeat = 3", "(is `heartbeat_s` meant?)"),
        (CoordinatorSettings, "window_s = 3", "(`window_s` stands in [rounds])"),
        (CoordinatorSettings, 'mode = "single"', "(`mode` stands in [rounds])"),
        (CoordinatorSettings, 'name = "c"\n[rounds]\nfleet = "f"', "(`fleet` stands above all tables)"),
        (CoordinatorSettings, "corrupt_share = 0.3", "stands in [rounds] or in [rounds.privacy]"),
        (CoordinatorSettings, "colour = 3", "unknown field `colour` in "),
        # TOML has numbers: one in quotes is a word, and often of another key.
        (CoordinatorSettings, '[rounds]\nwindow_s = "60"', "window_s` (write it without quotes)"),
        (CoordinatorSettings, '[rounds]\nlevels = "8"', "levels` (write it without quotes)"),
        (CoordinatorSettings, 'stop_on_stdin_eof = "true"', "eof` (write it without quotes)"),
        (EdgeSettings, 'n_min = "4"', "n_min` (write it without quotes)"),
    ],
)
def test_what_may_have_been_meant_is_said(tmp_path: Path, kind: type[Any], text: str, words: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(kind, tmp_path / "config.toml", environment={})
    assert words in str(caught.value)


def test_a_variable_with_a_name_like_a_tables_is_answered_with_that() -> None:
    for variable, words in (
        ("SHOAL_LINKS__URL", "(is `link` meant?)"),
        ("SHOAL_LINK__ULR", "(is `url` meant?)"),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(Settings, None, environment={variable: "x"})
        assert words in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml: No such file"):
        load_settings(Settings, tmp_path / "missing.toml", environment={})
    with pytest.raises(SettingsError, match="directory"):
        load_settings(Settings, tmp_path, environment={})
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(SettingsError, match="not TOML"):
        load_settings(Settings, tmp_path / "latin.toml", environment={})


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({"SHOAL_LINKS__URL": "x"}, "SHOAL_LINKS__URL"),
        ({"SHOAL_LINK__SPEED": "x"}, "speed"),
        ({"SHOAL_PERIOD_S": "soon"}, "period_s"),
        ({"SHOAL_NAME__FIRST": "x"}, "name"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(environment: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load_settings(Settings, None, environment=environment)


def test_a_variable_inside_what_the_file_made_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'link' is a value"):
        load("link = 3", tmp_path, environment={"SHOAL_LINK__URL": "x"})


@pytest.mark.parametrize("kind", [CoordinatorSettings, HubSettings, EdgeSettings, Settings])
def test_printed_settings_are_a_file_with_every_key(tmp_path: Path, kind: type[Any]) -> None:
    path = tmp_path / "printed.toml"
    path.write_text(print_settings(kind()))
    assert load_settings(kind, path, environment={}) == kind()
    printed = tomllib.loads(path.read_text())
    optional = {name for name in kind.__struct_fields__ if getattr(kind(), name) is None}
    assert set(printed) == set(kind.__struct_fields__) - optional


@example(Settings(name="\x7f"))
@given(
    st.builds(
        Settings,
        name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        period_s=st.floats(allow_nan=False),
        show=st.booleans(),
        modes=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=3).map(tuple),
        link=st.builds(Link, keepalive_s=st.integers(-(2**63), 2**63 - 1)),
    )
)
def test_any_settings_come_back_from_what_is_printed(settings: Settings) -> None:
    assert msgspec.convert(tomllib.loads(print_settings(settings)), Settings) == settings


def test_a_service_has_the_systems_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", "/etc/shoal-2")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/shoal-2")
    assert system_paths() == (Path("/etc/shoal-2"), Path("/var/lib/shoal-2"))
    monkeypatch.delenv("CONFIGURATION_DIRECTORY")
    assert system_paths() == (Path("/etc/shoal"), Path("/var/lib/shoal-2"))
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert system_paths() == (Path(), Path("shoal-data"))


MAY_BE_NEGATIVE = {"data.offset"}


def numbers(kind: Any, at: str = "") -> list[tuple[str, type]]:
    """Return the dotted key and the type of every number in settings of ``kind``."""
    found: list[tuple[str, type]] = []
    for name, value in msgspec.to_builtins(kind()).items():
        if isinstance(value, dict):
            inner = getattr(kind(), name)
            found += numbers(type(inner), f"{at}{name}.") if isinstance(inner, msgspec.Struct) else []
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((at + name, type(value)))
    return found


@pytest.mark.parametrize("kind", [CoordinatorSettings, HubSettings, EdgeSettings])
def test_no_number_is_taken_that_cannot_be_meant(kind: Any) -> None:
    """Every number of every party: none takes nan, infinity or, but for few, -1, and the refusal names it."""
    keys = numbers(kind)
    assert len(keys) > 10
    for key, form in keys:
        less = () if key in MAY_BE_NEGATIVE else ("-1",)
        for value in (*less, "1" + "0" * 30) if form is int else (*less, "nan", "inf", "-inf"):
            with pytest.raises(SettingsError, match=key.rpartition(".")[2]):
                load_settings(kind, None, environment={}, overrides={key: value})


def enumerated(
    kind: type[Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
    """Every key of ``kind`` that takes one of a few values, alone or in a list, with those values."""
    for name, hint in get_type_hints(kind).items():
        values = [hint, *get_args(hint)] if get_origin(hint) is tuple else [hint]
        for one in values:
            if get_origin(one) is Literal:
                yield (*path, name), get_args(one)
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from enumerated(hint, (*path, name))


@pytest.mark.parametrize("kind", [CoordinatorSettings, HubSettings, EdgeSettings])
def test_a_value_that_is_none_of_a_few_is_answered_with_those(tmp_path: Path, kind: Any) -> None:
    found = list(enumerated(kind))
    assert ("log_level",) in dict(found)
    for path, values in found:
        *tables, key = path
        wrong = "999" if isinstance(values[0], int) else '"sideways"'
        wrong = f"[{wrong}]" if key == "modes" else wrong
        (tmp_path / "config.toml").write_text(f"[{'.'.join(tables)}]\n" * bool(tables) + f"{key} = {wrong}\n")
        with pytest.raises(SettingsError) as caught:
            load_settings(kind, tmp_path / "config.toml", environment={})
        listed = ", ".join(map(str, sorted(values)))
        assert f"`$.{'.'.join(path)}" in str(caught.value)
        assert f"where {listed} are possible in {tmp_path}" in str(caught.value)
