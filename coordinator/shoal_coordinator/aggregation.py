"""From sums or reports to the next version: numpy, run in a thread.

The next version is *defined* as the base plus a quantised step, in every mode and with every codec, so that
every party that applies the step holds the same bits.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import structlog

from shoal_codecs.privacy.ring_width import noise_length
from shoal_codecs.secagg.additive import combine
from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.security.sealing import unseal
from shoal_codecs.updates.base import Float32Vector
from shoal_codecs.updates.errors import NonFiniteUpdateError
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.levels import pack_levels
from shoal_codecs.updates.model_step import pack_leading
from shoal_codecs.updates.plain_noise import noised_mean
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import SEEDED
from shoal_codecs.updates.ring import RingSpec, RingSum, decode_sum, told_by, unpack_ring
from shoal_codecs.updates.ring_extras import NOTHING_TOLD, RoundTold
from shoal_codecs.updates.selection import Selection, select_coordinates
from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.updates.step import LEAST_SCALE, Step, apply_step, quantise, step_from_sum
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.plan import Plan, coordinate_seed
from shoal_codecs.wire.step import ModelStep, encode_step
from shoal_coordinator.algorithms.averaging import FedAvg
from shoal_coordinator.algorithms.base import Algorithm
from shoal_coordinator.algorithms.errors import AlgorithmStateError
from shoal_coordinator.algorithms.schedules import CONSTANT, ScheduleSettings
from shoal_coordinator.algorithms.state import AlgorithmState, decode_state, encode_state
from shoal_coordinator.coverage import Seen, seen
from shoal_coordinator.plain_reports import Reports, Share
from shoal_coordinator.round_errors import AggregationError, NoUsableReportError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Server:
    """How the coordinator moves the model: as ``algorithm`` says, at ``learning_rate``.

    One level of the step is ``level_rms`` (over 0, at most 1) times the root mean square of the move: larger
    is coarser and takes fewer bytes down. ``memory`` is the algorithm's encoded state beside the base.
    ``schedule`` is that of the learning rate.
    """

    learning_rate: float = 1.0
    level_rms: float = 0.5
    algorithm: Algorithm = field(default_factory=FedAvg)
    memory: bytes = b""
    schedule: ScheduleSettings = CONSTANT

    def at(self, version: int, memory: bytes = b"") -> "Server":
        """Return how a round that begins with ``version`` moves the model, with its ``memory``."""
        return replace(self, learning_rate=self.learning_rate * self.schedule.at(version), memory=memory)

    def state(self, dimension: int) -> AlgorithmState:
        """Return the algorithm's state for a model of ``dimension`` weights, to be changed.

        One that cannot be used begins anew: moments come back within a few rounds, a round that hubs have
        summed does not.
        """
        try:
            return decode_state(self.memory, self.algorithm.name, dimension)
        except AlgorithmStateError as error:
            log.warning("algorithm begins anew", algorithm=self.algorithm.name, remedy=str(error))
            return AlgorithmState(self.algorithm.name)


DEFAULT_SERVER = Server()


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A version that is made and not yet committed.

    ``data`` is the little-endian float32 vector, ``digest`` its BLAKE3, ``step`` an encoded ``ModelStep``
    (empty where it would be no shorter than the whole), ``norm`` the L2 norm of the move, ``bounded`` whether
    the move was shortened to what honest devices can add up to, ``fault`` why the round moved nothing (empty:
    it did), ``told`` what the ring's further coordinates say. ``state`` is the algorithm's, encoded, that
    belongs to the version; ``update_norm`` the L2 norm of the mean update before the algorithm's step.
    """

    data: bytes
    digest: bytes
    step: bytes
    norm: float
    bounded: bool = False
    fault: str = ""
    told: RoundTold = NOTHING_TOLD
    state: bytes = b""
    update_norm: float = 0.0


def vector_of(data: bytes) -> Float32Vector:
    """Return the vector (float32[D]) that a model blob holds.

    Raises:
        AggregationError: not whole float32 values.
    """
    if not data or len(data) % 4:
        raise AggregationError(f"a model blob of {len(data)} bytes is no float32 vector: restore the store")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def vector_bytes(vector: Float32Vector) -> bytes:
    """Return the model blob of ``vector``."""
    return vector.astype("<f4", copy=False).tobytes()


