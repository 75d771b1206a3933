"""How a coordinator is put together from its settings, and run."""

import asyncio
import os
import random
import time
from pathlib import Path

import msgspec
import structlog

from shoal_codecs.lifecycle import run_until_stopped
from shoal_codecs.logs import configure_logs
from shoal_codecs.security.identity import Identity, load_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Roster, load_roster
from shoal_codecs.transport.blobs import BlobPublisher
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.retained import RetainedShelf
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.step import encode_step, initial_step
from shoal_codecs.wire.task import TaskBundle, decode_task, initial_weights
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.aggregation import Server, vector_bytes
from shoal_coordinator.algorithms.choosing import chosen_algorithm, weight_cap
from shoal_coordinator.algorithms.stability import stability_of
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.byte_budget import ByteDays
from shoal_coordinator.byte_desk import ByteDesk
from shoal_coordinator.certificates import CertificateBook
from shoal_coordinator.chains import ModelVersion, with_step
from shoal_coordinator.commands import CommandBook
from shoal_coordinator.config import CoordinatorSettings, PrivacySettings, RoundSettings
from shoal_coordinator.controls import Controls
from shoal_coordinator.coordinator import CoordinatorService
from shoal_coordinator.fleet_desk import FleetDesk
from shoal_coordinator.late_reports import LateReports
from shoal_coordinator.ledger import Ledger
from shoal_coordinator.level_desk import level_desk
from shoal_coordinator.models import ModelShelf
from shoal_coordinator.opening import Opening
from shoal_coordinator.organs import Organs
from shoal_coordinator.plannable import price_of_a_round, refuse_unplannable
from shoal_coordinator.planning import RING_LEVELS, PlanSettings, refuse_mode
from shoal_coordinator.prekey_desk import PrekeyDesk
from shoal_coordinator.privacy_book import PrivacyBook
from shoal_coordinator.privacy_desk import PrivacyDesk
from shoal_coordinator.privacy_terms import make_terms
from shoal_coordinator.pruning import Pruner
from shoal_coordinator.registry import Registry
from shoal_coordinator.release_setup import make_releases
from shoal_coordinator.round_errors import TaskFileError
from shoal_coordinator.round_rules import refuse_rounds
from shoal_coordinator.round_steps import RoundTimings
from shoal_coordinator.schedule import Schedule
from shoal_coordinator.selection import SelectionRules
from shoal_coordinator.store import Store, VersionRecord
from shoal_coordinator.told import ClipRule, ToldBook
from shoal_coordinator.traffic import TrafficMeter

log = structlog.get_logger()
GATHER_MS = 5_000
SHARE_ALL = ("none",)
"""As ``rounds.local``: every parameter is shared, whatever the task says."""
KEPT_SHARE, CLIP_NORM, WEIGHT_CAP = 0.05, 8.0, 150
"""Where neither the settings nor the task say anything."""


async def run_coordinator(settings: CoordinatorSettings) -> None:
    """Run the coordinator until a signal, or until the parent that holds its standard input is gone.

    Raises:
        ShoalError: key, roster, task or store cannot be used; the text says what to do.
    """
    configure_logs(settings.log_level)
    await run_until_stopped(serve(settings), stop_on_stdin_eof=settings.stop_on_stdin_eof)


async def serve(settings: CoordinatorSettings) -> None:
    """Put the coordinator together and run it until cancelled."""
    folder, data = settings.party_folder, settings.data_folder
    # First, for who starts it in a wrong place finds nothing left there.
    load_identity(settings.name, folder / "identity.key")
    load_roster(folder / "roster.bin", folder / "authority.pub", settings.fleet)
    await asyncio.to_thread(_read_task, settings.task_path)
    is_new = not data.exists()
    store = await Store.open(data, 1024 * settings.chunk_kib)
    if is_new:
        log.info("data folder made", folder=str(data.resolve()))
    try:
        await CoordinatorService(await make_organs(settings, store)).run()
    finally:
        await store.close()


