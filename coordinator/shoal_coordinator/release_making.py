"""Making a release: the artefact of a stored version, and the manifest that the publisher signs."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from shoal_codecs.ota.manifest import Artefact, ArtefactKind, HealthGate, Manifest, Provenance, sign_manifest
from shoal_codecs.security.identity import Identity
from shoal_codecs.wire.blob import DEFAULT_CHUNK_BYTES
from shoal_coordinator.release_errors import CalibrationFileError, PrunedVersionError
from shoal_coordinator.store import Store, VersionRecord

DAY_MS = 86_400_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What all releases of a task have in common.

    ``task_path`` is the task file, ``calibration_path`` an .npz with raw public examples x, None for none;
    ``local`` are the parameters that stay on devices; ``artefact`` is the kind of file made; ``hardware``
    names the architectures, none for all; ``valid_days`` until a release expires.
    """

    fleet: str
    task_path: Path
    calibration_path: Path | None
    local: tuple[str, ...] = ()
    artefact: ArtefactKind = "int8"
    gate: HealthGate = field(default_factory=HealthGate)
    hardware: tuple[str, ...] = ()
    valid_days: float = 30.0
    chunk_bytes: int = DEFAULT_CHUNK_BYTES


async def make_release(
    recipe: Recipe,
    store: Store,
    publisher: Identity,
    version: VersionRecord,
    release: str,
    *,
    allow_older: bool,
    now_ms: int,
) -> tuple[Manifest, bytes, bytes]:
    """Make the artefact of ``version``, keep it in ``store``; return manifest, its bytes and signature.

    Raises:
        CalibrationFileError, MissingCalibrationError: examples that are not there or cannot be used.
        InvalidTaskError, InvalidTemplateError, UnsupportedGraphError: a task no artefact can be made of.
        WeightLengthError, NonFiniteWeightsError: a version that is no model of this task.
        PrunedVersionError: the version's vector is no longer kept.
        BlobStorageError: the vector is damaged, or there is no room for the artefact.
    """
    if not store.blobs.has(version.whole.name):
        raise PrunedVersionError(
            f"the vector of version {version.number} is no longer kept: release a newer version, and raise "
            "kept_versions if old ones shall stay"
        )

    def make() -> tuple[Manifest, bytes, bytes]:
        weights = np.frombuffer(store.blobs.read(version.whole.name), "<f4").astype(np.float32)
        blob = store.blobs.put(_artefact(recipe, weights), recipe.chunk_bytes)
        manifest = Manifest(
            fleet=recipe.fleet,
            release=release,
            version=version.number,
            model=version.digest,
            parent=version.parent,
            task=version.task,
            artefacts=(Artefact(recipe.artefact, blob),),
            provenance=Provenance(version.round, version.devices, version.examples, version.accuracy),
            gate=recipe.gate,
            hardware=recipe.hardware,
            created_ms=now_ms,
            expires_ms=now_ms + int(recipe.valid_days * DAY_MS),
            allow_older=allow_older,
        )
        return manifest, *sign_manifest(manifest, publisher)

    return await asyncio.to_thread(make)


def _artefact(recipe: Recipe, weights: npt.NDArray[np.float32]) -> bytes:
    # The interpreter is heavy: a coordinator that releases nothing does without.
    from shoal_coordinator.artefacts import (  # noqa: PLC0415
        float_artefact,
        make_artefacts,
        templates_of_file,
    )

    templates = templates_of_file(recipe.task_path, recipe.local)
    if recipe.artefact == "float32":
        return float_artefact(templates, weights)
    made = make_artefacts(templates, weights, _calibration(recipe.calibration_path))
    log.info("artefact_made", bytes=len(made.int8), agreement=round(made.agreement, 4))
    return made.int8


def _calibration(path: Path | None) -> npt.NDArray[Any]:
    if path is None:
        raise CalibrationFileError(
            "this task has no calibration examples: save about a hundred public ones with "
            "numpy.savez(FILE, x=...) and name the file in the coordinator's settings (calibration), or let "
            "releases be float32 (artefact in [releases])"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            examples: npt.NDArray[Any] = archive["x"]
            return examples
    except (OSError, KeyError, ValueError, EOFError, AttributeError, TypeError) as error:
        raise CalibrationFileError(
            f"{path} holds no calibration examples x: save public ones with numpy.savez"
        ) from error
