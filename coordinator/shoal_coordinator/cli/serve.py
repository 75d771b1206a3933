"""``shoal coordinator run`` and ``shoal hub run``."""

import asyncio
from pathlib import Path
from typing import TypeVar

import msgspec
import typer

from shoal_codecs.lifecycle import one_thread_for_arrays
from shoal_codecs.logs import configure_logs
from shoal_codecs.memory import SERVER_BYTES, keep_freed_memory
from shoal_codecs.settings import SettingsError, find_place, load_settings, print_settings
from shoal_coordinator.config import CoordinatorSettings
from shoal_coordinator.hub.config import HubSettings

S = TypeVar("S", CoordinatorSettings, HubSettings)


def serve_coordinator(
    config: Path | None, broker: str | None, folder: Path | None, *, print_only: bool
) -> None:
    """Run the coordinator, or print its settings."""
    if print_only:
        _print(CoordinatorSettings, config, broker, folder)
        return
    settings = _settings(CoordinatorSettings, config, broker, folder)
    one_thread_for_arrays()
    keep_freed_memory(*SERVER_BYTES)
    from shoal_coordinator.service import run_coordinator  # noqa: PLC0415

    configure_logs(settings.log_level)
    asyncio.run(run_coordinator(settings))


def serve_hub(config: Path | None, broker: str | None, folder: Path | None, *, print_only: bool) -> None:
    """Run a hub, or print its settings."""
    if print_only:
        _print(HubSettings, config, broker, folder)
        return
    settings = _settings(HubSettings, config, broker, folder)
    one_thread_for_arrays()
    keep_freed_memory(*SERVER_BYTES)
    from shoal_coordinator.hub.service import run_hub  # noqa: PLC0415

    configure_logs(settings.log_level)
    asyncio.run(run_hub(settings))


def _print(kind: type[S], config: Path | None, broker: str | None, folder: Path | None) -> None:
    """Print the settings; the defaults where those cannot be used, for the fault's remedy is to look here."""
    try:
        settings = _settings(kind, config, broker, folder)
    except SettingsError:
        typer.echo(print_settings(kind()), nl=False)
        raise
    typer.echo(print_settings(settings), nl=False)


def _settings(kind: type[S], config: Path | None, broker: str | None, folder: Path | None) -> S:
    config, state = find_place(config, folder)
    overrides = {"link.url": broker, "folder": str(folder) if folder else None}
    settings = load_settings(kind, config, overrides=overrides)
    if config is not None:
        beside = config.resolve().parent
        settings = msgspec.structs.replace(settings, link=settings.link.beside(beside))
        if settings.folder == ".":
            settings = msgspec.structs.replace(settings, folder=str(beside))
    if state is not None and not settings.data_dir:
        settings = msgspec.structs.replace(settings, data_dir=str(state))
    return settings
