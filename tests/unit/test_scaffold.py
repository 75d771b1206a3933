"""SCAFFOLD, both sides, against the paper and against what it is known to mend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.updates.base import EncodeContext
from shoal_codecs.updates.errors import UpdateError
from shoal_codecs.updates.plain_noise import longest_update
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.control import CONTROL, NO_CONTROL, SCAFFOLD, AlgorithmMemory, decode_memory
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import Plan, TrainingPlan, coordinate_seed
from shoal_codecs.wire.task import Parameter
from shoal_codecs.wire.told import PlainShare, Told
from shoal_coordinator.algorithms.registry import make_algorithm
from shoal_coordinator.algorithms.state import decode_state, encode_state
from shoal_coordinator.chains import ModelVersion
from shoal_coordinator.controls import Controls
from shoal_coordinator.plain_reports import Reports, open_update
from shoal_coordinator.round_errors import InvalidReportError, NoUsableReportError
from shoal_edge.control import control_round
from shoal_edge.errors import ControlFileError
from shoal_edge.pending import PendingFile
from wire_parts import codec_plan, plain_plan

D, STEPS, RATE = 40, 10, 0.05
TASK = b"t" * 32
PART = SharedPart((Parameter("w", (D,)),))
Vector = npt.NDArray[np.float32]
CURVES = {"device-01": 8.0, "device-02": 1.0}
CENTRES = {"device-01": np.linspace(1, 2, D), "device-02": -np.ones(D)}
BEST = sum(CURVES[name] * CENTRES[name] for name in CURVES) / sum(CURVES.values())


def plan_of(number: int, name: str = "dense", clip_norm: float = 1e6) -> Plan:
    kept = 10 if name == "topk" else D
    training = TrainingPlan(1, RATE, 8, algorithm=SCAFFOLD, correction=b"c" * 32, tells=("control",))
    coded = codec_plan(name=name, dimension=D, kept=kept, clip_norm=clip_norm, ring_bits=0)
    made = plain_plan(training=training, codec=coded)
    return msgspec.structs.replace(made, round=number)


@dataclass
class Fleet:
    """Both sides' real code around devices that descend a parabola each."""

    folder: Path
    codec: str = "dense"
    model: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(D))
    memory: bytes = b""
    number: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    clip_norm: float = 1e6

    def plan(self, number: int) -> Plan:
        return plan_of(number, self.codec, self.clip_norm)

    def file(self, device: str) -> PendingFile:
        (self.folder / device).mkdir(exist_ok=True)
        return PendingFile(self.folder / device, "control")

    def train(self, device: str, plan: Plan) -> bytes:
        """Return the device's share, its control's next left beside and let count."""
        fleet = self.folder / "fleet.control"
        fleet.write_bytes(self.memory or NO_CONTROL)
        kept = self.file(device)
        control = control_round(plan, PART, device, fleet, kept.path(TASK))
        weights = self.model.copy()
        for _ in range(STEPS):
            weights -= RATE * (CURVES[device] * (weights - CENTRES[device]) + control.correction)
        update = (weights - self.model).astype(np.float32)
        change = control.leave(kept.next_path(TASK, b"h" * 32), update, STEPS, self.rng)
        # It holds the device's own gradients.
        assert kept.next_path(TASK, b"h" * 32).stat().st_mode & 0o777 == 0o600
        kept.commit(TASK, b"h" * 32)
        context = EncodeContext(dimension=D, kept=plan.codec.kept, seed=coordinate_seed(plan), rng=self.rng)
        payload = codec(self.codec).encode(update, context).payload
        return pack(PlainShare(10, payload, Told(control=change)))

    def round(
        self,
        devices: tuple[str, ...] = tuple(CURVES),
        lost: tuple[str, ...] = (),
        with_shares: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Run a round of ``devices``; reports of ``lost`` come to nothing, ``with_shares`` are others'."""
        self.number += 1
        plan = self.plan(self.number)
        shares = {name: self.train(name, plan) for name in devices}
        taken = {name: share for name, share in shares.items() if name not in lost} | dict(with_shares)
        state = decode_state(self.memory, SCAFFOLD, D)
        self.model += make_algorithm(SCAFFOLD).combine(Reports.of(plan, taken), state)
        self.memory = encode_state(state)

    def own(self, device: str) -> Vector:
        """What the device will hold for its own control in the next round."""
        fleet = self.folder / "fleet.control"
        fleet.write_bytes(self.memory or NO_CONTROL)
        plan = self.plan(self.number + 1)
        return control_round(plan, PART, device, fleet, self.file(device).path(TASK)).own

    @property
    def control(self) -> Vector:
        """The fleet's."""
        return decode_state(self.memory, SCAFFOLD, D).vectors[CONTROL]


def by_the_paper(rounds: int) -> npt.NDArray[np.float64]:
    """Algorithm 1 with option II, both devices in every round, in float64."""
    x, c = np.zeros(D), np.zeros(D)
    own = {name: np.zeros(D) for name in CURVES}
    for _ in range(rounds):
        moves, changes = [], []
        for name, curve in CURVES.items():
            y = x.copy()
            for _ in range(STEPS):
                y = y - RATE * (curve * (y - CENTRES[name]) - own[name] + c)
            following = own[name] - c + (x - y) / (STEPS * RATE)
            moves.append(y - x)
            changes.append(following - own[name])
            own[name] = following
        x = x + np.mean(moves, axis=0)
        c = c + np.mean(changes, axis=0)
    return x


def test_both_sides_together_walk_as_algorithm_1_does(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    for count in range(1, 13):
        fleet.round()
        np.testing.assert_allclose(fleet.model, by_the_paper(count), rtol=1e-4, atol=1e-4)


def test_it_reaches_the_optimum_that_fedavg_drifts_away_from(tmp_path: Path) -> None:
    """Two devices of unlike curvature (Karimireddy et al. 2020, section 3): more steps, more drift."""
    fleet = Fleet(tmp_path)
    for _ in range(60):
        fleet.round()
    astray = np.zeros(D)
    for _ in range(200):
        shrink = {name: 1 - (1 - RATE * curve) ** STEPS for name, curve in CURVES.items()}
        astray += np.mean([shrink[name] * (CENTRES[name] - astray) for name in CURVES], axis=0)
    assert np.abs(fleet.model - BEST).max() < 1e-3
    assert np.abs(astray - BEST).min() > 0.3


@pytest.mark.parametrize("name", ["dense", "int8", "int4", "topk"])
def test_the_fleet_s_control_is_the_mean_of_what_devices_hold(tmp_path: Path, name: str) -> None:
    fleet = Fleet(tmp_path, name)
    for _ in range(5):
        fleet.round()
        held = np.mean([fleet.own(device) for device in CURVES], axis=0)
        np.testing.assert_allclose(fleet.control, held, rtol=1e-4, atol=1e-5)
        assert np.abs(held).max() > 0


def test_a_report_that_came_to_nothing_takes_its_control_back(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.round()
    before = fleet.own("device-02")
    fleet.round(lost=("device-02",))
    np.testing.assert_array_equal(fleet.own("device-02"), before)
    held = np.mean([fleet.own(device) for device in CURVES], axis=0)
    np.testing.assert_allclose(fleet.control, held, rtol=1e-5, atol=1e-5)
    # Lost twice in a row: still what the coordinator counts.
    fleet.round(lost=("device-02",))
    np.testing.assert_array_equal(fleet.own("device-02"), before)
    fleet.round()
    assert not np.array_equal(fleet.own("device-02"), before)


def test_a_device_that_comes_later_begins_with_nothing_and_counts_from_then(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.round(devices=("device-01",))
    np.testing.assert_allclose(fleet.control, fleet.own("device-01"), rtol=1e-5)
    assert not fleet.own("device-02").any()
    fleet.round(devices=("device-02",))
    held = np.mean([fleet.own(device) for device in CURVES], axis=0)
    np.testing.assert_allclose(fleet.control, held, rtol=1e-5, atol=1e-5)
    assert decode_memory(fleet.memory).settled == {"device-01": 1, "device-02": 2}


@pytest.mark.parametrize("name", ["dense", "int8", "topk"])
@pytest.mark.parametrize("lie", [1e30, 1e9])
def test_a_change_that_no_device_comes_to_spoils_no_control(tmp_path: Path, name: str, lie: float) -> None:
    fleet = Fleet(tmp_path, name, clip_norm=3.0)
    fleet.round()
    before, at, held = fleet.control.copy(), fleet.model.copy(), dict(decode_memory(fleet.memory).settled)
    plan = fleet.plan(2)
    context = EncodeContext(dimension=D, kept=plan.codec.kept, seed=coordinate_seed(plan), rng=fleet.rng)
    payload = codec(name).encode(np.full(D, lie, np.float32), context).payload
    lied = pack(PlainShare(10, payload, Told(control=payload)))
    state = decode_state(fleet.memory, SCAFFOLD, D)
    with pytest.raises(NoUsableReportError):
        make_algorithm(SCAFFOLD).combine(Reports.of(plan, {"device-03": lied}), state)
    assert state.settled == held
    np.testing.assert_array_equal(state.vectors[CONTROL], before)
    # Among others it is as if it were not there.
    fleet.round(with_shares={"device-03": lied})
    assert set(decode_memory(fleet.memory).settled) == set(CURVES)
    assert np.linalg.norm(fleet.model - at) <= longest_update(plan)
    held_now = np.mean([fleet.own(device) for device in CURVES], axis=0)
    np.testing.assert_allclose(fleet.control, held_now, rtol=1e-4, atol=1e-4)


def test_updates_that_are_clipped_are_all_believed(tmp_path: Path) -> None:
    for name in ("dense", "int8", "int4", "topk"):
        (tmp_path / name).mkdir()
        fleet = Fleet(tmp_path / name, name, clip_norm=0.5)
        for number in range(1, 15):
            fleet.round()
            assert set(decode_memory(fleet.memory).settled.values()) == {number}


def test_what_stays_on_the_device_is_not_corrected(tmp_path: Path) -> None:
    part = SharedPart((Parameter("w", (D,)), Parameter("head", (3,))), ("head",))
    memory = AlgorithmMemory(SCAFFOLD, {CONTROL: np.ones(D, "<f4").tobytes()})
    (tmp_path / "fleet").write_bytes(pack(memory))
    control = control_round(plan_of(1), part, "device-01", tmp_path / "fleet", tmp_path / "none")
    np.testing.assert_array_equal(control.correction, [1.0] * D + [0.0] * 3)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "cannot be read"),
        (pack([1, 2]), "cannot be read"),
        (pack(AlgorithmMemory("fedadam")), "a control of fedadam"),
        (pack(AlgorithmMemory(SCAFFOLD, {CONTROL: bytes(8)})), "with 8 bytes"),
        (pack(AlgorithmMemory(SCAFFOLD, {CONTROL: np.full(D, np.nan, "<f4").tobytes()})), "NaN"),
    ],
)
def test_a_control_that_cannot_be_used_is_named(tmp_path: Path, data: bytes, fault: str) -> None:
    (tmp_path / "fleet").write_bytes(data)
    with pytest.raises(ControlFileError, match=fault):
        control_round(plan_of(1), PART, "device-01", tmp_path / "fleet", tmp_path / "none")
    with pytest.raises(ControlFileError, match="cannot be read"):
        control_round(plan_of(1), PART, "device-01", tmp_path / "missing", tmp_path / "none")


@pytest.mark.parametrize("data", [b"", b"\xc1", pack([3, b"", b""]), pack([1, bytes(4), bytes(4), 0])])
def test_a_device_s_own_control_that_cannot_be_used_counts_as_none(tmp_path: Path, data: bytes) -> None:
    memory = AlgorithmMemory(SCAFFOLD, {}, {"device-01": 1})
    (tmp_path / "fleet").write_bytes(pack(memory))
    (tmp_path / "own").write_bytes(data)
    control = control_round(plan_of(2), PART, "device-01", tmp_path / "fleet", tmp_path / "own")
    assert not control.own.any()


@pytest.mark.parametrize("change", [b"", b"short", np.full(D, np.inf, "<f4").tobytes()])
def test_a_change_of_a_control_that_cannot_be_used_is_no_report(change: bytes) -> None:
    share = pack(PlainShare(10, np.ones(D, "<f4").tobytes(), Told(control=change)))
    with pytest.raises((InvalidReportError, UpdateError)):
        open_update(plan_of(1), share)


def test_a_version_with_another_algorithm_s_state_begins_with_no_control(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    foreign = blobs.put(pack(AlgorithmMemory("fedadam", {"first": bytes(8)})))
    own = blobs.put(pack(AlgorithmMemory(SCAFFOLD, {CONTROL: bytes(8)})))
    whole = blobs.put(b"weights.")
    old = ModelVersion(3, whole.digest, whole, state=foreign)
    controls = Controls(blobs, old)
    assert blobs.read(controls.of(old).name) == NO_CONTROL
    assert blobs.read(controls.of(ModelVersion(0, whole.digest, whole)).name) == NO_CONTROL
    assert controls.of(ModelVersion(4, whole.digest, whole, state=own)) == own
