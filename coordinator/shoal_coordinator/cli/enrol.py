"""``shoal fleet init``: everybody's folder, ready to be copied to its machine."""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from shoal_codecs.privacy.budget import default_delta
from shoal_codecs.transport.settings import parse_broker_url
from shoal_coordinator.fleet_init import (
    AUTHORITY,
    COORDINATOR,
    OPERATOR,
    FleetFolderError,
    init_fleet,
    write_settings,
)

DEFAULT_HUBS = 2
PASSWORDS = "broker.passwd"
PASSWORD_BYTES = 24
OWN_FILE = "password"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a fleet shall be; ``ca_file`` signed the certificate of an ``mqtts`` broker.

    ``hubs`` left out means those that the folder has, else two in mode ``hubs`` and none in the others,
    which need none. ``epsilon`` is every device's privacy budget and what the rounds are planned to keep, 0
    for none.
    """

    folder: Path
    fleet: str
    devices: int
    broker: str
    hubs: int | None = None
    ca_file: Path | None = None
    mode: Literal["hubs", "single", "plain"] = "hubs"
    sample_data: bool = False
    epsilon: float = 0.0

    @property
    def hub_names(self) -> list[str]:
        """The hubs' names."""
        count = self.hubs
        if count is None:
            present = len(list(self.folder.glob("hub-*")))
            count = present or (DEFAULT_HUBS if self.mode == "hubs" else 0)
        return [f"hub-{number}" for number in range(1, count + 1)]

    @property
    def device_names(self) -> list[str]:
        """The devices' names."""
        return [f"device-{number:02}" for number in range(1, self.devices + 1)]


def enrol(plan: Enrolment) -> None:
    """Make the folders and say what to do with them; settings that exist stay as they are.

    For an ``mqtts`` broker everybody gets a password of their own, and all of them stand in
    ``broker.passwd`` for the broker, to be hashed there.

    Raises:
        BadBrokerUrlError: ``broker`` is no broker's URL.
        FleetFolderError: ``ca_file`` is missing, or what ``init_fleet`` refuses.
    """
    with_tls = parse_broker_url(plan.broker).tls
    if plan.ca_file is not None and not plan.ca_file.is_file():
        raise FleetFolderError(f"no certificate at {plan.ca_file}: name the file that openssl made")
    if plan.mode == "hubs" and not plan.hub_names:
        raise FleetFolderError("mode hubs needs two hubs or more: leave --hubs out, or take --mode single")
    folders = init_fleet(plan.folder, plan.fleet, devices=plan.device_names, hubs=plan.hub_names)
    if plan.sample_data:
        _share_digits([folders[name] / "examples.npz" for name in plan.device_names])
    for name, path in folders.items():
        if plan.ca_file is not None:
            shutil.copyfile(plan.ca_file, path / "ca.crt")
        if not (path / "config.toml").exists():
            write_settings(path / "config.toml", _settings(plan, name, with_tls=with_tls))
    if with_tls:
        _write_passwords(plan.folder, folders)
    Console().print(_told(plan))


def _settings(plan: Enrolment, name: str, *, with_tls: bool) -> dict[str, Any]:
    link: dict[str, Any] = {"url": plan.broker, "username": name}
    if with_tls:
        link["password_file"] = OWN_FILE
    if plan.ca_file is not None:
        link["ca_file"] = "ca.crt"
    settings: dict[str, Any] = {"name": name, "fleet": plan.fleet}
    if name in plan.device_names:
        settings["modes"] = [plan.mode]
        if plan.epsilon:
            settings["privacy"] = {"epsilon": plan.epsilon, "delta": default_delta(plan.devices)}
    if name == COORDINATOR:
        settings["rounds"] = {"mode": plan.mode}
        if plan.epsilon:
            settings["rounds"]["privacy"] = {"mechanism": "auto", "epsilon": plan.epsilon}
    return settings | {"link": link}


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


def _told(plan: Enrolment) -> Table:
    table = Table(box=None, padding=(0, 2), title=f"in {plan.folder}", title_justify="left")
    for heading in ("folder", "goes to", "runs there"):
        table.add_column(heading)
    table.add_row(AUTHORITY, "a safe place", "nothing: it signs the roster")
    table.add_row(COORDINATOR, "the server", "shoal coordinator run")
    for hub in plan.hub_names:
        table.add_row(hub, "a host of its own", "shoal hub run")
    table.add_row(OPERATOR, "your machine", "shoal status, rounds, release")
    for device in plan.device_names:
        table.add_row(device, "that device", "shoal-edge run")
    if (plan.folder / PASSWORDS).exists():
        table.add_row(PASSWORDS, "the broker", "mosquitto_passwd -U FILE")
    return table
