"""``shoal fleet init``: everybody's folder, ready to be copied to its machine."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from shoal_codecs.transport.settings import parse_broker_url
from shoal_coordinator.fleet_init import COORDINATOR, OPERATOR, init_fleet, write_settings


def enrol(folder: Path, fleet: str, devices: int, hubs: int, broker: str) -> None:
    """Make the folders and say what to do with them."""
    parse_broker_url(broker)
    hub_names = [f"hub-{number}" for number in range(1, hubs + 1)]
    device_names = [f"device-{number:02}" for number in range(1, devices + 1)]
    folders = init_fleet(folder, fleet, devices=device_names, hubs=hub_names)
    for name, path in folders.items():
        settings = path / "config.toml"
        if not settings.exists():
            write_settings(
                settings, {"name": name, "fleet": fleet, "link": {"url": broker, "username": name}}
            )
    table = Table(box=None, padding=(0, 2))
    for heading in ("folder", "goes to", "runs"):
        table.add_column(heading)
    table.add_row(str(folder / "authority"), "a safe place", "nothing: it signs the roster")
    table.add_row(str(folders[COORDINATOR]), "the server", "shoal coordinator run --data-dir FOLDER")
    for hub in hub_names:
        table.add_row(str(folders[hub]), "a host of its own", "shoal hub run --data-dir FOLDER")
    table.add_row(str(folders[OPERATOR]), "your machine", "shoal status --config FOLDER/config.toml")
    for device in device_names:
        table.add_row(str(folders[device]), "that device", "shoal-edge run --data-dir FOLDER")
    Console().print(table)
