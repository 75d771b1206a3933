"""What an agent is told before it starts; ``shoal-edge run --print-config`` shows it all."""

from pathlib import Path
from typing import Literal

import msgspec

from shoal_codecs.settings import load_settings
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.topics import check_name

Mode = Literal["hubs", "plain"]


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device; times in seconds unless the name says otherwise, sizes in bytes.

    ``folder`` holds ``identity.key``, ``authority.pub``, ``roster.bin`` and the state in ``data/``; empty
    means the folder of the settings file. ``examples`` is the device's own .npz, relative to ``folder``.
    ``modes`` are those the device takes part in: ``plain`` shows its update to the coordinator, so that
    it stands here only if somebody wrote it. ``n_min`` is the fewest devices it lets itself be summed
    with. ``show_update_preview`` writes a few numbers of each update to the log, for demonstrations only.
    """

    name: str = ""
    fleet: str = "fleet"
    topic_prefix: str = ""
    folder: str = ""
    examples: str = "examples.npz"
    link: LinkSettings = LinkSettings()
    modes: tuple[Mode, ...] = ("hubs",)
    n_min: int = 3
    clock_slack_s: float = 5.0
    heartbeat_s: float = 60.0
    resend_s: float = 2.0
    plan_wait_s: float = 20.0
    fetch_time_limit_s: float = 120.0
    fit_time_limit_s: float = 600.0
    evaluate_time_limit_s: float = 120.0
    worker_idle_s: float = 60.0
    outbox_cap_bytes: int = 64 * 1024 * 1024
    blobs_cap_bytes: int = 512 * 1024 * 1024
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    show_update_preview: bool = False

    @property
    def home(self) -> Path:
        """The party's folder."""
        return Path(self.folder or ".")

    @property
    def state(self) -> Path:
        """Where everything this agent writes is kept."""
        return self.home / "data"

    @property
    def releases(self) -> Path:
        """Where deployed models and their slots are."""
        return self.state / "releases"

    @property
    def examples_path(self) -> Path:
        """The device's own examples."""
        return self.home / self.examples


def load_edge_settings(
    config: Path | None, *, folder: Path | None = None, broker: str | None = None
) -> EdgeSettings:
    """Return the settings of ``config``, or of ``config.toml`` in ``folder``, or the defaults.

    ``folder`` and ``broker`` win over the file and the environment.

    Raises:
        SettingsError: an unknown key or a value that cannot be used; the text names it.
    """
    if config is None and folder is not None and (folder / "config.toml").is_file():
        config = folder / "config.toml"
    overrides = {"folder": str(folder) if folder else None, "link.url": broker}
    settings = load_settings(EdgeSettings, config, overrides=overrides)
    if not settings.folder and config is not None:
        settings = msgspec.structs.replace(settings, folder=str(config.resolve().parent))
    if settings.name:
        check_name(settings.name)
    return settings
