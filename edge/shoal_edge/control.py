"""SCAFFOLD on the device: its own control, and what a fit makes of it. Worker only: needs numpy.

The device keeps its control before and after the last round it reported to. Which of them counts the
coordinator says beside the fleet's control: the later one, if that round's change was taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from shoal_codecs.updates.base import Chance, EncodeContext, length, to_dense
from shoal_codecs.updates.plain_noise import longest_update
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.control import CONTROL, SCAFFOLD, decode_memory
from shoal_codecs.wire.errors import MalformedMessageError, WireError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import Plan, coordinate_seed
from shoal_edge.errors import ControlFileError
from shoal_edge.files import write_durably
from shoal_edge.vectors import Vector


class _Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A device's control ``before`` and ``after`` the ``round`` it reported to last, as float32 bytes.

    ``settled`` is the round that ``before`` is of.
    """

    round: int
    before: bytes
    after: bytes
    settled: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ControlRound:
    """One round: the ``fleet`` control and this device's ``own``, float32[part.dimension].

    ``settled`` is the round that ``own`` is of, 0 for none.
    """

    plan: Plan
    part: SharedPart
    fleet: Vector
    own: Vector
    settled: int = 0

    @property
    def correction(self) -> Vector:
        """What is added to every gradient (D,): c - c_k, nothing to what stays on the device."""
        zeros = {one.name: np.zeros(one.shape, np.float32) for one in self.part.own}
        return self.part.joined(self.fleet - self.own, zeros)

    def leave(self, path: Path, update: Vector, steps: int, rng: Chance) -> bytes:
        """Leave at ``path`` the control after ``steps`` that made ``update``; return its change, coded.

        Option II of the paper: c_k + (-c - update / (steps * learning rate)), with the update no longer than
        the plan allows: the coordinator believes no other. What is kept is what the
        coordinator decodes, so that its mean is that of what devices hold; what the codec leaves out comes
        with the next change.

        Raises:
            UpdateError: a change that cannot be coded.
            StoreError: the disk does not take it.
        """
        plan = self.plan
        norm, longest = length(update), longest_update(plan)
        if norm > longest:
            update = update * np.float32(longest / norm)
        change = -self.fleet - update / np.float32(steps * plan.training.learning_rate)
        own = codec(plan.codec.name)
        context = EncodeContext(
            dimension=plan.codec.dimension, kept=plan.codec.kept, seed=coordinate_seed(plan), rng=rng
        )
        payload = own.encode(change, context).payload
        after = self.own + to_dense(own.decode(payload, context))
        kept = _Kept(plan.round, _bytes(self.own), _bytes(after), self.settled)
        write_durably(path, pack(kept), private=True)
        return payload


def control_round(plan: Plan, part: SharedPart, device: str, fleet_path: Path, path: Path) -> ControlRound:
    """Return the control of a round whose fleet's is at ``fleet_path``, this device's at ``path``.

    A device without one, or with one that the coordinator does not count, begins with zeros.

    Raises:
        ControlFileError: the fleet's cannot be read, or is of another model.
    """
    try:
        memory = decode_memory(fleet_path.read_bytes())
    except (OSError, MalformedMessageError) as error:
        raise ControlFileError(f"the fleet's control cannot be read ({error}): fetch it again") from error
    data = memory.vectors.get(CONTROL, bytes(4 * part.dimension))
    if memory.algorithm != SCAFFOLD or len(data) != 4 * part.dimension:
        raise ControlFileError(
            f"a control of {memory.algorithm} with {len(data)} bytes, the task shares {part.dimension} "
            "parameters: plan anew"
        )
    taken = memory.settled.get(device, 0)
    kept = _kept(path)
    own, settled = bytes(len(data)), 0
    if kept is not None and taken:
        if kept.round == taken and len(kept.after) == len(data):
            own, settled = kept.after, taken
        elif kept.settled == taken and len(kept.before) == len(data):
            own, settled = kept.before, taken
    return ControlRound(plan, part, _finite(data), _finite(own), settled)


def _kept(path: Path) -> _Kept | None:
    """Return what is kept; nothing where there is none, or what cannot be used."""
    try:
        return unpack(path.read_bytes(), _Kept)
    except (OSError, WireError, msgspec.ValidationError):
        return None


def _finite(data: bytes) -> Vector:
    vector = np.frombuffer(data, "<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise ControlFileError("a control with NaN or infinity: plan anew, with a lower learning rate")
    return vector


def _bytes(vector: Vector) -> bytes:
    return vector.astype("<f4", copy=False).tobytes()
