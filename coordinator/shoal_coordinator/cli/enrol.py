"""``shoal fleet init``: everybody's folder, ready to be copied to its machine."""

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.roster import Party, load_roster
from shoal_codecs.transport.settings import parse_broker_url
from shoal_coordinator.cli.enrolment import OWN_CA, Enrolment, Fleet, settle
from shoal_coordinator.fleet_init import (
    AUTHORITY,
    COORDINATOR,
    OPERATOR,
    FleetFolderError,
    init_fleet,
    write_settings,
)

PASSWORDS = "broker.passwd"
PASSWORD_BYTES = 24
OWN_FILE = "password"


def enrol(wanted: Enrolment) -> None:
    """Make the folders and say what to do with them; settings that exist stay as they are.

    For an ``mqtts`` broker everybody gets a password of their own, and all of them stand in
    ``broker.passwd`` for the broker, to be hashed there.

    Raises:
        BadBrokerUrlError: the broker's is no broker's URL.
        SettingsError, FleetTooSmallError: as ``settle`` refuses.
        FleetFolderError: ``ca_file`` is missing, or what ``settle`` and ``init_fleet`` refuse.
    """
    fleet = settle(wanted)
    with_tls = parse_broker_url(fleet.broker).tls
    if fleet.ca_file is not None and not fleet.ca_file.is_file():
        raise FleetFolderError(f"no certificate at {fleet.ca_file}: name the file that openssl made")
    before = _roster(fleet)
    folders = init_fleet(fleet.folder, fleet.name, devices=fleet.devices, hubs=fleet.hubs)
    if wanted.sample_data:
        _share_digits([folders[name] / "examples.npz" for name in fleet.devices])
    for name, path in folders.items():
        if fleet.ca_file is not None and fleet.ca_file.resolve() != (path / OWN_CA).resolve():
            shutil.copyfile(fleet.ca_file, path / OWN_CA)
        if not (path / "config.toml").exists():
            write_settings(path / "config.toml", _settings(fleet, name, with_tls=with_tls))
    if with_tls:
        _write_passwords(fleet.folder, folders)
    console = Console()
    console.print(_told(fleet))
    after = _roster(fleet)
    if before and before != after:
        console.print(Text(_next_steps(before, after)))
    for doubtful in (*_changes(before, after), _doubts(fleet)):
        if doubtful:
            console.print(Text(doubtful, style="yellow"))


def _roster(fleet: Fleet) -> dict[str, Party]:
    """Return who is on the fleet's newest roster, by name; nobody where there is none yet."""
    folder = fleet.folder / AUTHORITY
    if not (folder / "roster.bin").is_file():
        return {}
    roster = load_roster(folder / "roster.bin", folder / "authority.pub", fleet.name)
    return {party.name: party for party in roster.parties}


def _next_steps(before: dict[str, Party], after: dict[str, Party]) -> str:
    """Return who is new on the roster, and what becomes of it where the fleet runs already."""
    new = [name for name in after if name not in before]
    files = "roster.bin and pins.toml" if any(after[name].role == "hub" for name in new) else "roster.bin"
    words = f"new on the roster: {', '.join(new)}; " if new else ""
    return f"{words}give every party its new {files} and start it again, for they are read at the start"


def _changes(before: dict[str, Party], after: dict[str, Party]) -> list[str]:
    """Return what a new roster takes from parties of the one before: their places, or their keys."""
    gone = [name for name in before if name not in after]
    renewed = [name for name in after if name in before and before[name].key != after[name].key]
    return [
        f"off the roster, for no folder is here: {', '.join(gone)}" if gone else "",
        f"with a new key, for the old one is not here: {', '.join(renewed)}" if renewed else "",
    ]


def _settings(fleet: Fleet, name: str, *, with_tls: bool) -> dict[str, Any]:
    link: dict[str, Any] = {"url": fleet.broker, "username": name}
    if with_tls:
        link["password_file"] = OWN_FILE
    if fleet.ca_file is not None:
        link["ca_file"] = OWN_CA
    settings: dict[str, Any] = {"name": name, **fleet.shared}
    if name in fleet.devices:
        settings |= fleet.for_devices
    if name == COORDINATOR:
        settings |= fleet.for_coordinator
    return settings | {"link": link}


def _doubts(fleet: Fleet) -> str:
    """Return what the coordinator will refuse, or doubt, of rounds with noise; often nothing."""
    settings, devices = fleet.coordinator, len(fleet.devices)
    if settings.rounds.privacy.mechanism == "none":
        return ""
    # Here, for numpy and all of the coordinator: who enrols without a budget does not wait for them.
    from shoal_codecs.updates.shared_part import SharedPart  # noqa: PLC0415
    from shoal_codecs.wire.task import decode_task  # noqa: PLC0415
    from shoal_coordinator.plannable import price_of_a_round  # noqa: PLC0415
    from shoal_coordinator.service import plan_settings  # noqa: PLC0415

    try:
        bundle = decode_task(settings.task_path.read_bytes(), settings.task_path)
        plans = plan_settings(settings, bundle, devices)
        price_of_a_round(plans, SharedPart(bundle.parameters, plans.local).dimension, devices)
    except OSError:
        # It may lie where the coordinator runs.
        return ""
    except ShoalError as error:
        return f"the coordinator will not start with these settings: {error}"
    return plans.privacy.warning if plans.privacy is not None else ""


def _share_digits(targets: list[Path]) -> None:
    # Here, for numpy: who enrols without sample data does not wait for it.
    from shoal_coordinator.config import shipped  # noqa: PLC0415
    from shoal_coordinator.demo.partition import write_shards  # noqa: PLC0415

    write_shards(shipped("digits.npz"), targets, seed=1)


def _write_passwords(folder: Path, folders: dict[str, Path]) -> None:
    lines = []
    for name, path in folders.items():
        file = path / OWN_FILE
        if not file.exists():
            _write_secret(file, secrets.token_urlsafe(PASSWORD_BYTES) + "\n")
        lines.append(f"{name}:{file.read_text(encoding='utf-8').strip()}\n")
    _write_secret(folder / PASSWORDS, "".join(lines))


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _told(fleet: Fleet) -> Table:
    table = Table(box=None, padding=(0, 2), title=f"in {fleet.folder}", title_justify="left")
    for heading in ("folder", "goes to", "runs there"):
        table.add_column(heading)
    table.add_row(AUTHORITY, "a safe place", "nothing: it signs the roster")
    table.add_row(COORDINATOR, "the server", "shoal coordinator run")
    for hub in fleet.hubs:
        table.add_row(hub, "a host of its own", "shoal hub run")
    table.add_row(OPERATOR, "your machine", "shoal status, rounds, release")
    for device in fleet.devices:
        table.add_row(device, "that device", "shoal-edge run")
    if (fleet.folder / PASSWORDS).exists():
        table.add_row(PASSWORDS, "the broker", "mosquitto_passwd -U FILE")
    return table
