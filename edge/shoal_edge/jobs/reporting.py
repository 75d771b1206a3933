"""A round on the device: from the plan's base and the examples to sealed shares."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shoal_codecs.updates.slices import FULL
from shoal_codecs.wire.plan import decode_plan, plan_hash
from shoal_edge.fitting import fit_update, nothing_fitted
from shoal_edge.jobs.state import Stop, WorkerState
from shoal_edge.own_round import OwnRound
from shoal_edge.trainers.system_random import SystemRandom
from shoal_edge.vectors import StoredVector, Vector

if TYPE_CHECKING:
    from shoal_edge.shares import Shared


def fit_and_report(
    state: WorkerState,
    *,
    task: bytes,
    task_path: str,
    model_path: str,
    data_path: str,
    data: bytes = b"",
    plan: bytes,
    source_path: str,
    device: str,
    residual_path: str,
    residual_next_path: str,
    own_path: str,
    own_next_path: str,
    control_paths: Sequence[str] = (),
    ditto: float = 0.0,
    percent: int = FULL,
    masks: bytes = b"",
    preview: bool,
    hide_faults: bool = False,
    train: bool = True,
    should_stop: Stop,
) -> dict[str, Any]:
    """Train on the plan's base and return the sealed shares and a few metrics, never the update.

    ``source_path`` has the encoded step that the plan takes coordinates from, ``masks`` (packed) are
    those of mode ``single``; both are empty where the plan has none. What stays on the device is read at
    ``own_path`` and left at ``own_next_path``; with ``ditto`` a model of its own is among it.
    ``percent`` of the model's width is what this device takes at most. ``control_paths`` are, for
    SCAFFOLD, those of the fleet's control, this device's, and its next. ``hide_faults`` is as for
    ``fit_update``; without ``train`` the device moves nothing.
    """
    started = time.perf_counter()
    promised = decode_plan(plan)
    ready = state.ready(task, task_path, promised.level_of(device), percent)
    own = OwnRound(ready, promised, Path(own_path))
    pull = 0.0 if promised.variants else ditto
    rng = SystemRandom()
    with StoredVector(Path(model_path), promised.base) as stored:

        def base() -> Vector:
            return own.base(stored.read())

        ready.trainer.set_weights(base())
        control = None
        if promised.training.correction:
            # Brings the codecs and their ciphers, for the plans that ask for it.
            from shoal_edge.control import control_round  # noqa: PLC0415

            fleet_path, control_path = map(Path, control_paths[:2])
            control = control_round(promised, own.part, device, fleet_path, control_path)
        if train:
            fitted = fit_update(
                ready.trainer,
                base,
                own.part,
                lambda: state.examples(ready.bundle, data_path, data),
                promised,
                rng,
                should_stop,
                state.on_progress,
                hide_faults=hide_faults,
                correction=control.correction if control else None,
                keep_weights=own.keeps(pull),
            )
        else:
            fitted = nothing_fitted(own.part)
        kept = own.leave(
            Path(own_next_path),
            fitted,
            lambda: state.examples(ready.bundle, data_path, data)[0],
            ready.trainer,
            base,
            pull,
            rng,
            should_stop,
        )
    # Of a model of its own, or a fit that failed.
    ready.trainer.rest()
    # The ciphers are loaded when the fit, which takes the most memory, is over.
    from shoal_edge.shares import clear_share, ring_shares, seal_shares  # noqa: PLC0415

    digest = plan_hash(plan)
    update, examples = own.sent(fitted.update), fitted.examples
    if promised.shared:
        source = Path(source_path).read_bytes() if source_path else b""
        shared = ring_shares(update, examples, promised, digest, device, rng, source, fitted.metrics, masks)
    else:
        told = fitted.told
        if control is not None:
            change = control.leave(Path(control_paths[2]), fitted.update, fitted.steps, rng)
            told = msgspec.structs.replace(told, control=change)
        paths = (Path(residual_path), Path(residual_next_path))
        shared = clear_share(update, examples, promised, rng, *paths, told, size=own.size)
    answer: dict[str, Any] = {
        "ciphertexts": seal_shares(shared, promised, digest, device),
        **fitted.said,
        **kept,
        "seconds": time.perf_counter() - started,
    }
    if preview and shared.tail is not None:
        answer["preview"] = _preview(update, shared)
    return answer


def _preview(update: Vector, shared: "Shared") -> dict[str, Any]:
    return {
        "update": [round(float(value), 4) for value in update[shared.tail]],
        "share": list(shared.tail_words),
    }