async def make_organs(settings: CoordinatorSettings, store: Store) -> Organs:
    """Return the parts of the coordinator that ``settings`` describe, its model loaded or newly made."""
    folder = settings.party_folder
    identity = load_identity(settings.name, folder / "identity.key")
    roster = load_roster(folder / "roster.bin", folder / "authority.pub", settings.fleet)
    topics = Topics(settings.fleet, settings.prefix)
    post = Post(topics, identity, roster)
    link = Link(_link_settings(settings), topics.client_id(identity.name), rng=random.Random())
    shelf = RetainedShelf(link, topics.coordinator("beacon"), os.urandom(8).hex())
    announcer = Announcer(link, post)
    task_bytes, bundle = await asyncio.to_thread(_read_task, settings.task_path)
    task_ref = await asyncio.to_thread(store.blobs.put, task_bytes)
    algorithm = chosen_algorithm(settings.rounds, bundle)
    plans = plan_settings(settings, bundle, len(roster.names("device")))
    part = SharedPart(bundle.parameters, plans.local)
    levels, unused = level_desk(settings.rounds, plans, bundle, algorithm)
    if unused:
        log.warning("variants unused", remedy=unused)
    # Here, and not at each round, where only the log would tell.
    refuse_mode(plans, len(roster.names("hub")))
    if plans.privacy is None:
        # With noise, the budget is looked at first.
        invited = settings.rounds.invited(len(roster.names("device")))
        refuse_unplannable(plans, part.dimension, max(invited, plans.minimum, plans.buffer))
    publisher = BlobPublisher(link, topics, store.blobs, shelf)
    models = ModelShelf(publisher, announcer, task_ref, settings.rounds.longest_chain)
    models.start(await _versions(store, settings, part, task_ref))
    controls = None
    if "control" in plans.tells:
        controls = await asyncio.to_thread(Controls, store.blobs, models.newest)
    traffic = TrafficMeter()
    byte_desk = ByteDesk(
        ByteDays(settings.rounds.bytes_per_day, settings.rounds.device_bytes_per_day),
        plans,
        part.dimension,
        hubs=len(roster.names("hub")),
        pause_ms=int(settings.rounds.pause_s * 1000),
        store=store,
        announcer=announcer,
    )
    await byte_desk.load()
    devices = roster.names("device")
    book = await _privacy_book(plans, store, task_ref.digest, part.dimension, len(devices))
    cohort = settings.rounds.invited(len(devices)) if settings.rounds.cohort_max else 0
    privacy = PrivacyDesk(book, devices, cohort, settings.rounds.minimum)
    told = ToldBook(store, _clip_rule(settings.rounds.privacy), plans.clip_norm)
    await told.load()
    ledger = Ledger(store, task_ref.digest, now_ms, traffic.close_round, book.committed, told.told)
    await ledger.load()
    registry = Registry(roster, settings.heartbeat_s)
    fleet = FleetDesk(registry, _rules(settings.rounds, plans.buffer), store, announcer, random.Random())
    await fleet.load()
    for version in await store.versions():
        fleet.know_version(version.digest[:8], version.number)
    releases = make_releases(settings, roster, registry, announcer, publisher, store, now_ms, plans.local)
    if releases is not None:
        await releases.load()
    certificates = CertificateBook(store, roster)
    await certificates.load()
    target = await ledger.target(settings.rounds.target_version)
    if models.newest.number == 0:
        privacy.refuse_rounds(target)
    return Organs(
        identity=identity,
        post=post,
        roster=roster,
        link=link,
        shelf=shelf,
        announcer=announcer,
        blobs=store.blobs,
        models=models,
        pruner=Pruner(store, publisher, settings.rounds.kept_versions),
        ledger=ledger,
        privacy=privacy,
        told=told,
        fleet=fleet,
        schedule=Schedule(target, pause_ms=int(settings.rounds.pause_s * 1000)),
        levels=levels,
        opening=Opening(
            plans,
            identity,
            roster,
            models,
            part.dimension,
            clip_norm=told.clip_norm,
            rate=settings.rounds.device_schedule.at,
            control=controls.of if controls else None,
            gather_ms=GATHER_MS,
            clock_ms=now_ms,
        ),
        traffic=traffic,
        bytes=byte_desk,
        commands=CommandBook(store, now_ms),
        certificates=certificates,
        prekeys=PrekeyDesk(roster),
        timings=RoundTimings(evaluate_ms=int(settings.rounds.evaluation_s * 1000)),
        folder=settings.data_folder,
        dimension=part.dimension,
        server=Server(
            settings.rounds.server_learning_rate or algorithm.rate,
            settings.rounds.level_rms,
            algorithm,
            schedule=settings.rounds.server_schedule,
        ),
        controls=controls,
        late=_late_reports(settings, plans, identity, roster),
        stability=stability_of(
            settings.rounds.stability,
            [
                (one.update_norm, one.median_loss)
                for one in await store.versions(settings.rounds.stability.window)
            ],
        ),
        status_s=settings.status_s,
        clock_ms=now_ms,
        releases=releases,
    )


def _clip_rule(privacy: PrivacySettings) -> ClipRule:
    return ClipRule(quantile=privacy.clip_quantile, rate=privacy.clip_rate)


