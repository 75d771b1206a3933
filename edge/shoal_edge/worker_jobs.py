"""What the worker is asked for; imported in the worker process only, for it needs numpy and LiteRT."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shoal_codecs.updates.shared_part import OwnTensors, SharedPart
from shoal_codecs.updates.slices import FULL
from shoal_codecs.wire.plan import decode_plan, plan_hash
from shoal_codecs.wire.task import TaskBundle
from shoal_edge.control import control_round
from shoal_edge.data import Examples, held_count
from shoal_edge.fitting import fit_update, nothing_fitted
from shoal_edge.health_check import paired_counts
from shoal_edge.own_models import own_weights, whole
from shoal_edge.own_round import OwnRound
from shoal_edge.own_tensors import read_own
from shoal_edge.prediction_words import said
from shoal_edge.probing import probe_models
from shoal_edge.shares import Shared, clear_share, ring_shares, seal_shares
from shoal_edge.single_jobs import boxes_opened, shares_for
from shoal_edge.sources.own import own_examples
from shoal_edge.sources.registry import Shards, open_source
from shoal_edge.sources.settings import ShareSettings, unpack_data
from shoal_edge.sources.source import Wanted
from shoal_edge.trainers.base import EvaluationCounts, OnProgress, unheard
from shoal_edge.trainers.errors import NonFiniteLossError, UnreadableDataError
from shoal_edge.trainers.inference import InferenceModel
from shoal_edge.trainers.own_inference import infer
from shoal_edge.vectors import Vector, first_vector, read_step, read_vector, step_vector, write_vector
from shoal_edge.worker_settings import DEFAULT_SETTINGS, WorkerSettings
from shoal_edge.worker_task import ReadyTask, level_within, read_task, refuse_wider

Stop = Callable[[], bool]


class Jobs:
    """The requests by name; each returns a map of plain values and raises ShoalError on a named fault."""

    def __init__(
        self, settings: WorkerSettings = DEFAULT_SETTINGS, on_progress: OnProgress = unheard
    ) -> None:
        self._settings = settings
        self._on_progress = on_progress
        self._task: ReadyTask | None = None
        self._within: tuple[bytes, int, int] = (b"", FULL, 0)
        self._shards = Shards()

    def prepare(
        self, *, task: bytes, task_path: str, data_path: str, data: bytes = b"", should_stop: Stop
    ) -> dict[str, Any]:
        """Decode and self-test the task, check the device's data against it.

        ``data`` is the packed table ``[data]`` of the settings, here and below.
        """
        del should_stop
        ready = self._ready(task, task_path)
        train, held_out = self._shard(ready, data_path, data)
        return {
            "dimension": ready.trainer.dimension,
            "examples": len(train),
            "held_out": len(held_out),
            "runtime": ready.trainer.runtime,
        }

    def measure(
        self,
        *,
        task: bytes,
        task_path: str,
        data_path: str,
        data: bytes = b"",
        fit_s: float,
        should_stop: Stop,
    ) -> dict[str, Any]:
        """Try the task's models out on the device's examples, from the narrowest up, while they fit."""
        del should_stop
        # Nothing else shall be in the memory that is measured.
        self._task = None
        bundle = read_task(Path(task_path), task)
        train, _ = self._examples_for(bundle, data_path, data)
        probes = probe_models(bundle, task, train, self._settings, fit_s)
        return {"probes": msgspec.to_builtins(probes)}

    def count_parts(self, *, data_path: str, data: bytes, should_stop: Stop) -> dict[str, Any]:
        """Return how many (training, held-out) examples each part of a shared set has, if that is known."""
        del should_stop
        settings = unpack_data(data)
        counts = open_source(settings, Path(data_path)).share_counts(settings.share or ShareSettings())
        return {"counts": counts}

    def check_vector(self, *, path: str, digest: bytes, should_stop: Stop) -> dict[str, Any]:
        """Read a vector and make sure of its digest."""
        del should_stop
        return {"dimension": len(read_vector(Path(path), digest))}

    def apply_step(
        self,
        *,
        task: bytes,
        task_path: str,
        base_path: str,
        step: bytes,
        step_path: str = "",
        child_path: str,
        local: Sequence[str] = (),
        own_path: str = "",
        should_stop: Stop,
    ) -> dict[str, Any]:
        """Write the vector that a step makes of the one at ``base_path``; its digest must be the step's.

        The encoded step is ``step``, or else in the file at ``step_path``. Without a ``base_path`` it draws
        the task's initial weights, without those that stay here: ``local``, or what is kept at ``own_path``.
        """
        del should_stop
        step = step or read_step(Path(step_path))
        if base_path:
            child = step_vector(Path(base_path), step)
        else:
            bundle = read_task(Path(task_path), task)
            kept = local or (read_own(Path(own_path)).tensors if own_path else ())
            child = first_vector(
                step, [SharedPart(bundle.parameters, tuple(kept)), SharedPart(bundle.parameters)]
            )
        write_vector(Path(child_path), child)
        return {"dimension": len(child)}

    def fit_and_report(
        self,
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
        promised, digest = decode_plan(plan), plan_hash(plan)
        ready = self._ready(task, task_path, promised.level_of(device), percent)
        own = OwnRound(ready, promised, Path(own_path))
        base = own.base(read_vector(Path(model_path), promised.base))
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(os.urandom(32), "big")))
        ready.trainer.set_weights(base)
        control = None
        if promised.training.correction:
            fleet_path, control_path = map(Path, control_paths[:2])
            control = control_round(promised, own.part, device, fleet_path, control_path)
        fitted = nothing_fitted(own.part)
        if train:
            fitted = fit_update(
                ready.trainer,
                base,
                own.part,
                lambda: self._shard(ready, data_path, data),
                promised,
                rng,
                should_stop,
                self._on_progress,
                hide_faults=hide_faults,
                correction=control.correction if control else None,
            )
        update, examples = own.sent(fitted.update), fitted.examples
        kept = own.leave(
            Path(own_next_path),
            fitted,
            lambda: self._shard(ready, data_path, data)[0],
            ready.trainer,
            base,
            0.0 if promised.variants else ditto,
            rng,
            should_stop,
        )
        if promised.shared:
            source = Path(source_path).read_bytes() if source_path else b""
            shared = ring_shares(
                update, examples, promised, digest, device, rng, source, fitted.metrics, masks
            )
        else:
            told = fitted.told
            if control is not None:
                change = control.leave(Path(control_paths[2]), fitted.update, fitted.steps, rng)
                told = msgspec.structs.replace(told, control=change)
            paths = (Path(residual_path), Path(residual_next_path))
            size = own.size
            shared = clear_share(update, examples, promised, rng, *paths, told, size=size)
        answer: dict[str, Any] = {
            "ciphertexts": seal_shares(shared, promised, digest, device),
            **fitted.said,
            **kept,
            "seconds": time.perf_counter() - started,
        }
        if preview and shared.tail is not None:
            answer["preview"] = _preview(update, shared)
        return answer

    def single_shares(
        self, *, plan: bytes, device: str, own: bytes, prekeys: bytes, should_stop: Stop
    ) -> dict[str, Any]:
        """Share the device's secrets of a round of mode ``single``; ``own`` and ``prekeys`` are packed."""
        del should_stop
        return shares_for(plan, device, own, prekeys)

    def single_boxes(
        self,
        *,
        plan: bytes,
        device: str,
        own: bytes,
        prekeys: bytes,
        members: bytes,
        draws: dict[str, bytes],
        boxes: dict[str, bytes],
        should_stop: Stop,
    ) -> dict[str, Any]:
        """Open the boxes of others' shares of their secrets, in a round of mode ``single``."""
        del should_stop
        return boxes_opened(plan, device, own, prekeys, members=members, draws=draws, boxes=boxes)

    def evaluate(
        self,
        *,
        task: bytes,
        task_path: str,
        model_path: str,
        digest: bytes,
        data_path: str,
        data: bytes = b"",
        own_path: str,
        percent: int = FULL,
        should_stop: Stop,
    ) -> dict[str, Any]:
        """Count how the vector at ``model_path``, with the device's own tensors, does on held-out examples.

        A model of the device's own is counted beside it. A device that takes ``percent`` of the width counts
        with the widest variant that it takes.
        """
        del should_stop
        ready = self._ready_within(task, task_path, percent)
        own = read_own(Path(own_path))
        vector = read_vector(Path(model_path), digest)
        weights = ready.cut.cut(vector) if ready.cut else whole(ready.bundle, own, vector)
        ready.trainer.set_weights(weights)
        _, held_out = self._shard(ready, data_path, data)
        try:
            counts = ready.trainer.evaluate(held_out.x, held_out.y)
        except NonFiniteLossError:
            # Worth saying: the coordinator keeps no version that answers no numbers.
            counts = EvaluationCounts(len(held_out), 0, math.inf)
        found: dict[str, Any] = {
            "examples": counts.examples,
            "correct": counts.correct,
            "loss_sum": counts.loss_sum,
        }
        if own.personal is not None and own.personal.size == ready.bundle.dimension:
            ready.trainer.set_weights(own.personal)
            with contextlib.suppress(NonFiniteLossError):
                counts = ready.trainer.evaluate(held_out.x, held_out.y)
                found["personal"] = [counts.correct, counts.loss_sum]
        return found

    def evaluate_artefact(
        self,
        *,
        candidate_path: str,
        replaced_path: str,
        data_path: str,
        data: bytes = b"",
        task_path: str = "",
        own_path: str = "",
        should_stop: Stop,
    ) -> dict[str, Any]:
        """Count two deployable models on the same held-out examples; ``replaced_path`` may be empty.

        Both take the tensors that the device keeps at ``own_path``.
        """
        del should_stop
        replaced = Path(replaced_path) if replaced_path else None
        examples = own_examples(Path(data_path), data, task_path, held_out=True)
        counts = paired_counts(Path(candidate_path), replaced, examples, _own_tensors(own_path))
        answer: dict[str, Any] = msgspec.to_builtins(counts)
        return answer

    def count_examples(self, *, data_path: str, data: bytes, should_stop: Stop) -> dict[str, Any]:
        """Count the examples before any task is here: how many to train on, how many held out."""
        del should_stop
        settings = unpack_data(data)
        count = open_source(settings, Path(data_path)).count()
        held = held_count(count, settings.held_out)
        return {"examples": count - held, "held_out": held}

    def predict(
        self,
        *,
        artefact_path: str,
        input_path: str,
        data: bytes = b"",
        task_path: str = "",
        own_path: str = "",
        index: int,
        held_out: bool,
        should_stop: Stop,
    ) -> dict[str, Any]:
        """Return what a deployed model says of example ``index`` of a file, and the truth.

        It takes the tensors that the device keeps at ``own_path``.
        """
        del should_stop
        model = InferenceModel(Path(artefact_path), _own_tensors(own_path))
        examples = _examples_of(Path(input_path), data, task_path, index, held_out=held_out)
        found = model.predict(examples.x[index : index + 1])
        return said(found, examples, index)

    def predict_own(
        self,
        *,
        task: bytes,
        task_path: str,
        model_path: str,
        digest: bytes,
        own_path: str,
        personal: bool,
        input_path: str,
        data: bytes = b"",
        index: int,
        held_out: bool,
        should_stop: Stop,
    ) -> dict[str, Any]:
        """Answer as ``predict``, with the fleet's vector at ``model_path`` and the device's own tensors.

        With ``personal``, its own model answers. ``model_path`` is empty where there is no vector.
        """
        del should_stop
        bundle = self._ready(task, task_path).bundle
        path = Path(model_path) if model_path else None
        weights = own_weights(bundle, Path(own_path), path, digest, personal=personal)
        examples = _examples_of(Path(input_path), data, task_path, index, held_out=held_out)
        return said(infer(bundle, weights, examples.x[index : index + 1]), examples, index)

    def _ready(self, digest: bytes, path: str, level: int = 0, percent: int = FULL) -> ReadyTask:
        if self._task is None or (self._task.digest, self._task.level) != (digest, level):
            if self._task is None or self._task.digest != digest:
                self._shards.forget()
            self._task = None
            task = read_task(Path(path), digest)
            refuse_wider(task, level, percent)
            self._task = ReadyTask(task, digest, level, self._settings)
        return self._task

    def _ready_within(self, digest: bytes, path: str, percent: int) -> ReadyTask:
        """Return the task as the widest model that ``percent`` of the width allows."""
        if percent == FULL:
            return self._ready(digest, path)
        if self._within[:2] != (digest, percent):
            self._within = digest, percent, level_within(read_task(Path(path), digest), percent)
        return self._ready(digest, path, self._within[2], percent)

    def _shard(self, ready: ReadyTask, data_path: str, data: bytes) -> tuple[Examples, Examples]:
        return self._examples_for(ready.bundle, data_path, data)

    def _examples_for(self, bundle: TaskBundle, data_path: str, data: bytes) -> tuple[Examples, Examples]:
        """Return (training, held-out), read again when the source changed."""
        return self._shards.read(unpack_data(data), Path(data_path), Wanted.by(bundle))


def _examples_of(path: Path, data: bytes, task_path: str, index: int, *, held_out: bool) -> Examples:
    """Return the examples at ``path``, or their held-out part, of which ``index`` is one."""
    examples = own_examples(path, data, task_path, held_out=held_out)
    count = len(examples) if examples else 0
    if examples is None or not 0 <= index < count:
        raise UnreadableDataError(f"no example {index}: the file has {count}, counted from 0")
    return examples


def _own_tensors(path: str) -> OwnTensors:
    return read_own(Path(path)).tensors if path else {}


def _preview(update: Vector, shared: Shared) -> dict[str, Any]:
    return {
        "update": [round(float(value), 4) for value in update[shared.tail]],
        "share": list(shared.tail_words),
    }
