"""``shoal-edge predict``: what the deployed model says of one example, for a person to read."""

import asyncio
from pathlib import Path
from typing import Any

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.roster import load_roster
from shoal_codecs.wire.task import decode_task
from shoal_edge.config import EdgeSettings
from shoal_edge.installer import Installed
from shoal_edge.releases import deployed
from shoal_edge.worker_client import WorkerClient

LIMIT_S = 60.0
SHOWN = 5
BAR_CHARACTERS = 30


def predict(settings: EdgeSettings, source: Path | None, index: int) -> str:
    """Return the prediction for example ``index`` of ``source``, of the held-out examples without one.

    Raises:
        NoReleaseError, DamagedSlotError: there is no model to ask.
        WorkerError: the example or the model cannot be used.
    """
    home = settings.home
    roster = load_roster(home / "roster.bin", home / "authority.pub", settings.fleet)
    installed = deployed(settings.releases, roster, settings.fleet)
    answer = asyncio.run(_ask(settings, installed.path, source, index))
    return _told(answer, installed, _labels(settings, installed), held_out=source is None, index=index)


async def _ask(settings: EdgeSettings, artefact: Path, source: Path | None, index: int) -> dict[str, Any]:
    worker = WorkerClient(idle_s=LIMIT_S)
    try:
        return await worker.request(
            "predict",
            LIMIT_S,
            artefact_path=str(artefact),
            input_path=str(source or settings.examples_path),
            index=index,
            held_out=source is None,
        )
    finally:
        await worker.close()


def _labels(settings: EdgeSettings, installed: Installed) -> tuple[str, ...]:
    """Return the task's labels; their numbers do where the task is not on this device."""
    try:
        path = settings.state / "blobs" / installed.manifest.task.hex()
        return decode_task(path.read_bytes()).labels
    except (OSError, ShoalError):
        return ()


def _told(
    answer: dict[str, Any], installed: Installed, labels: tuple[str, ...], *, held_out: bool, index: int
) -> str:
    def name(label: int) -> str:
        return labels[label] if 0 <= label < len(labels) else str(label)

    manifest = installed.manifest
    where = "held-out example" if held_out else "example"
    truth = f" (its label: {name(answer['truth'])})" if answer["truth"] >= 0 else ""
    lines = [
        f"{where} {index} of {answer['count']}{truth}",
        f"release {manifest.release}, model version {manifest.version}, {installed.kind}",
        f"prediction: {name(answer['label'])}   in {answer['seconds'] * 1000:.2f} ms",
    ]
    ranked = sorted(enumerate(answer["probabilities"]), key=lambda entry: -entry[1])
    for label, probability in ranked[:SHOWN]:
        bar = "#" * round(probability * BAR_CHARACTERS)
        lines.append(f"  {name(label):>12}  {probability:6.1%}  {bar}".rstrip())
    return "\n".join(lines) + "\n"
