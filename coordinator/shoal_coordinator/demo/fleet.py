"""The demo's fleet on disk: keys, roster, shards and settings, and the commands that start everybody."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal_coordinator.config import shipped
from shoal_coordinator.demo.partition import write_shards
from shoal_coordinator.demo.processes import Command
from shoal_coordinator.demo.state import DemoOptions
from shoal_coordinator.fleet_init import COORDINATOR, OPERATOR, init_fleet, write_settings

FLEET = "demo"
HUBS = ("hub-1", "hub-2")
KEEPALIVE_S = 10
HEARTBEAT_S = 5.0
# With 5 % of the coordinates a round the federated model comes closer to the centralised one this way.
LEARNING_RATE = 0.4
FLOOR_SHARE = 0.6
# Mode "single" lets this share of a cohort vanish, and no more is let by devices.
DROPOUT_SHARE = 0.3
PAUSE_S, SHOW_S = 0.4, 16.0


@dataclass(frozen=True, slots=True)
class DemoFleet:
    """Folders by party, the devices' names, and the files the launcher itself needs."""

    folders: dict[str, Path]
    devices: tuple[str, ...]
    shards: list[Path]
    task: Path
    options: DemoOptions
    url: str

    @property
    def operator(self) -> Path:
        """The operator's folder."""
        return self.folders[OPERATOR]

    def config_of(self, name: str) -> Path:
        """Return a party's settings file."""
        return self.folders[name] / "config.toml"

    def commands(self, links: dict[str, int]) -> list[Command]:
        """Write everybody's settings and return how to start them; ``links`` are ports of cuttable links."""
        write_settings(self.config_of(OPERATOR), self._party(OPERATOR))
        write_settings(self.config_of(COORDINATOR), self._coordinator())
        commands = [self._command(COORDINATOR, "shoal_coordinator", "coordinator", "run")]
        if self.options.mode == "hubs":
            for hub in HUBS:
                write_settings(self.config_of(hub), self._hub(hub))
                commands.append(self._command(hub, "shoal_coordinator", "hub", "run"))
        for device in self.devices:
            write_settings(self.config_of(device), self._device(device, links.get(device)))
            commands.append(self._command(device, "shoal_edge", "run", "--stop-on-stdin-eof"))
        return commands

    @property
    def minimum(self) -> int:
        """The fewest devices of a round: the hubs' floor, the coordinator's and every device's."""
        return max(2, math.ceil(self.options.devices * FLOOR_SHARE))

    def _command(self, name: str, module: str, *words: str) -> Command:
        arguments = ("-m", module, *words, "--config", str(self.config_of(name)))
        return Command(name, arguments, self.folders[name] / "log.jsonl")

    def _party(self, name: str, port: int | None = None) -> dict[str, Any]:
        url = f"mqtt://127.0.0.1:{port}" if port else self.url
        return {
            "name": name,
            "fleet": FLEET,
            "folder": str(self.folders[name]),
            "link": {"url": url, "username": name, "keepalive_s": KEEPALIVE_S, "backoff_max_s": 1.0},
        }

    def _coordinator(self) -> dict[str, Any]:
        options = self.options
        rounds: dict[str, Any] = {
            "mode": options.mode,
            "minimum": self.minimum,
            "learning_rate": LEARNING_RATE,
            # A person can follow the show; a calm run goes as fast as it can.
            "pause_s": 0.0 if options.calm else max(PAUSE_S, SHOW_S / options.rounds),
        }
        if options.mode == "single":
            rounds |= {"dropout_share": DROPOUT_SHARE, "floor_share": 1 - DROPOUT_SHARE}
        if options.codec:
            rounds["codec"] = options.codec
        return self._party(COORDINATOR) | {
            "initial_seed": options.seed,
            "heartbeat_s": HEARTBEAT_S,
            "stop_on_stdin_eof": True,
            "rounds": rounds,
        }

    def _hub(self, name: str) -> dict[str, Any]:
        return self._party(name) | {
            "stop_on_stdin_eof": True,
            "preview_device": self.devices[0],
            "floors": {"n_min": self.minimum},
        }

    def _device(self, name: str, port: int | None) -> dict[str, Any]:
        return self._party(name, port) | {
            "modes": [self.options.mode],
            "n_min": self.minimum,
            "heartbeat_s": HEARTBEAT_S,
            "show_update_preview": name == self.devices[0],
        }


def lay_out(folder: Path, options: DemoOptions, url: str) -> DemoFleet:
    """Make what is missing in ``folder``: keys, roster and shards stay as they are over runs."""
    folder = folder.resolve()
    devices = tuple(f"device-{number:02}" for number in range(1, options.devices + 1))
    folders = init_fleet(folder, FLEET, devices=devices, hubs=HUBS)
    shards = [folders[device] / "examples.npz" for device in devices]
    write_shards(shipped("digits.npz"), shards, options.seed)
    return DemoFleet(folders, devices, shards, shipped("digits.task"), options, url)
