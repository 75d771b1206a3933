"""Settings of the coordinator; ``shoal coordinator run --print-config`` shows every key."""

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from shoal_codecs.ota.manifest import ArtefactKind
from shoal_codecs.settings import (
    AtLeastOne,
    Count,
    NotNegative,
    PartialShare,
    Period,
    Positive,
    Seconds,
    Share,
)
from shoal_codecs.transport.settings import LinkSettings
from shoal_coordinator.algorithms.schedules import ScheduleSettings
from shoal_coordinator.algorithms.settings import AlgorithmSettings
from shoal_coordinator.algorithms.stability import StabilitySettings
from shoal_coordinator.tasks import task_path


class PrivacySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a round may tell about one device.

    ``auto`` is ``skellam`` in shared modes and ``central`` in mode ``plain``. ``rounds`` of them keep
    (``epsilon``, ``delta``) for every device; ``delta`` 0 takes 1e-5, or a tenth of one device's share in a
    large fleet. ``noise_multiplier`` (in units of the clip norm) 0 adds as little noise as keeps the budget.
    ``corrupt_share`` of a cohort may keep its noise to itself. ``adaptive_clip`` and ``metrics`` are further
    coordinates of the ring, and charged. With ``adaptive_clip`` the rounds' ``clip_norm`` is only the first:
    each round moves it by ``clip_rate`` towards where ``clip_quantile`` of the updates are shorter.
    """

    mechanism: Literal["none", "auto", "skellam", "central", "local-gaussian", "local-laplace"] = "none"
    epsilon: NotNegative = 8.0
    delta: PartialShare = 0.0
    rounds: AtLeastOne = 50
    noise_multiplier: NotNegative = 0.0
    corrupt_share: PartialShare = 0.2
    adaptive_clip: bool = False
    clip_quantile: Share = 0.5
    clip_rate: Share = 0.2
    metrics: bool = False
    allow_small_fleet: bool = False


class RoundSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rounds are run.

    ``kept_share`` of the coordinates travel; ``clip_norm`` bounds an update after the rescale.
    In shared modes a value travels in ``levels`` bits before devices are added up; ``clamp`` is the largest
    level and stands for ``range_factor`` times the root mean square of a value at the clip norm (0: what
    suits ``levels``). ``weight_cap`` is the number of examples beyond which a device weighs no more.
    ``norm_check`` is how many times too long an update may seem before the hubs drop it (1.6; 0: unchecked).
    ``minimum`` devices and ``floor_share`` of the cohort are the floors; ``quorum_share`` of it starts
    the hubs' patience. ``over_selection`` invites that many times the ``cohort_max`` (0: everybody).
    One level of the step down is ``level_rms`` times the move's root mean square. A device that is behind
    gets at most ``longest_chain`` steps. The vectors of the newest ``kept_versions``, of released ones
    and of the first are kept.
    In mode ``single``, ``corrupt_share`` of a cohort may be corrupt and ``dropout_share`` of it vanish;
    shares are taken for ``shares_s``, and the last ``unmask_s`` of a round are for taking masks off.
    ``bytes_per_day`` is each device's budget (0: none), ``device_bytes_per_day`` that of devices by
    name; with one the coordinator takes the best codec that fits.
    Zero ``epochs``, ``learning_rate``, ``batch_size``, ``mu``, ``clip_norm``, ``kept_share`` and
    ``weight_cap`` take the task's own, a zero ``server_learning_rate`` the algorithm's. ``mu`` pulls devices
    back to the base (FedProx). ``example_clip`` and ``example_noise`` make devices train by DP-SGD. ``local``
    names the parameters that stay on each device; empty: the task's, ``["none"]``: none. With ``ditto`` over
    0 each device trains a model of its own beside, pulled to the fleet's that strongly. ``widths``: whether
    devices that say so train narrower variants of the task; ``auto``: where it has any that work.
    """

    mode: Literal["hubs", "single", "plain"] = "hubs"
    codec: Literal["randk", "global_topk", "randk4", "topk", "topk4", "int8", "int4", "dense"] = "randk"
    kept_share: Share = 0.0
    clip_norm: NotNegative = 0.0
    levels: Literal[8, 4] = 8
    clamp: Count = 0
    range_factor: NotNegative = 0.0
    weight_cap: Count = 0
    server_learning_rate: NotNegative = 0.0
    longest_chain: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32
    kept_versions: Annotated[int, msgspec.Meta(ge=2, le=1 << 53)] = 10
    level_rms: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    epochs: Count = 0
    learning_rate: NotNegative = 0.0
    batch_size: Count = 0
    mu: NotNegative = 0.0
    example_clip: NotNegative = 0.0
    example_noise: NotNegative = 0.0
    local: tuple[str, ...] = ()
    ditto: NotNegative = 0.0
    widths: Literal["auto", "on", "off"] = "auto"
    minimum: AtLeastOne = 3
    floor_share: Share = 0.8
    norm_check: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    quorum_share: Share = 0.8
    cohort_max: Count = 0
    over_selection: Annotated[float, msgspec.Meta(ge=1, le=100)] = 1.0
    min_examples: Count = 1
    min_memory_mib: Count = 64
    patience_s: Seconds = 2.0
    window_s: Period = 60.0
    clock_slack_s: Seconds = 60.0
    evaluation_s: Seconds = 10.0
    pause_s: Seconds = 0.0
    bytes_per_day: Count = 0
    device_bytes_per_day: dict[str, Count] = {}
    target_version: Count = 0
    corrupt_share: PartialShare = 0.1
    dropout_share: PartialShare = 0.2
    shares_s: Period = 15.0
    unmask_s: Period = 15.0
    algorithm: AlgorithmSettings = AlgorithmSettings()
    device_schedule: ScheduleSettings = ScheduleSettings()
    server_schedule: ScheduleSettings = ScheduleSettings()
    stability: StabilitySettings = StabilitySettings()
    privacy: PrivacySettings = PrivacySettings()

    def invited(self, fleet: int) -> int:
        """Return how many devices of ``fleet`` a round invites where all are there."""
        if not self.cohort_max:
            return fleet
        return min(fleet, max(self.minimum, math.ceil(self.cohort_max * self.over_selection)))


class ReleaseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How releases are judged.

    A candidate goes back where it is worse than chance at ``significance`` explains on at least
    ``min_examples`` held-out examples, below ``floor_accuracy``, slower than ``max_latency_ms`` an
    example, or not judged within ``health_s``. More than ``failure_share`` of failing devices abort a
    rollout; a device that says nothing for ``report_s`` counts as missing. ``artefact`` is the kind of file
    that devices get; float32 needs no calibration examples.
    """

    artefact: ArtefactKind = "int8"

    min_examples: Count = 20
    significance: Share = 0.001
    floor_accuracy: Share = 0.3
    max_latency_ms: Positive = 1000.0
    health_s: Period = 60.0
    failure_share: Share = 0.1
    report_s: Period = 120.0
    valid_days: Positive = 30.0


DEFAULT_TASK = "digits"


class CoordinatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator's fleet, folder, broker, task and rules.

    ``folder`` holds ``identity.key``, ``publisher.key``, ``authority.pub`` and ``roster.bin``; the store
    lies in ``data_dir``, ``data`` inside the folder unless set. ``task`` is the name of a task that comes
    with Shoal, or a file, ``calibration`` a file; an empty task means the digits. ``initial_seed`` draws
    version 0. Models and tasks cross the broker in chunks of ``chunk_kib``. ``heartbeat_s`` is what the
    devices were told: three missed ones mean offline. An empty ``prefix`` is ``shoal/{fleet}``.
    """

    name: str = "coordinator"
    fleet: str = "demo"
    folder: str = "."
    data_dir: str = ""
    prefix: str = ""
    task: str = ""
    calibration: str = ""
    initial_seed: Count = 1
    chunk_kib: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    heartbeat_s: Period = 60.0
    status_s: Seconds = 0.5
    link: LinkSettings = LinkSettings()
    rounds: RoundSettings = RoundSettings()
    releases: ReleaseSettings = ReleaseSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stop_on_stdin_eof: bool = False

    @property
    def party_folder(self) -> Path:
        """Where keys and roster are."""
        return Path(self.folder)

    @property
    def data_folder(self) -> Path:
        """Where the store is."""
        return Path(self.data_dir) if self.data_dir else self.party_folder / "data"

    @property
    def task_path(self) -> Path:
        """The task file."""
        return task_path(self.task or DEFAULT_TASK)

    @property
    def calibration_path(self) -> Path | None:
        """Public examples from which the int8 artefact's ranges are measured; None where there are none."""
        if self.calibration:
            return Path(self.calibration)
        return shipped("digits_calibration.npz") if self.task in {"", DEFAULT_TASK} else None


def shipped(name: str) -> Path:
    """Return the path of a data file that comes with the package."""
    folder = "tasks" if name.endswith(".task") else "demo/data"
    return Path(__file__).parent / folder / name