def aggregate_sums(
    plan: Plan,
    plan_hash: bytes,
    base: bytes,
    set_digest: bytes,
    sums: Mapping[str, bytes],
    private: bytes,
    server: Server = DEFAULT_SERVER,
    source: bytes = b"",
    reports: int = 1,
    levels: ModelLevels | None = None,
) -> Candidate:
    """Open the hubs' ``sums``, add them up and apply the mean to ``base`` (a model blob).

    ``private`` is the coordinator's X25519 key, ``source`` the encoded step that a ``global_topk`` plan
    takes coordinates from, ``reports`` how many devices are in the sums, ``levels`` the task's.

    Raises:
        UnsealError: a sum sealed for another key, set, plan or hub.
        UpdateError: a sum of the wrong length, or one no set of honest devices adds up to.
        SecAggError: sums that do not belong together.
        AggregationError: ``base`` is no vector.
    """
    spec = ring_spec(plan, source)
    words = []
    for offer in plan.hubs:
        clear = unseal(private, sums[offer.hub], sum_context(plan_hash, set_digest, offer.hub))
        words.append(unpack_ring(clear, spec.words, spec.ring_bits))
    return aggregate_words(plan, base, combine(words, spec.ring_bits), server, source, reports, levels)


def aggregate_words(
    plan: Plan,
    base: bytes,
    words: Words,
    server: Server = DEFAULT_SERVER,
    source: bytes = b"",
    reports: int = 1,
    levels: ModelLevels | None = None,
) -> Candidate:
    """Apply the mean of the updates whose ring sum is ``words`` (uint[spec.words]) to ``base``, a model blob.

    ``source``, ``reports`` and ``levels`` are as for ``aggregate_sums``.

    Raises:
        UpdateError: a sum that no set of honest devices adds up to.
        AggregationError: ``base`` is no vector.
    """
    spec = ring_spec(plan, source)
    total = decode_sum(words, spec)
    looked_at = seen(plan, levels, spec.selection.indices)
    looked_at.clear(total.q)
    state = server.state(spec.dimension)
    step, bounded = _move(plan, total, spec, server, state, looked_at)
    norm = float(np.linalg.norm(total.q.astype(np.float64))) * step_from_sum(total, spec).scale
    start = vector_of(base)
    candidate = _stepped(plan, start, spec.selection, step, bounded=bounded) if step else None
    if candidate is None or candidate.digest == plan.base:
        candidate = unmoved(plan, base, "the devices' updates add up to nothing", server)
    else:
        candidate = replace(candidate, state=encode_state(state))
    return replace(candidate, told=told_by(total, spec, reports), update_norm=norm)


def _move(
    plan: Plan, total: RingSum, spec: RingSpec, server: Server, state: AlgorithmState, looked_at: Seen
) -> tuple[Step | None, bool]:
    """Return the step that the server makes of a sum, and whether it was shortened.

    Where the algorithm only scales, the sum's own integers are the step, exact where they are coarse.
    """
    if server.algorithm.scales_only:
        rate = server.learning_rate
        step, bounded = _bounded(step_from_sum(total, spec, rate), total, spec, rate)
        if plan.codec.name in SEEDED and not bounded:
            step = _coarser(step, server.level_rms)
        return step, bounded
    step, bounded = _bounded(step_from_sum(total, spec), total, spec, 1.0)
    mean = step.q.astype(np.float64) * step.scale
    if not mean.any():
        return None, bounded
    moved = looked_at.move(server.algorithm, mean, server.learning_rate, state, spec.dimension)
    return quantise(moved, server.level_rms) if moved.any() else None, bounded


def unmoved(plan: Plan, base: bytes, fault: str, server: Server = DEFAULT_SERVER) -> Candidate:
    """Return a version that is ``base`` (a model blob) but for the last place of one weight.

    The algorithm's state beside it is that of the base.

    Once hubs have released their sums they never sum for that base again: the round must lead to another
    version, whatever the sums are worth, or it would be the fleet's last.

    Raises:
        AggregationError: ``base`` is no vector.
    """
    start = vector_of(base)
    selection = _drawn(plan)
    chosen = start[selection.indices]
    place = int(np.argmin(np.abs(chosen)))
    levels = np.zeros(chosen.size, dtype=np.int32)
    levels[place] = 1
    step = Step(levels, max(float(np.spacing(np.abs(chosen[place]))), LEAST_SCALE))
    return replace(_stepped(plan, start, selection, step), fault=fault, state=server.memory)


def aggregate_reports(
    plan: Plan,
    base: bytes,
    shares: Mapping[str, bytes | memoryview],
    server: Server = DEFAULT_SERVER,
    levels: ModelLevels | None = None,
    late: Sequence[Share] = (),
) -> Candidate:
    """Apply what the server's algorithm makes of ``shares`` (device to share in clear) to ``base``.

    With noise the denominator is fixed and every device weighs the same. ``levels`` are the task's, ``late``
    the shares of earlier rounds (FedBuff).

    Raises:
        NoUsableReportError: there is no usable update, or they add up to nothing.
        AggregationError: ``base`` is no vector, or the result is not finite.
    """
    return aggregate_opened(Reports.of(plan, shares, levels, late), base, server)


