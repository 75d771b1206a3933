"""The reference is complete and true, and no link leads nowhere."""

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
import typer.main

from shoal_codecs.ota.own_places import MAGIC, OwnPlace, OwnPlaces
from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.settings import load_settings, print_settings
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.task import Parameter
from shoal_coordinator.algorithms.schedules import ScheduleSettings
from shoal_coordinator.algorithms.settings import AlgorithmSettings
from shoal_coordinator.algorithms.stability import StabilitySettings
from shoal_coordinator.authoring.files import load_description
from shoal_coordinator.cli.commands import app
from shoal_coordinator.cli.operate import OperatorSettings
from shoal_coordinator.config import CoordinatorSettings, PrivacySettings, ReleaseSettings, RoundSettings
from shoal_coordinator.hub.config import HubSettings
from shoal_edge.cli import _parser
from shoal_edge.config import DevicePrivacy, EdgeSettings, PersonalSettings
from shoal_edge.sources.settings import DataSettings, ShareSettings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
TABLES = {
    "Everybody: `[link]`": LinkSettings,
    "Coordinator": CoordinatorSettings,
    "Coordinator: `[rounds]`": RoundSettings,
    "Coordinator: `[rounds.algorithm]`": AlgorithmSettings,
    "Coordinator: `[rounds.device_schedule]`": ScheduleSettings,
    "Coordinator: `[rounds.stability]`": StabilitySettings,
    "Coordinator: `[rounds.privacy]`": PrivacySettings,
    "Coordinator: `[releases]`": ReleaseSettings,
    "Hub": HubSettings,
    "Hub: `[floors]`": HubFloors,
    "Device": EdgeSettings,
    "Device: `[data]`": DataSettings,
    "Device: `[data.share]`": ShareSettings,
    "Device: `[privacy]`": DevicePrivacy,
    "Device: `[personal]`": PersonalSettings,
    "Operator": OperatorSettings,
}
FENCED = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def sections(document: Path) -> dict[str, str]:
    """The text below each heading, up to the next one."""
    parts = re.split(r"^#+ +(.*)$", document.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def first_columns(text: str) -> list[str]:
    return re.findall(r"^\| (`[^|]*?`) \|", text, re.MULTILINE)


def shoal_options(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
    yield name, {option for one in command.params for option in one.opts if option.startswith("-")}
    for word, inner in getattr(command, "commands", {}).items():
        yield from shoal_options(inner, f"{name} {word}")


def edge_options(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, set[str]]]:
    options = {option for action in parser._actions for option in action.option_strings}
    yield name, options - {"-h", "--help"}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from edge_options(inner, f"{name} {word}")


OPTIONS = {
    name: options
    for name, options in (
        *shoal_options(typer.main.get_command(app), "shoal"),
        *edge_options(_parser(), "shoal-edge"),
    )
    if options
}


@pytest.mark.parametrize("command", OPTIONS)
def test_the_command_line_is_described_option_by_option(command: str) -> None:
    section = sections(REFERENCE / "command-line.md")[command]
    described = [option for cell in first_columns(section) for option in re.findall(r"`(-[^`]+)`", cell)]
    assert sorted(described) == sorted(OPTIONS[command])


def test_no_command_is_described_that_is_not_there() -> None:
    described = set(sections(REFERENCE / "command-line.md")) - {"Command line"}
    assert described == set(OPTIONS)


@pytest.mark.parametrize("heading", TABLES)
def test_settings_are_described_key_by_key_with_their_defaults(heading: str) -> None:
    section = sections(REFERENCE / "configuration.md")[heading]
    rows = re.findall(r"^\| `(\w+)` \| `([^|]*)` \| .+ \|$", section, re.MULTILINE)
    assert len(rows) == len(first_columns(section))
    described = tomllib.loads("\n".join(f"{key} = {value}" for key, value in rows))
    printed = tomllib.loads(print_settings(TABLES[heading]()))
    assert described == {key: value for key, value in printed.items() if not isinstance(value, dict)}


def test_every_table_of_the_settings_is_described() -> None:
    parties = (CoordinatorSettings, HubSettings, EdgeSettings, OperatorSettings)

    def below(settings: type) -> Iterator[type]:
        for hint in get_type_hints(settings).values():
            # Also where a table may be left out.
            for kind in (hint, *get_args(hint)):
                if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                    yield kind
                    yield from below(kind)

    inner = {kind for party in parties for kind in below(party)}
    assert inner | set(parties) == set(TABLES.values())


def test_the_tail_of_a_release_is_described_field_by_field() -> None:
    section = sections(REFERENCE / "wire.md")["Blobs"]
    fields = [name for kind in (OwnPlaces, OwnPlace, Parameter) for name in kind.__struct_fields__]
    for word in (MAGIC.decode(), *fields):
        assert f"`{word}`" in section


def anchors(document: Path) -> set[str]:
    """The names under which a forge links to headings."""
    text = FENCED.sub("", document.read_text())
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "broker_config").glob("*.md"))
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = FENCED.sub("", document.read_text())
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(path), f"{target}: no such heading"


def test_help_says_what_every_option_is_for() -> None:
    def described(command: Any) -> Iterator[Any]:
        yield from (one for one in command.params if one.opts[0].startswith("-"))
        for inner in getattr(command, "commands", {}).values():
            yield from described(inner)

    silent = [one.name for one in described(typer.main.get_command(app)) if not one.help]
    assert silent == []


MODEL_BLOCK = re.compile(r"^```python model\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODELS = [
    pytest.param(text, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, text in enumerate(MODEL_BLOCK.findall(path.read_text()), start=1)
]


@pytest.mark.parametrize("text", MODELS)
def test_models_that_documents_show_can_be_described(text: str, tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(text)
    assert load_description(file).model.parameters


PARTIES: dict[str, type[msgspec.Struct]] = {
    "coordinator": CoordinatorSettings,
    "device": EdgeSettings,
    "hub": HubSettings,
}
SETTINGS_BLOCK = re.compile(r"^```toml (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = [
    pytest.param(party, text, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, (party, text) in enumerate(SETTINGS_BLOCK.findall(path.read_text()), start=1)
]


@pytest.mark.parametrize(("party", "text"), SHOWN)
def test_settings_that_documents_show_are_taken(party: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    assert msgspec.structs.asdict(load_settings(PARTIES[party], file, environment={}))
