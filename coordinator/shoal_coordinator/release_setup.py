"""Releases as the coordinator's settings describe them."""

from collections.abc import Callable

import structlog

from shoal_codecs.ota.manifest import HealthGate
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.roster import Roster
from shoal_codecs.transport.blobs import BlobPublisher
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.config import CoordinatorSettings
from shoal_coordinator.registry import Registry
from shoal_coordinator.release_errors import PublisherKeyError
from shoal_coordinator.release_making import Recipe
from shoal_coordinator.releases import ReleaseService
from shoal_coordinator.rollout_steps import RolloutRules
from shoal_coordinator.store import Store

PUBLISHER_KEY = "publisher.key"

log = structlog.get_logger()


def make_releases(
    settings: CoordinatorSettings,
    roster: Roster,
    registry: Registry,
    announcer: Announcer,
    blobs: BlobPublisher,
    store: Store,
    clock_ms: Callable[[], int],
    local: tuple[str, ...] = (),
) -> ReleaseService | None:
    """Return the releases of this coordinator, None where it has no ``publisher.key``.

    ``local`` names the parameters that stay on devices.

    Raises:
        PublisherKeyError: the key is not the publisher's of the roster.
        BadKeyFileError, BadRosterError: key or roster cannot be used.
        MalformedManifestError: a gate that no publisher means.
    """
    path = settings.party_folder / PUBLISHER_KEY
    if not path.exists():
        log.info("no releases from here: no publisher key", path=str(path))
        return None
    party = roster.sole("publisher")
    publisher = load_identity(party.name, path)
    if publisher.public != party.key:
        raise PublisherKeyError(f"{path} is not the key that the roster names: sign a new roster with it")
    return ReleaseService(
        recipe=recipe_of(settings, local),
        rules=rules_of(settings),
        publisher=publisher,
        announcer=announcer,
        blobs=blobs,
        store=store,
        registry=registry,
        clock_ms=clock_ms,
    )


def rules_of(settings: CoordinatorSettings, resend_ms: int = 5_000) -> RolloutRules:
    """Return the rollout's rules as the coordinator's settings say them."""
    said = settings.releases
    return RolloutRules(
        min_examples=said.min_examples,
        failure_share=said.failure_share,
        report_ms=int(said.report_s * 1000),
        resend_ms=resend_ms,
    )


def recipe_of(settings: CoordinatorSettings, local: tuple[str, ...] = ()) -> Recipe:
    """Return what all releases have in common as the coordinator's settings say it.

    Raises:
        MalformedManifestError: a gate that no publisher means.
    """
    said = settings.releases
    gate = HealthGate(
        min_examples=said.min_examples,
        significance=said.significance,
        floor_accuracy=said.floor_accuracy,
        max_latency_ms=said.max_latency_ms,
        time_limit_s=said.health_s,
    )
    return Recipe(
        fleet=settings.fleet,
        task_path=settings.task_path,
        calibration_path=settings.calibration_path,
        local=local,
        artefact=said.artefact,
        gate=gate,
        valid_days=said.valid_days,
    )
