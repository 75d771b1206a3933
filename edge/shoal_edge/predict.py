"""``shoal-edge predict``: what the deployed model says of one example, for a person to read."""

import asyncio
from pathlib import Path
from typing import Any

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.roster import load_roster
from shoal_codecs.wire.task import decode_task
from shoal_edge.config import EdgeSettings
from shoal_edge.installer import Installed
from shoal_edge.own_question import own_question
from shoal_edge.pending import PendingFile
from shoal_edge.release_errors import NoReleaseError
from shoal_edge.releases import deployed
from shoal_edge.worker_client import WorkerClient

LIMIT_S = 60.0
SHOWN = 5
BAR_CHARACTERS = 30


def predict(settings: EdgeSettings, source: Path | None, index: int) -> str:
    """Return the prediction for example ``index`` of ``source``, of the held-out examples without one.

    The deployed model answers, with the tensors that the device keeps for itself, if it does; before there
    is one, the newest model with them. Where the settings say so the device's own model answers.

    Raises:
        NoReleaseError, DamagedSlotError: there is no model to ask.
        WorkerError: the example or the model cannot be used.
    """
    own = own_question(settings)
    if own is not None and (own["personal"] or not _has_release(settings)):
        answer = asyncio.run(_ask(settings, "predict_own", source, index, **own))
        word = "its own model" if own["personal"] else "the fleet's newest model with its own tensors"
        return _told(answer, word, _labels(settings, own["task"]), held_out=source is None, index=index)
    installed = _deployed(settings)
    manifest = installed.manifest
    about = {
        "artefact_path": str(installed.path),
        # A file that somebody names is taken as it is, for the model to look at.
        "task_path": "" if source else str(_task_path(settings, manifest.task)),
        "own_path": str(PendingFile(settings.state, "own").path(manifest.task)),
    }
    answer = asyncio.run(_ask(settings, "predict", source, index, **about))
    word = f"release {manifest.release}, model version {manifest.version}, {installed.kind}"
    labels = _labels(settings, manifest.task)
    return _told(answer, word, labels, held_out=source is None, index=index)


def _deployed(settings: EdgeSettings) -> Installed:
    home = settings.home
    roster = load_roster(home / "roster.bin", home / "authority.pub", settings.fleet)
    return deployed(settings.releases, roster, settings.fleet)


def _has_release(settings: EdgeSettings) -> bool:
    try:
        _deployed(settings)
    except NoReleaseError:
        return False
    return True


async def _ask(
    settings: EdgeSettings, do: str, source: Path | None, index: int, **more: Any
) -> dict[str, Any]:
    worker = WorkerClient(idle_s=LIMIT_S)
    try:
        return await worker.request(
            do,
            LIMIT_S,
            **more,
            input_path=str(source or settings.examples_path),
            data=b"" if source else settings.data.packed,
            index=index,
            held_out=source is None,
        )
    finally:
        await worker.close()


def _task_path(settings: EdgeSettings, task: bytes) -> Path:
    return settings.state / "blobs" / task.hex()


def _labels(settings: EdgeSettings, task: bytes) -> tuple[str, ...]:
    """Return the task's labels; their numbers do where the task is not on this device."""
    try:
        return decode_task(_task_path(settings, task).read_bytes()).labels
    except (OSError, ShoalError):
        return ()


def _told(answer: dict[str, Any], model: str, labels: tuple[str, ...], *, held_out: bool, index: int) -> str:
    def name(label: int) -> str:
        return labels[label] if 0 <= label < len(labels) else str(label)

    where = "held-out example" if held_out else "example"
    if "values" in answer:
        return _told_values(answer, model, f"{where} {index} of {answer['count']}")
    truth = f" (its label: {name(answer['truth'])})" if answer["truth"] >= 0 else ""
    lines = [
        f"{where} {index} of {answer['count']}{truth}",
        model,
        f"prediction: {name(answer['label'])}   in {answer['seconds'] * 1000:.2f} ms",
    ]
    ranked = sorted(enumerate(answer["probabilities"]), key=lambda entry: -entry[1])
    for label, probability in ranked[:SHOWN]:
        bar = "#" * round(probability * BAR_CHARACTERS)
        lines.append(f"  {name(label):>12}  {probability:6.1%}  {bar}".rstrip())
    return "\n".join(lines) + "\n"


def _told_values(answer: dict[str, Any], model: str, where: str) -> str:
    def listed(values: list[float]) -> str:
        shown = ", ".join(f"{value:.4g}" for value in values[:SHOWN])
        return shown + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")

    truth = f" (its values: {listed(answer['true_values'])})" if answer["true_values"] else ""
    answered = f"prediction: {listed(answer['values'])}   in {answer['seconds'] * 1000:.2f} ms"
    return "\n".join((where + truth, model, answered)) + "\n"
