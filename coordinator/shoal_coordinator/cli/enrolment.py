"""What a fleet shall be: as the command line says, and for the rest as the fleet that is there already."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from shoal_codecs.privacy.budget import LEAST_FLEET, STRICT_EPSILON, default_delta
from shoal_codecs.privacy.errors import FleetTooSmallError
from shoal_codecs.settings import load_settings
from shoal_coordinator.config import CoordinatorSettings, PrivacySettings, RoundSettings
from shoal_coordinator.fleet_init import COORDINATOR, FleetFolderError
from shoal_coordinator.privacy_terms import make_terms

Mode = Literal["hubs", "single", "plain"]
DEFAULT_FLEET, DEFAULT_BROKER, DEFAULT_DEVICES, DEFAULT_HUBS = "demo", "mqtt://127.0.0.1:1883", 3, 2
OWN_CA = "ca.crt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a fleet shall be; None is what the folder has, or else the default.

    ``ca_file`` signed the certificate of an ``mqtts`` broker. There are two hubs in mode ``hubs`` and none in
    the others, which need none. ``epsilon`` is every device's privacy budget and what the rounds are planned
    to keep, 0 for none; ``allow_small_fleet`` has rounds with noise that few devices learn little under.
    """

    folder: Path
    fleet: str | None = None
    devices: int | None = None
    broker: str | None = None
    hubs: int | None = None
    ca_file: Path | None = None
    mode: Mode | None = None
    sample_data: bool = False
    epsilon: float | None = None
    allow_small_fleet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet of which everything is settled: names, and the coordinator's settings that are not defaults."""

    folder: Path
    name: str
    broker: str
    ca_file: Path | None
    hubs: tuple[str, ...]
    devices: tuple[str, ...]
    coordinator: CoordinatorSettings

    @property
    def shared(self) -> dict[str, Any]:
        """What the settings of every party begin with."""
        prefix = self.coordinator.prefix
        return {"fleet": self.name} | ({"prefix": prefix} if prefix else {})

    @property
    def for_devices(self) -> dict[str, Any]:
        """What devices need to take part in these rounds."""
        settings, privacy = self.coordinator, self.coordinator.rounds.privacy
        found: dict[str, Any] = {"modes": [settings.rounds.mode]}
        if settings.heartbeat_s != CoordinatorSettings().heartbeat_s:
            found["heartbeat_s"] = settings.heartbeat_s
        if privacy.mechanism != "none":
            delta = privacy.delta or default_delta(len(self.devices))
            found["privacy"] = {"epsilon": privacy.epsilon, "delta": delta}
        return found

    @property
    def for_coordinator(self) -> dict[str, Any]:
        """What the coordinator of a new fleet is told."""
        privacy = self.coordinator.rounds.privacy
        rounds: dict[str, Any] = {"mode": self.coordinator.rounds.mode}
        if privacy.mechanism != "none":
            rounds["privacy"] = {"mechanism": privacy.mechanism, "epsilon": privacy.epsilon}
            if privacy.allow_small_fleet:
                rounds["privacy"]["allow_small_fleet"] = True
        return {"rounds": rounds}


def settle(wanted: Enrolment) -> Fleet:
    """Return the fleet that ``wanted`` asks for, with what its folder has already.

    Raises:
        SettingsError: the fleet's coordinator has settings that cannot be used.
        FleetFolderError: another fleet, mode or budget is asked for than is there, or no hubs in mode
            ``hubs``.
        FleetTooSmallError: a privacy budget that so few devices learn nothing under.
    """
    folder = wanted.folder
    path = folder / COORDINATOR / "config.toml"
    exists = path.is_file()
    if exists:
        settings = load_settings(CoordinatorSettings, path, environment={})
        _refuse_others(wanted, settings, path)
    else:
        settings = _new(wanted)
    own_ca = folder / COORDINATOR / OWN_CA
    devices = _devices(wanted)
    made = Fleet(
        folder=folder,
        name=settings.fleet,
        broker=wanted.broker or settings.link.url,
        ca_file=wanted.ca_file or (own_ca if own_ca.is_file() else None),
        hubs=_hubs(wanted, settings.rounds.mode),
        devices=devices,
        coordinator=settings,
    )
    if settings.rounds.mode == "hubs" and not made.hubs:
        raise FleetFolderError("mode hubs needs two hubs or more: leave --hubs out, or take --mode single")
    _refuse_small(settings.rounds, len(devices), is_new=not exists)
    return made


def _new(wanted: Enrolment) -> CoordinatorSettings:
    privacy = PrivacySettings()
    if wanted.epsilon:
        privacy = PrivacySettings(
            mechanism="auto", epsilon=wanted.epsilon, allow_small_fleet=wanted.allow_small_fleet
        )
    made = CoordinatorSettings(
        fleet=wanted.fleet or DEFAULT_FLEET, rounds=RoundSettings(mode=wanted.mode or "hubs", privacy=privacy)
    )
    return msgspec.structs.replace(
        made, link=msgspec.structs.replace(made.link, url=wanted.broker or DEFAULT_BROKER)
    )


def _refuse_others(wanted: Enrolment, settings: CoordinatorSettings, path: Path) -> None:
    """Refuse what would make new parties that cannot work with those that are there."""
    privacy = settings.rounds.privacy
    epsilon = privacy.epsilon if privacy.mechanism != "none" else 0.0
    for option, asked, present in (
        ("fleet", wanted.fleet, settings.fleet),
        ("mode", wanted.mode, settings.rounds.mode),
        ("epsilon", wanted.epsilon, epsilon),
    ):
        if asked is not None and asked != present:
            raise FleetFolderError(
                f"{path} has {option} {present}, not {asked}: leave --{option} out to add parties like those "
                "that are there, or give another fleet a folder of its own"
            )


def _hubs(wanted: Enrolment, mode: Mode) -> tuple[str, ...]:
    default = DEFAULT_HUBS if mode == "hubs" else 0
    return _parties(wanted.folder, "hub-", wanted.hubs, default, "hub-{}")


def _devices(wanted: Enrolment) -> tuple[str, ...]:
    return _parties(wanted.folder, "device-", wanted.devices, DEFAULT_DEVICES, "device-{:02}")


def _parties(folder: Path, prefix: str, count: int | None, default: int, pattern: str) -> tuple[str, ...]:
    """Return who is there and who is to be added: nobody leaves the roster because a number is lower."""
    present = {path.parent.name for path in folder.glob(f"{prefix}*/identity.key")}
    if count is None:
        count = 0 if present else default
    named = present | {pattern.format(number) for number in range(1, count + 1)}
    return tuple(sorted(named, key=lambda name: (len(name), name)))


def _refuse_small(rounds: RoundSettings, devices: int, *, is_new: bool) -> None:
    try:
        make_terms(rounds.privacy, rounds.mode, devices, rounds.invited(devices))
    except FleetTooSmallError as error:
        if not is_new:
            raise
        raise FleetTooSmallError(
            f"{error}. Here: --devices {LEAST_FLEET}, an --epsilon over {STRICT_EPSILON:g}, or "
            "--allow-small-fleet"
        ) from error
