"""From an update to what each hub may see of it: encoded, shared, sealed. Worker only: needs numpy.

Order and names follow the plan (mode ``hubs``, step 5): ring encoding, additive shares, every share sealed to
its hub's key of this round. Seeds come from the system's generator and are used once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal_codecs.secagg.additive import split_in_place
from shoal_codecs.secagg.share_seed import new_share_seed
from shoal_codecs.security.sealing import OVERHEAD_BYTES, seal_into
from shoal_codecs.updates.base import Chance, EncodeContext, Float32Vector, Indices
from shoal_codecs.updates.plain_noise import noise_on_device
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import RingSpec, encode_ring, packed_ring
from shoal_codecs.updates.ring_extras import DeviceMetrics
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import Plan, coordinate_seed, whole_share_place
from shoal_codecs.wire.report import share_context
from shoal_codecs.wire.told import NOTHING_TOLD, PlainShare, Told
from shoal_edge.files import write_durably

PREVIEW_NUMBERS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """``plaintexts`` by hub in plan order.

    For a preview, in shared modes: the whole share's words of the last coordinates, ``tail`` int64[8].
    """

    plaintexts: tuple[bytes | memoryview, ...]
    tail: Indices | None = None
    tail_words: tuple[int, ...] = ()


def ring_shares(
    update: Float32Vector,
    examples: int,
    plan: Plan,
    digest: bytes,
    device: str,
    rng: Chance,
    source: bytes = b"",
    metrics: DeviceMetrics | None = None,
    masks: bytes = b"",
) -> Shared:
    """Return one share per hub of ``update`` (D,), weighted by ``examples``; together they add up to it.

    ``digest`` is the plan's hash, ``source`` the encoded step that a ``global_topk`` plan takes coordinates
    from, ``metrics`` what the device has measured of the base, for plans that ask.
    One hub's plaintext is its share in full (``whole_share_place``), every other's the seed of its share. In
    mode ``single`` the only plaintext is the vector under ``masks`` (packed).

    Raises:
        UpdateError, SecAggError, PrivacyError: an update or a plan that cannot be shared.
    """
    spec = ring_spec(plan, source)
    words = encode_ring(update, examples, spec, rng, metrics)
    # In place: with the packed share and its ciphertext this is what a report takes of the memory.
    seeds = [new_share_seed() for _ in plan.hubs[1:]]
    whole = whole_share_place(plan, device)
    if plan.mode == "single":
        # Rosters, boxes and shares of secrets: for this mode alone.
        from shoal_edge.single_masks import put_masks_on  # noqa: PLC0415

        put_masks_on(words, spec.ring_bits, plan, digest, device, masks)
    else:
        split_in_place(words, spec.ring_bits, len(plan.hubs), seeds, digest, device, whole + 1)
    last = words[: spec.kept][-PREVIEW_NUMBERS:]
    packed = packed_ring(words, spec.ring_bits)
    plaintexts = (*seeds[:whole], packed, *seeds[whole:])
    return Shared(plaintexts, _tail(spec), tuple(map(int, last)))


def clear_share(
    update: Float32Vector,
    examples: int,
    plan: Plan,
    rng: Chance,
    residual_path: Path,
    residual_next_path: Path,
    told: Told = NOTHING_TOLD,
    size: tuple[int, int] | None = None,
) -> Shared:
    """Return the coded update for the coordinator, clipped to its norm, beside ``told``; mode ``plain``.

    ``size`` are the update's length and how many of its coordinates travel, where the plan's are another's.
    Under the local mechanisms it is noised here, before anything else happens to it. No plan with noise says
    how many examples there were.
    A codec with error feedback adds the residual at ``residual_path`` after the clip, for the clip bounds
    what one round's training may do, and leaves the next residual at ``residual_next_path``, which counts
    once the report is persisted.

    Raises:
        UpdateError: an update that cannot be coded.
    """
    own = codec(plan.codec.name)
    if plan.privacy is not None and plan.privacy.mechanism.startswith("local"):
        bounded = noise_on_device(update, plan, rng)
    else:
        norm = float(np.linalg.norm(update))
        bounded = update if norm <= plan.codec.clip_norm else update * np.float32(plan.codec.clip_norm / norm)
    dimension, kept = size or (plan.codec.dimension, plan.codec.kept)
    context = EncodeContext(
        dimension=dimension,
        kept=kept,
        seed=coordinate_seed(plan),
        rng=rng,
        residual=_residual(residual_path, dimension) if own.error_feedback else None,
    )
    encoded = own.encode(bounded, context)
    if encoded.residual is not None:
        write_durably(residual_next_path, encoded.residual.astype("<f4", copy=False).tobytes(), private=True)
    # No plan with noise asks to be told anything.
    count = examples if plan.privacy is None else 1
    return Shared((pack(PlainShare(count, encoded.payload, told)),))


def seal_shares(shared: Shared, plan: Plan, digest: bytes, device: str) -> list[memoryview]:
    """Return each hub's ciphertext in plan order, bound to plan (and its hash ``digest``), device and hub."""
    sealed = []
    for hub, plaintext in zip(plan.hubs, shared.plaintexts, strict=True):
        # Megabytes, of which none has to be zeroed before.
        room = np.empty(len(plaintext) + OVERHEAD_BYTES, np.uint8).data
        seal_into(room, hub.key, plaintext, share_context(digest, device, hub.hub))
        sealed.append(room)
    return sealed


def _tail(spec: RingSpec) -> Indices:
    """Return the last coordinates that travel: the output layer's, which every example moves."""
    if spec.kept < spec.dimension:
        return spec.coordinates[-PREVIEW_NUMBERS:]
    return np.arange(max(0, spec.dimension - PREVIEW_NUMBERS), spec.dimension, dtype=np.int64)


def _residual(path: Path, dimension: int) -> Float32Vector | None:
    """Return the residual kept for this task; one of another length or with NaN counts as none."""
    if not path.is_file() or path.stat().st_size != 4 * dimension:
        return None
    residual = np.frombuffer(path.read_bytes(), dtype="<f4").astype(np.float32)
    return residual if np.isfinite(residual).all() else None
