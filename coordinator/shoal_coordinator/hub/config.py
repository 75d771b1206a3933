"""Settings of a hub process."""

from pathlib import Path
from typing import Literal

import msgspec

from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.transport.settings import LinkSettings


class HubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hub's name and fleet, its folder, its broker, and the floors it asks of every plan.

    ``folder`` holds ``identity.key``, ``authority.pub`` and ``roster.bin``; the log lies in ``data_dir``,
    ``data`` inside the folder unless set. An empty ``prefix`` is ``shoal/{fleet}``; an empty user name in
    ``link`` is the hub's name. ``preview_device`` has a few numbers of that device's share written to the
    log, for demonstrations only.
    """

    name: str = "hub-1"
    fleet: str = "demo"
    folder: str = "."
    data_dir: str = ""
    prefix: str = ""
    link: LinkSettings = LinkSettings()
    floors: HubFloors = HubFloors()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stop_on_stdin_eof: bool = False
    preview_device: str = ""

    @property
    def party_folder(self) -> Path:
        """Where key and roster are."""
        return Path(self.folder)

    @property
    def data_folder(self) -> Path:
        """Where the log is."""
        return Path(self.data_dir) if self.data_dir else self.party_folder / "data"
