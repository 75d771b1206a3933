"""What whoever sees an update makes of it: a training example, or the update of one device.

Inversion: the gradient of a dense layer for one example is the product of its input and its error, so that
each column, divided by the bias beside it, *is* the input (Phong et al. 2017). Differencing: two sums from
one base whose cohorts differ by one device, subtracted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.secagg.additive import SeedSum, ShareSum, combine, split
from shoal_codecs.secagg.prg import fold_masks, self_mask_key
from shoal_codecs.secagg.share_seed import new_share_seed
from shoal_codecs.security.stream_cipher import best_cipher
from shoal_codecs.updates.base import EncodeContext, to_dense
from shoal_codecs.updates.keystream import StreamKey, Words
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import RingSpec, decode_sum, encode_ring, ring_bits_for
from shoal_codecs.updates.step import step_from_sum
from shoal_codecs.wire.task import TaskBundle, split_weights
from shoal_edge.data import Examples
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

CLAMP = 127
HUBS = 2
Vector = npt.NDArray[np.float32]


def cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the cosine between two vectors, 0 where one is nothing."""
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b / length) if length else 0.0


def update_of(
    trainer: LiteRtTrainer, base: Vector, examples: Examples, rng: np.random.Generator, epochs: int = 1
) -> Vector:
    """Return what training on ``examples`` moves ``base`` by."""
    trainer.set_weights(base)
    batch = min(16, len(examples))
    trainer.fit(examples.x, examples.y, FitOptions(epochs=epochs, learning_rate=0.1, batch_size=batch), rng)
    return trainer.get_weights() - base


def inverted(update: Vector, bundle: TaskBundle) -> npt.NDArray[np.float64]:
    """Return the input that the first dense layer's update tells: the column with the largest bias."""
    parts = split_weights(update, bundle.parameters)
    bias = parts["dense1_b"].astype(np.float64)
    unit = int(np.argmax(np.abs(bias)))
    found: npt.NDArray[np.float64] = parts["dense1_w"][:, unit] / (bias[unit] or 1.0)
    return found


def ring_of(dimension: int, devices: int, clip_norm: float) -> RingSpec:
    """Return a ring that keeps every coordinate."""
    return RingSpec(
        dimension=dimension,
        kept=dimension,
        clip_norm=clip_norm,
        clamp=CLAMP,
        ring_bits=ring_bits_for(devices, CLAMP),
        n_max=devices,
        weight_cap=1,
        seed=bytes(32),
    )


def as_int8(update: Vector, rng: np.random.Generator) -> Vector:
    """Return what the int8 codec's receiver reads."""
    own, context = codec("int8"), EncodeContext(dimension=update.size, kept=update.size, rng=rng)
    return to_dense(own.decode(own.encode(update, context).payload, context))


def as_hub_share(update: Vector, position: int, rng: np.random.Generator) -> Vector:
    """Return the share of the hub at ``position`` (from 0), lifted as if it were the update."""
    spec = ring_of(update.size, 8, float(np.linalg.norm(update)) * 2)
    words, plan_hash, seed = encode_ring(update, 1, spec, rng), os.urandom(32), new_share_seed()
    if position == 0:
        return _lifted(split(words, spec.ring_bits, HUBS, [seed], plan_hash, "victim"), spec)
    total = SeedSum(spec.words, spec.ring_bits, plan_hash, position + 1)
    total.add("victim", seed)
    return _lifted(total.words, spec)


def as_masked(update: Vector, pairs: int, rng: np.random.Generator) -> Vector:
    """Return the masked vector of mode ``single``, lifted; the server knows all but the device's own mask.

    The own mask is the last one between a server that opened ``pairs`` pair masks and the update.
    """
    spec = ring_of(update.size, 8, float(np.linalg.norm(update)) * 2)
    words, plan_hash = encode_ring(update, 1, spec, rng), os.urandom(32)
    cipher = best_cipher()
    opened = [StreamKey(cipher, os.urandom(32)) for _ in range(pairs)]
    own = self_mask_key(os.urandom(32), plan_hash, "victim", cipher)
    fold_masks(words, [own, *opened], [], spec.ring_bits)
    fold_masks(words, [], opened, spec.ring_bits)
    return _lifted(words, spec)


def summed(updates: Sequence[Vector], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the sum of ``updates`` as two hubs release it, coordinate by coordinate."""
    count = len(updates)
    spec = ring_of(updates[0].size, count, max(float(np.linalg.norm(one)) for one in updates))
    plan_hash = os.urandom(32)
    first = ShareSum(spec.words, spec.ring_bits)
    second = SeedSum(spec.words, spec.ring_bits, plan_hash, 2)
    for number, update in enumerate(updates):
        device, seed = f"device-{number}", new_share_seed()
        words = encode_ring(update, 1, spec, rng)
        first.add(split(words, spec.ring_bits, HUBS, [seed], plan_hash, device))
        second.add(device, seed)
    step = step_from_sum(decode_sum(combine([first.words, second.words], spec.ring_bits), spec), spec)
    return step.q * (np.float64(step.scale) * count)


def differenced(
    trainer: LiteRtTrainer, base: Vector, shards: Sequence[Examples], rng: np.random.Generator
) -> float:
    """Return the cosine between the first device's update and the difference of sums with and without it.

    Everybody trains anew in each round, as devices do: what their shuffling changes is all that hides it.
    """
    with_it = [update_of(trainer, base, shard, rng, epochs=5) for shard in shards]
    without = [update_of(trainer, base, shard, rng, epochs=5) for shard in shards[1:]]
    return cosine(with_it[0], summed(with_it, rng) - summed(without, rng))


def _lifted(words: Words, spec: RingSpec) -> Vector:
    unused = np.uint32(32 - spec.ring_bits)
    levels = (words[: spec.kept].astype(np.uint32) << unused).view(np.int32) >> np.int32(unused)
    lifted: Vector = (levels / spec.levels_per_unit).astype(np.float32)
    return lifted
