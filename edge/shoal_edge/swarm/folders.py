"""The device folders of a fleet, as ``shoal fleet init`` makes them, and their settings."""

from pathlib import Path

import msgspec

from shoal_codecs.transport.settings import parse_broker_url
from shoal_edge.config import EdgeSettings, load_edge_settings
from shoal_edge.swarm.errors import TooFewFoldersError

KEY_NAME = "identity.key"
_NOT_DEVICES = ("authority", "coordinator", "operator")


def device_settings(fleet: Path, count: int, broker: str | None = None) -> list[EdgeSettings]:
    """Return the settings of the first ``count`` devices in the folder ``fleet`` (0: of all), by number.

    ``broker`` wins over their own.

    Raises:
        TooFewFoldersError: there are fewer.
        SettingsError: one of them cannot be read.
        BadBrokerUrlError: ``broker`` is no broker's URL.
    """
    if broker is not None:
        # Once, and not of every device.
        parse_broker_url(broker)
    folders = sorted(
        (path.parent for path in fleet.glob(f"*/{KEY_NAME}") if _is_device(path.parent)),
        key=lambda folder: (len(folder.name), folder.name),
    )
    if len(folders) < max(count, 1):
        raise TooFewFoldersError(
            f"{fleet} has the folders of {len(folders)} devices, {max(count, 1)} are wanted: "
            f"shoal fleet init {fleet} --devices {max(count, 1)}"
        )
    settings = [load_edge_settings(None, folder=folder, broker=broker) for folder in folders[: count or None]]
    return [
        msgspec.structs.replace(one, name=one.name or folder.name)
        for one, folder in zip(settings, folders, strict=False)
    ]


def _is_device(folder: Path) -> bool:
    return folder.name not in _NOT_DEVICES and not folder.name.startswith("hub-")
