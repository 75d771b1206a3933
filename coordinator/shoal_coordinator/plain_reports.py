"""Mode ``plain``: what devices sent, opened one at a time, so that memory holds one update and not all."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from shoal_codecs.updates.base import EncodeContext, Float32Vector, Indices, to_dense
from shoal_codecs.updates.errors import UpdateError
from shoal_codecs.updates.plain_noise import longest_update
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.slices import ModelLevels, ModelSlice
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import unpack
from shoal_codecs.wire.plan import Plan, coordinate_seed
from shoal_codecs.wire.told import NOTHING_TOLD, PlainShare, Told
from shoal_coordinator.round_errors import InvalidReportError, NoUsableReportError

_MOST_STEPS = 1 << 40
_EMPTY: Float32Vector = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class PlainUpdate:
    """One device's update: ``weight`` min(n, W), ``update`` float32[D], bounded, and what it told beside it.

    ``staleness`` is how many versions are between its base and the present one. ``covered`` int64[d] are the
    coordinates that the device's variant has, None for all; elsewhere the update is zero.
    """

    weight: int
    update: Float32Vector
    told: Told = NOTHING_TOLD
    device: str = ""
    staleness: int = 0
    covered: Indices | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """A device's share in clear, of ``plan``, which need not be the present one."""

    device: str
    plan: Plan
    data: bytes | memoryview
    staleness: int = 0


class Reports:
    """The reports of a round: iterating opens one update after another, as often as is asked for.

    ``levels`` are the task's, for plans in which devices train variants.

    Raises:
        NoUsableReportError: there is none.
    """

    def __init__(self, plan: Plan, shares: Sequence[Share], levels: ModelLevels | None = None) -> None:
        if not shares:
            raise NoUsableReportError("not one usable update: the version stays as it is")
        self.plan = plan
        self.levels = levels
        self._shares = tuple(shares)

    @classmethod
    def of(
        cls,
        plan: Plan,
        shares: Mapping[str, bytes | memoryview],
        levels: ModelLevels | None = None,
        late: Sequence[Share] = (),
    ) -> "Reports":
        """Return the reports of ``plan``, ``shares`` by device, and ``late`` ones of earlier plans."""
        return cls(plan, [*(Share(device, plan, data) for device, data in shares.items()), *late], levels)

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[PlainUpdate]:
        for one in self._shares:
            yield open_update(one.plan, one.data, one.device, one.staleness, self.levels)

    def rounds(self) -> dict[str, int]:
        """Return, by device, the round that its report is of; of several the last."""
        found: dict[str, int] = {}
        for one in self._shares:
            found[one.device] = max(one.plan.round, found.get(one.device, 0))
        return found

    @property
    def of_one_round(self) -> bool:
        """Whether all are of the present plan, so that they share what that draws."""
        return all(one.plan is self.plan for one in self._shares)

    @property
    def dimension(self) -> int:
        """Length D of an update."""
        return self.plan.codec.dimension

    @property
    def devices(self) -> frozenset[str]:
        """Whose reports these are."""
        return frozenset(one.device for one in self._shares)

    def told(self) -> list[PlainUpdate]:
        """Return all reports without their updates."""
        return [_opened(one.plan, one.data, one.device, one.staleness)[0] for one in self._shares]


def open_update(
    plan: Plan,
    share: bytes | memoryview,
    device: str = "",
    staleness: int = 0,
    levels: ModelLevels | None = None,
) -> PlainUpdate:
    """Return a device's update from its share in clear, a packed ``PlainShare``.

    An update longer than honest devices send (``longest_update``) is shortened to that. Where the plan lets
    devices train variants, ``levels`` say of which coordinates.

    Raises:
        InvalidReportError: not an update of this plan, one with NaN or infinity, or words not true.
    """
    about, payload = _opened(plan, share, device, staleness)
    cut = levels.slice_of(plan.level_of(device)) if levels is not None and plan.sliced else None
    update = decode_payload(plan, payload, cut)
    if about.told.control:
        # Refused here, with its report, and not when all are put together.
        decode_payload(plan, about.told.control)
    norm = float(np.linalg.norm(update.astype(np.float64)))
    limit = longest_update(plan)
    if norm > limit:
        update = (update * np.float64(limit / norm)).astype(np.float32)
    covered = None
    if cut is not None:
        update, covered = cut.spread(update), cut.positions
    return PlainUpdate(about.weight, update, about.told, device, staleness, covered)


def decode_payload(plan: Plan, payload: bytes, cut: ModelSlice | None = None) -> Float32Vector:
    """Return the vector (float32[D], of the slice ``cut`` float32[d]) that ``payload`` holds in the codec.

    Raises:
        InvalidReportError: none of this plan, or one with NaN or infinity.
    """
    dimension, kept = plan.codec.dimension, plan.codec.kept
    if cut is not None:
        dimension, kept = cut.dimension, cut.kept(kept)
    context = EncodeContext(dimension=dimension, kept=kept, seed=coordinate_seed(plan))
    try:
        vector = to_dense(codec(plan.codec.name).decode(payload, context))
    except UpdateError as error:
        raise InvalidReportError(f"not an update of this round ({error}): update the device") from error
    if not math.isfinite(float(np.linalg.norm(vector.astype(np.float64)))):
        raise InvalidReportError(
            "the update holds NaN or infinity: lower the learning rate, or look at the device"
        )
    return vector


def _opened(plan: Plan, share: bytes | memoryview, device: str, staleness: int) -> tuple[PlainUpdate, bytes]:
    """Return a report without its update, and the update's payload."""
    try:
        opened = unpack(share, PlainShare)
    except (msgspec.ValidationError, MalformedMessageError) as error:
        raise InvalidReportError(f"not an update of this round ({error}): update the device") from error
    if opened.examples < 1:
        raise InvalidReportError(f"an update of {opened.examples} examples: decline the round instead")
    check_told(plan, opened.told)
    weight = min(opened.examples, plan.codec.weight_cap)
    return PlainUpdate(weight, _EMPTY, opened.told, device, staleness), opened.payload


def check_told(plan: Plan, told: Told) -> None:
    """Refuse words of a device that cannot be true, or that its plan asked for and it does not give.

    Raises:
        InvalidReportError: with the word.
    """
    tells = plan.training.tells
    sound = (
        (1 if "steps" in tells else 0) <= told.steps <= _MOST_STEPS
        and 0 <= told.loss < math.inf
        and 0 <= told.score <= 1
        and bool(told.control) == ("control" in tells)
    )
    if not sound:
        raise InvalidReportError(
            f"{told.steps} steps, a loss of {told.loss:g}, a score of {told.score:g} and a control of "
            f"{len(told.control)} bytes are not what the plan asks for: update the device"
        )
