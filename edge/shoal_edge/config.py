"""What an agent is told before it starts; ``shoal-edge run --print-config`` shows it all."""

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from shoal_codecs.settings import (
    AtLeastOne,
    Count,
    NotNegative,
    PartialShare,
    Period,
    Seconds,
    find_place,
    load_settings,
)
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.topics import check_name
from shoal_edge.sources.settings import DataSettings
from shoal_edge.trainers.base import TrainerKind
from shoal_edge.worker_settings import WorkerSettings

Mode = Literal["hubs", "single", "plain"]


Metrics = Literal["clear", "verdict", "none"]


class DevicePrivacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device's owner lets it spend over all tasks, and what it tells of its data besides.

    ``epsilon`` 0 is no budget; with one the device refuses rounds without noise. ``metrics`` ``clear`` tells
    counts and scores, ``verdict`` only whether a release passed its health check here, ``none`` not even
    that: such a device keeps every release that runs. ``auto`` is ``verdict`` with a budget, else ``clear``.
    A plan that counts on the noise of more than all but ``corrupt_share`` of its fewest devices is refused.
    """

    epsilon: float = 0.0
    delta: float = 1e-5
    metrics: Literal["auto", "clear", "verdict", "none"] = "auto"
    corrupt_share: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what is no budget."""
        if not (0 <= self.epsilon < math.inf and 0 < self.delta < 1):
            raise ValueError(f"epsilon {self.epsilon} with delta {self.delta} is no privacy budget")
        if not 0 <= self.corrupt_share < 1:
            raise ValueError(f"corrupt_share {self.corrupt_share} is none: take 0 to under 1")

    @property
    def told(self) -> Metrics:
        """What the device tells of its data besides updates."""
        if self.metrics != "auto":
            return self.metrics
        return "verdict" if self.epsilon else "clear"


class PersonalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the device's own beside the fleet's (Ditto).

    It is trained where ``ditto``, or else the round's plan, says how strongly it is pulled to the fleet's,
    unless ``model`` is ``off``. ``predict`` is what `shoal-edge predict` asks: the ``fleet``'s model, or the
    ``personal`` one.
    """

    model: Literal["auto", "off"] = "auto"
    ditto: NotNegative = 0.0
    predict: Literal["fleet", "personal"] = "fleet"

    def pull(self, planned: float) -> float:
        """Return the pull to the fleet's model where the plan says ``planned``; 0: train none."""
        return 0.0 if self.model == "off" else self.ditto or planned


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device; times in seconds unless the name says otherwise, sizes in bytes.

    ``folder`` holds ``identity.key``, ``authority.pub``, ``roster.bin`` and, unless ``data_dir`` is set,
    the state in ``data/``; empty means the folder of the settings file. ``examples`` is the device's own
    .npz, relative to ``folder``; ``data`` describes any other source. ``modes`` are those the device takes
    part in: ``plain`` shows its update to the coordinator, so that it stands here only if somebody wrote it.
    ``n_min`` is the fewest devices it lets itself be summed with; ``norm_check`` lets hubs see 16 projections
    of its updates where a plan checks norms. ``bytes_per_day`` is what its link may carry both ways (0: any).
    In mode ``single`` it expects at most ``corrupt_share`` of a cohort to be corrupt, lets at most
    ``dropout_share`` of it vanish, and keeps ``parked_bundles`` of keys at the broker.
    ``width`` is the share of a model's width that it takes, where the task has narrower variants; 0: the
    widest that fits ``fit_memory_limit_bytes`` and trains within ``width_fit_s``, measured.
    ``trainer`` names what trains (``auto``: LiteRT, or PyTorch where that alone is installed), on ``threads``
    threads; its work may allocate ``fit_memory_limit_bytes`` (0: any).
    ``show_update_preview`` writes a few numbers of each update to the log, for demonstrations only.
    """

    name: str = ""
    fleet: str = "demo"
    prefix: str = ""
    folder: str = ""
    data_dir: str = ""
    examples: str = "examples.npz"
    data: DataSettings = DataSettings()
    link: LinkSettings = LinkSettings()
    privacy: DevicePrivacy = DevicePrivacy()
    personal: PersonalSettings = PersonalSettings()
    width: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    width_fit_s: Period = 60.0
    modes: tuple[Mode, ...] = ("hubs",)
    n_min: AtLeastOne = 3
    norm_check: bool = False
    bytes_per_day: Count = 0
    corrupt_share: PartialShare = 0.1
    dropout_share: PartialShare = 0.3
    parked_bundles: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    clock_slack_s: Seconds = 5.0
    heartbeat_s: Period = 60.0
    resend_s: Period = 2.0
    plan_wait_s: Period = 20.0
    fetch_time_limit_s: Period = 120.0
    fit_time_limit_s: Period = 600.0
    evaluate_time_limit_s: Period = 120.0
    worker_idle_s: Seconds = 60.0
    trainer: TrainerKind = "auto"
    threads: AtLeastOne = 1
    fit_memory_limit_bytes: Count = 0
    outbox_cap_bytes: Count = 64 * 1024 * 1024
    blobs_cap_bytes: Count = 512 * 1024 * 1024
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    show_update_preview: bool = False

    @property
    def worker(self) -> WorkerSettings:
        """What the process that trains is told."""
        return WorkerSettings(
            trainer=self.trainer, threads=self.threads, memory_limit_bytes=self.fit_memory_limit_bytes
        )

    @property
    def home(self) -> Path:
        """The party's folder."""
        return Path(self.folder or ".")

    @property
    def state(self) -> Path:
        """Where everything this agent writes is kept."""
        return Path(self.data_dir) if self.data_dir else self.home / "data"

    @property
    def releases(self) -> Path:
        """Where deployed models and their slots are."""
        return self.state / "releases"

    @property
    def named_link(self) -> LinkSettings:
        """The broker, with the device's name as user name where none is set: access rules go by it."""
        link = self.link
        return link if link.username else msgspec.structs.replace(link, username=self.name)

    @property
    def examples_path(self) -> Path:
        """The file or folder with the device's own examples."""
        return self.data.place(self.home, self.examples)


def load_edge_settings(
    config: Path | None, *, folder: Path | None = None, broker: str | None = None
) -> EdgeSettings:
    """Return the settings of ``config``, or of ``config.toml`` in ``folder``, or the defaults.

    ``folder`` and ``broker`` win over the file and the environment.

    Raises:
        SettingsError: an unknown key or a value that cannot be used; the text names it.
    """
    config, state = find_place(config, folder)
    overrides = {"folder": str(folder) if folder else None, "link.url": broker}
    settings = load_settings(EdgeSettings, config, overrides=overrides)
    if config is not None:
        beside = config.resolve().parent
        settings = msgspec.structs.replace(
            settings, folder=settings.folder or str(beside), link=settings.link.beside(beside)
        )
    if state is not None and not settings.data_dir:
        settings = msgspec.structs.replace(settings, data_dir=str(state))
    if settings.name:
        check_name(settings.name)
    return settings