def plan_settings(settings: CoordinatorSettings, bundle: TaskBundle, fleet: int) -> PlanSettings:
    """Return what every plan has in common; where the settings say nothing, the task does.

    ``fleet`` devices are enrolled.

    Raises:
        InvalidRoundPlanError, FleetTooSmallError: a privacy budget that cannot be meant, DP-SGD that the task
            cannot do, or keys that rounds of this mode do not read.
    """
    rounds, task = settings.rounds, bundle.defaults
    refuse_rounds(rounds, bundle)
    algorithm = chosen_algorithm(rounds, bundle)
    clamp, range_factor = RING_LEVELS[rounds.levels]
    return PlanSettings(
        fleet=settings.fleet,
        mode=rounds.mode,
        codec=rounds.codec,
        kept_share=rounds.kept_share or task.kept_share or KEPT_SHARE,
        clip_norm=rounds.clip_norm or task.clip_norm or CLIP_NORM,
        clamp=rounds.clamp or clamp,
        range_factor=rounds.range_factor or range_factor,
        weight_cap=weight_cap(algorithm, rounds.weight_cap or task.weight_cap or WEIGHT_CAP),
        epochs=rounds.epochs or task.epochs,
        learning_rate=rounds.learning_rate or task.learning_rate,
        batch_size=rounds.batch_size or task.batch_size,
        example_clip=rounds.example_clip,
        example_noise=rounds.example_noise,
        ditto=rounds.ditto,
        local=() if rounds.local == SHARE_ALL else rounds.local or bundle.local,
        algorithm=algorithm.name,
        refused_codecs=algorithm.refused_codecs,
        mu=rounds.mu or task.mu,
        even_steps=algorithm.even_steps(rounds.mode),
        tells=algorithm.asks(rounds.mode),
        buffer=algorithm.buffer(rounds.minimum),
        minimum=rounds.minimum,
        floor_share=rounds.floor_share,
        norm_check=rounds.norm_check,
        quorum_share=rounds.quorum_share,
        patience_ms=int(rounds.patience_s * 1000),
        window_ms=int(rounds.window_s * 1000),
        clock_slack_ms=int(rounds.clock_slack_s * 1000),
        corrupt_share=rounds.corrupt_share,
        dropout_share=rounds.dropout_share,
        shares_ms=int(rounds.shares_s * 1000),
        unmask_ms=int(rounds.unmask_s * 1000),
        privacy=make_terms(rounds.privacy, rounds.mode, fleet, rounds.invited(fleet)),
    )


async def _privacy_book(
    plans: PlanSettings, store: Store, task: bytes, dimension: int, fleet: int
) -> PrivacyBook:
    """Return the copy of the devices' ledgers.

    Raises:
        BudgetExceededError, BudgetUnreachableError: the noise that is asked for does not keep the budget.
        InvalidRoundPlanError: it makes no plan.
    """
    charge = price_of_a_round(plans, dimension, fleet) if plans.privacy is not None else None
    book = PrivacyBook(store, task, now_ms, plans.privacy, charge)
    await book.load()
    return book


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return int(time.time() * 1000)


async def _versions(
    store: Store, settings: CoordinatorSettings, part: SharedPart, task: BlobRef
) -> list[ModelVersion]:
    """Return the newest stored versions; the first start makes version 0 of the task's initial weights.

    Raises:
        TaskFileError: the store belongs to another task.
    """
    record = await store.latest_version()
    if record is None:
        data = vector_bytes(part.of(initial_weights(part.parameters, settings.initial_seed)))
        ref = await asyncio.to_thread(store.blobs.put, data)
        record = VersionRecord(
            number=0,
            digest=ref.digest,
            parent=b"",
            step=store.blobs.put(encode_step(initial_step(settings.initial_seed, ref.digest))),
            round=0,
            task=task.digest,
            whole=ref,
            created_ms=now_ms(),
        )
        await store.add_first_version(record)
        log.info("first version made", version=0, parameters=part.dimension)
    if record.whole.size != 4 * part.dimension:
        raise TaskFileError(
            f"the stored model has {record.whole.size // 4} weights, the task shares {part.dimension}: "
            "give this task a data folder of its own"
        )
    return [
        with_step(
            ModelVersion(
                one.number,
                one.digest,
                one.whole,
                one.parent,
                one.step,
                state=one.state,
                update_norm=one.update_norm,
            ),
            store.blobs,
        )
        for one in await store.versions(settings.rounds.longest_chain + 1)
    ]


def _read_task(path: Path) -> tuple[bytes, TaskBundle]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskFileError(
            f"cannot read the task {path.absolute()} ({error.strerror}): set `task` to a file or a name"
        ) from error
    return data, decode_task(data, path)


def _late_reports(
    settings: CoordinatorSettings, plans: PlanSettings, identity: Identity, roster: Roster
) -> LateReports | None:
    """Return what hears late reports, None where rounds wait for all."""
    if not plans.buffer:
        return None
    folder = settings.data_folder / "plain"
    return LateReports(identity, roster, folder, settings.rounds.algorithm.staleness_limit)


def _rules(rounds: RoundSettings, buffer: int) -> SelectionRules:
    return SelectionRules(
        minimum=max(rounds.minimum, buffer),
        cohort_max=rounds.cohort_max,
        over_selection=rounds.over_selection,
        min_examples=rounds.min_examples,
        min_memory_mib=rounds.min_memory_mib,
    )


def _link_settings(settings: CoordinatorSettings) -> LinkSettings:
    link = settings.link
    return link if link.username else msgspec.structs.replace(link, username=settings.name)