def aggregate_opened(reports: Reports, base: bytes, server: Server = DEFAULT_SERVER) -> Candidate:
    """Apply what the server's algorithm makes of ``reports`` to ``base``; raises as ``aggregate_reports``."""
    plan = reports.plan
    start = vector_of(base)
    if start.size != plan.codec.dimension:
        raise AggregationError(
            f"the plan has {plan.codec.dimension} weights, the model {start.size}: plan anew"
        )
    state = server.state(start.size)
    mean = _even_mean(reports, plan) if plan.privacy else server.algorithm.combine(reports, state)
    # Late reports have coordinates of their own rounds: then nothing is left out.
    drawn = plan.codec.name in SEEDED and reports.of_one_round
    selection = _drawn(plan) if drawn else None
    indices = selection.indices if selection is not None else None
    looked_at = seen(plan, reports.levels, indices, reports.devices)
    if looked_at.drawn is not None:
        mean = mean[looked_at.drawn]
    looked_at.clear(mean)
    norm = float(np.linalg.norm(mean))
    moved = looked_at.move(server.algorithm, mean, server.learning_rate, state, start.size)
    try:
        step = quantise(moved, server.level_rms) if moved.any() else None
        candidate = _stepped(plan, start, selection, step) if step else None
    except NonFiniteUpdateError as error:
        raise AggregationError(
            "the mean update takes a weight out of float32: the version stays as it is"
        ) from error
    if candidate is None or candidate.digest == plan.base:
        raise NoUsableReportError("the updates add up to nothing: the version stays as it is")
    return replace(candidate, state=encode_state(state), update_norm=norm)


def _even_mean(reports: Reports, plan: Plan) -> npt.NDArray[np.float64]:
    """Return the mean over n_max under noise: who is missing counts as one that moved nothing."""
    if plan.privacy is not None and plan.privacy.mechanism == "central":
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(os.urandom(32), "big")))
        return noised_mean((one.update for one in reports), plan, rng)
    total = np.zeros(plan.codec.dimension, dtype=np.float64)
    for one in reports:
        total += one.update
    return total / plan.n_max


def _bounded(step: Step, total: RingSum, spec: RingSpec, server_lr: float) -> tuple[Step, bool]:
    """Shorten a step that no honest devices can have made: each adds the clip norm, rounding and noise.

    The move itself is bounded alike, for the weight it is divided by is a device's word too: one that takes
    the others' weights away would multiply the mean. Shortened and not refused: the hubs never sum for this
    base again, so a refusal would let one device stop the fleet for good.
    """
    honest = spec.n_max * (spec.clip_norm * spec.levels_per_unit + math.sqrt(spec.kept))
    honest += noise_length(spec.n_max * spec.noise, spec.kept)
    found = float(np.linalg.norm(total.q.astype(np.float64)))
    longest = min(found, honest) * step.scale
    longest = min(longest, server_lr * honest / spec.levels_per_unit)
    if found * step.scale <= longest:
        return step, False
    return Step(step.q, float(np.float32(longest / found))), True


def _coarser(step: Step, level_rms: float) -> Step:
    """Return the step in levels of ``level_rms``; a sum that is coarser already stays exact.

    For plain rand-k only, where all values are rescaled alike: beside explored values those of leading
    coordinates would round to nothing. What was shortened to a limit must not be rounded over it.
    """
    if not step.q.any():
        return step
    coarse = quantise(step.q.astype(np.float64) * step.scale, level_rms)
    return coarse if coarse.scale > step.scale else step


def _drawn(plan: Plan) -> Selection:
    """Return the coordinates that the plan's seed draws, none of them leading."""
    return select_coordinates(coordinate_seed(plan), plan.codec.dimension, plan.codec.kept)


def _stepped(
    plan: Plan, start: Float32Vector, selection: Selection | None, step: Step, *, bounded: bool = False
) -> Candidate:
    """Move ``start`` by ``step`` on the coordinates of ``selection``, None: on all."""
    child = apply_step(start, selection.indices if selection else None, step)
    data = vector_bytes(child)
    digest = digest_of(data)
    encoded = encode_step(
        ModelStep(
            kind="randk" if selection else "dense",
            parent=plan.base,
            child=digest,
            seed=coordinate_seed(plan) if selection else b"",
            kept=step.q.size,
            scale=step.scale,
            payload=pack_levels(step.q),
            led=selection.leading.size if selection else 0,
            leading=pack_leading(selection) if selection else b"",
        )
    )
    norm = float(np.linalg.norm(child.astype(np.float64) - start))
    return Candidate(data, digest, encoded if len(encoded) < len(data) else b"", norm, bounded)
