"""What a device keeps and checks in mode ``single``, and how the participant walks through it."""

import asyncio
import os
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge_parts import NOW_MS, invitation_to, make_fleet, make_plan, offer_of
from shoal_codecs.secagg.single.bundles import OwnBundle, make_bundle
from shoal_codecs.secagg.single.device_messages import DeviceMemory, Split
from shoal_codecs.secagg.single.errors import (
    BundleMismatchError,
    BundleSignatureError,
    UnknownBundleError,
    WeakNeighbourhoodError,
)
from shoal_codecs.secagg.single.sharing_records import MadeShares, Neighbourly
from shoal_codecs.wire.messages import (
    AnyMessage,
    SingleConsent,
    SingleSurvivors,
    SingleUnmask,
    SingleUnmaskWanted,
)
from shoal_codecs.wire.plan import Plan, SinglePlan, encode_plan, plan_hash
from shoal_codecs.wire.single import Prekey, bitmap_of, consent_bytes, prekey_id
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import AnsweredBaseError, CohortFloorError
from shoal_edge.participant import Participant
from shoal_edge.plan_check import CODECS
from shoal_edge.round_events import (
    Cancelled,
    Deadline,
    Event,
    Failed,
    FetchModel,
    ForgetRound,
    Invited,
    Job,
    MembersKnown,
    ModelReady,
    PersistJob,
    PersistReport,
    Phase,
    PlanArrived,
    ReceiptArrived,
    ReceiptTaken,
    Restored,
    SayReply,
    SealedReport,
    SendReport,
    ShareSecrets,
    StartFit,
    StopWork,
    TakeBundle,
    Trained,
    UnsubscribePlan,
)
from shoal_edge.rounds import Rounds
from shoal_edge.single_check import check_masks_closed, check_single
from shoal_edge.single_rounds import SingleRounds, SingleWord
from shoal_edge.single_store import SingleStore
from shoal_edge.store import DeviceStore

OWN = "device-01"
FLEET = make_fleet(devices=10)
COHORT = FLEET.roster.names("device")
MODEL = offer_of(b"\0" * 4 * 9610)
REPORT = SealedReport(b"r" * 32, {"coordinator": b"masked"})


def bundle_of(device: str) -> OwnBundle:
    return make_bundle(FLEET.identities[device], FLEET.roster.fleet, os.urandom)


BUNDLES = {device: bundle_of(device) for device in COHORT}
PREKEYS = tuple(BUNDLES[device].prekey for device in COHORT)


def single_plan(prekeys: tuple[Prekey, ...] = PREKEYS, **changes: Any) -> Plan:
    number = changes.pop("round", 7)
    fields: dict[str, Any] = {"neighbours": 9, "threshold": 6, "edges": 9}
    extra = {name: changes.pop(name) for name in fields if name in changes}
    draft = make_plan(FLEET, MODEL.digest)
    ids = tuple(prekey_id(FLEET.roster.fleet, name, one) for name, one in zip(COHORT, prekeys, strict=True))
    part = SinglePlan(
        **(fields | extra),
        prekeys=ids,
        shares_ms=draft.opens_ms + 1000,
        masked_ms=draft.closes_ms - 1000,
    )
    common: dict[str, Any] = {
        "mode": "single",
        "round": number,
        "cohort": COHORT,
        "hubs": (FLEET.offer("coordinator"),),
        "n_min": 8,
        "n_max": 10,
        "quorum": 8,
        "single": part,
    }
    return msgspec.structs.replace(draft, **(common | changes))


PLAN = single_plan()
HASH = plan_hash(encode_plan(PLAN))


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> SingleStore:
    store = SingleStore(tmp_path / "single")
    store.add_bundles((BUNDLES[OWN], bundle_of(OWN)))
    return store


def again(store: SingleStore) -> SingleStore:
    return SingleStore(store._folder)


# --- the store ----------------------------------------------------------------------------------


def test_a_bundle_is_spent_once_and_goes_with_its_round(store: SingleStore) -> None:
    store.begin(PLAN, HASH, OWN, PREKEYS)
    assert [one != BUNDLES[OWN] for one in store.bundles] == [True]
    for life in (store, again(store)):
        assert life.session is not None
        assert (life.session.bundle, life.session.prekeys) == (BUNDLES[OWN], PREKEYS)
        life.begin(PLAN, HASH, OWN, PREKEYS)
        with pytest.raises(UnknownBundleError):
            life.begin(single_plan(round=8), b"8" * 32, OWN, PREKEYS)
    store.forget(b"another" * 4)
    assert store.session is not None
    store.forget(HASH)
    assert again(store).session is None
    secret = BUNDLES[OWN].mask_private
    assert not [path for path in store._folder.iterdir() if secret in path.read_bytes()]


def test_a_power_cut_between_two_writes_leaves_no_bundle_to_be_used_twice(store: SingleStore) -> None:
    before = (store._folder / "bundles.bin").read_bytes()
    store.begin(PLAN, HASH, OWN, PREKEYS)
    (store._folder / "bundles.bin").write_bytes(before)
    assert BUNDLES[OWN] not in again(store).bundles


def test_fresh_bundles_made_meanwhile_do_not_bring_a_spent_one_back(
    store: SingleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask key may be known once its round is over: it must not hide a second vector."""
    write, begun = store._write, threading.Thread(target=store.begin, args=(PLAN, HASH, OWN, PREKEYS))

    def slow_disk(name: str, value: object) -> None:
        if name == "bundles.bin" and begun.ident is None:
            begun.start()
            begun.join(0.2)
        write(name, value)

    monkeypatch.setattr(store, "_write", slow_disk)
    store.add_bundles((bundle_of(OWN),))
    begun.join()
    for life in (store, again(store)):
        life.forget(HASH)
        assert BUNDLES[OWN] not in life.bundles
        assert len(life.bundles) == 2


def test_only_the_owner_reads_secrets(store: SingleStore) -> None:
    store.begin(PLAN, HASH, OWN, PREKEYS)
    for name in ("bundles.bin", "session.bin"):
        assert stat.S_IMODE((store._folder / name).stat().st_mode) == 0o600


def test_that_masks_on_a_base_were_opened_outlives_the_round(store: SingleStore) -> None:
    base = PLAN.task + PLAN.base
    store.begin(PLAN, HASH, OWN, PREKEYS)
    store.keep(DeviceMemory(masked=True))
    assert store.opened(base) is None
    store.keep(DeviceMemory(masked=True, released=True))
    store.forget(HASH)
    assert store.opened(base) == again(store).opened(base) == HASH
    # A torn record says nothing, and is no obstacle to the next.
    log = store._folder / "opened.log"
    log.write_bytes(log.read_bytes() + b"torn")
    torn = again(store)
    assert torn.opened(base) == HASH
    torn.begin(single_plan((torn.bundles[0].prekey, *PREKEYS[1:])), b"9" * 32, OWN, PREKEYS)
    assert torn.session is not None
    torn._note_opened(msgspec.structs.replace(torn.session, base=b"b" * 64))
    assert again(store).opened(b"b" * 64) == b"9" * 32
    assert again(store).opened(base) == HASH


def test_damaged_files_are_destroyed_for_they_hold_secrets(store: SingleStore) -> None:
    store.begin(PLAN, HASH, OWN, PREKEYS)
    for name in ("bundles.bin", "session.bin"):
        path = store._folder / name
        path.write_bytes(path.read_bytes()[:-1])
    fresh = again(store)
    assert fresh.bundles == ()
    assert fresh.session is None
    assert [path for path in store._folder.iterdir() if path.is_file()] == []


async def test_secrets_of_a_round_that_is_not_gone_on_with_are_destroyed(
    store: SingleStore, tmp_path: Path
) -> None:
    """A power cut between the end of a round and the end of its secrets would leave them for good."""
    life = Life(store)
    rounds = Rounds(
        settings=EdgeSettings(name=OWN, modes=("single",)),
        post=FLEET.post(OWN),
        store=DeviceStore(tmp_path / "state", 1 << 20),
        single=life.rounds,
        clock=lambda: NOW_MS / 1000,
        on_phase=lambda _: None,
        guard=SimpleNamespace(is_quiet=False),  # type: ignore[arg-type]
        **dict.fromkeys(("link", "worker", "keeper", "evaluations", "width", "say", "note_fault")),  # type: ignore[arg-type]
    )
    store.begin(PLAN, HASH, OWN, PREKEYS)
    running = asyncio.create_task(rounds.run())
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert again(store).session is None


# --- the plan -----------------------------------------------------------------------------------


def checked(store: SingleStore, plan: Plan, prekeys: tuple[Prekey, ...] = PREKEYS, **changes: Any) -> None:
    rules: dict[str, Any] = {"corrupt_share": 0.1, "dropout_share": 0.3}
    check_single(plan, prekeys, device=OWN, roster=FLEET.roster, store=store, **(rules | changes))


def test_a_plan_that_holds_is_taken(store: SingleStore) -> None:
    checked(store, PLAN)
    assert CODECS["single"] == CODECS["hubs"]


def test_a_plan_that_hides_too_little_is_refused(store: SingleStore) -> None:
    with pytest.raises(CohortFloorError, match="insists on 7"):
        checked(store, single_plan(n_min=6))
    with pytest.raises(WeakNeighbourhoodError, match="ask for 6"):
        checked(store, single_plan(threshold=5))
    with pytest.raises(WeakNeighbourhoodError, match="ask for 7"):
        checked(store, PLAN, corrupt_share=0.3)
    with pytest.raises(WeakNeighbourhoodError):
        checked(store, single_plan(neighbours=8, edges=2, threshold=6))


def test_foreign_and_used_bundles_are_refused(store: SingleStore) -> None:
    with pytest.raises(BundleMismatchError):
        checked(store, PLAN, PREKEYS[1:])
    stolen = msgspec.structs.replace(PREKEYS[1], signature=PREKEYS[2].signature)
    with pytest.raises(BundleSignatureError):
        checked(store, PLAN, (PREKEYS[0], stolen, *PREKEYS[2:]))
    store.begin(PLAN, HASH, OWN, PREKEYS)
    with pytest.raises(UnknownBundleError):
        checked(store, PLAN)


def test_a_base_whose_masks_were_opened_is_not_answered_again(store: SingleStore) -> None:
    store.begin(PLAN, HASH, OWN, PREKEYS)
    store.keep(DeviceMemory(released=True))
    store.forget(HASH)
    other = single_plan((store.bundles[0].prekey, *PREKEYS[1:]), round=9)
    for plan in (other, make_plan(FLEET, MODEL.digest), make_plan(FLEET, MODEL.digest, mode="plain")):
        # Among hubs, or in clear, the others' second answers would show what one device added to the first.
        with pytest.raises(AnsweredBaseError):
            check_masks_closed(plan, store)


class Broker:
    """Takes what is published, as messages."""

    def __init__(self) -> None:
        self.said: list[AnyMessage] = []
        self._coordinator = FLEET.post("coordinator")

    async def publish(self, topic: str, payload: bytes, **_options: Any) -> None:
        self.said.append(self._coordinator.open(topic, payload)[1])


class Life:
    """A device that is masked and waits for the survivors, in its own folder."""

    def __init__(self, store: SingleStore) -> None:
        self.broker, self.told = Broker(), list[Event]()
        self.rounds = SingleRounds(
            settings=EdgeSettings(name=OWN, modes=("single",)),
            post=FLEET.post(OWN),
            link=self.broker,  # type: ignore[arg-type]
            store=store,
            worker=None,  # type: ignore[arg-type]
            note_fault=lambda _: None,
        )
        self.rounds.tell = self.told.append

    async def hears(self, *messages: SingleWord) -> None:
        await self.rounds.resume(JOB, reported=True)
        working = asyncio.create_task(self.rounds.run())
        for message in messages:
            self.rounds.hear(message)
            await asyncio.sleep(0.1)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def word_of(kind: type[SingleWord], **fields: Any) -> SingleWord:
    alive, dead = bitmap_of(COHORT, COHORT), bitmap_of((), COHORT)
    post = FLEET.post("coordinator")
    return post.compose(kind, round=7, plan_hash=HASH, alive=alive, dead=dead, **fields)


SHARES = MadeShares(b"s" * 32, b"c" * 32, ())
MASKED = DeviceMemory(SHARES, bitmap_of(COHORT, COHORT), Neighbourly((), {}), masked=True)
JOB = Job(invitation_to(PLAN, MODEL), PLAN, encode_plan(PLAN))
CONSENTS = {
    name: FLEET.identities[name].sign(consent_bytes(HASH, bitmap_of(COHORT, COHORT), bitmap_of((), COHORT)))
    for name in COHORT
}


async def test_nothing_is_said_that_the_disk_did_not_take(store: SingleStore) -> None:
    """Said from memory alone, a consent could be given to other sets after a restart."""
    store.begin(PLAN, HASH, OWN, PREKEYS)
    store.keep(MASKED)
    (store._folder / "session.bin.new").mkdir()
    life, survivors = Life(store), word_of(SingleSurvivors)
    await life.hears(survivors, word_of(SingleSurvivors))
    assert life.broker.said == []
    assert [type(event) for event in life.told] == [Failed]
    (store._folder / "session.bin.new").rmdir()
    life = Life(again(store))
    await life.hears(survivors)
    assert [type(message) for message in life.broker.said] == [SingleConsent]


async def test_masks_are_opened_only_once_that_is_written_down(store: SingleStore) -> None:
    """Forgotten, it would be done again for a second sum on this base."""
    store.begin(PLAN, HASH, OWN, PREKEYS)
    store.keep(msgspec.structs.replace(MASKED, consent=Split(bitmap_of(COHORT, COHORT), bytes(2))))
    (store._folder / "opened.log").mkdir()
    life = Life(store)
    await life.hears(*(word_of(SingleUnmaskWanted, signatures=CONSENTS) for _ in range(2)))
    assert life.broker.said == []
    (store._folder / "opened.log").rmdir()
    life = Life(again(store))
    await life.hears(word_of(SingleUnmaskWanted, signatures=CONSENTS))
    assert [type(message) for message in life.broker.said] == [SingleUnmask]
    assert again(store).opened(PLAN.task + PLAN.base) == HASH


async def test_what_is_kept_last_is_on_the_disk_last(
    store: SingleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The survivors may be named while it is still being written down that the vector is masked."""
    store.begin(PLAN, HASH, OWN, PREKEYS)
    store.keep(msgspec.structs.replace(MASKED, masked=False))
    keep = store.keep

    def slow_disk(memory: DeviceMemory) -> None:
        if memory.consent is None:
            time.sleep(0.1)
        keep(memory)

    monkeypatch.setattr(store, "keep", slow_disk)
    life = Life(store)
    await life.rounds.resume(JOB, reported=False)
    working = asyncio.create_task(life.rounds.run())
    masked = asyncio.create_task(life.rounds.masked(JOB))
    await asyncio.sleep(0.02)
    life.rounds.hear(word_of(SingleSurvivors))
    await asyncio.sleep(0.4)
    working.cancel()
    await asyncio.gather(masked, working, return_exceptions=True)
    assert SingleConsent in map(type, life.broker.said)
    session = again(store).session
    assert session is not None
    assert session.memory.consent is not None


async def test_masks_are_put_on_one_vector_only(store: SingleStore) -> None:
    """The difference of two vectors under the same masks is that of the updates."""
    store.begin(PLAN, HASH, OWN, PREKEYS)
    store.keep(msgspec.structs.replace(MASKED, masked=False))
    life = Life(store)
    assert life.rounds.masks(JOB)
    await life.rounds.resume(JOB, reported=True)
    for one in (life, Life(again(store))):
        with pytest.raises(UnknownBundleError):
            one.rounds.masks(JOB)


def test_masks_that_were_opened_close_the_base_in_every_mode(store: SingleStore) -> None:
    store.begin(PLAN, HASH, OWN, PREKEYS)
    store.keep(DeviceMemory(released=True))
    store.forget(HASH)
    for mode in ("hubs", "plain"):
        with pytest.raises(AnsweredBaseError):
            Life(store).rounds.check(JOB, make_plan(FLEET, MODEL.digest, mode=mode), ())


# --- the participant ----------------------------------------------------------------------------


JOB = Job(invitation_to(PLAN, MODEL), PLAN, encode_plan(PLAN))


def test_the_way_through_a_round() -> None:
    device = Participant()
    device.handle(Invited(JOB.invitation))
    arrived = PlanArrived(HASH, PLAN, JOB.plan_bytes, PREKEYS)
    assert device.handle(arrived) == [
        UnsubscribePlan(7),
        TakeBundle(JOB, PREKEYS),
        PersistJob(JOB),
        SayReply(JOB, accepted=True),
        ShareSecrets(JOB),
    ]
    assert device.phase is Phase.SHARING
    assert device.handle(MembersKnown(HASH)) == [FetchModel(JOB)]
    assert device.handle(ModelReady(HASH)) == [StartFit(JOB)]
    assert device.handle(MembersKnown(HASH)) == []
    hubs = frozenset({"coordinator"})
    assert device.handle(Trained(HASH, REPORT)) == [PersistReport(JOB, REPORT), SendReport(JOB, REPORT, hubs)]
    taken = device.handle(ReceiptArrived(HASH, "coordinator", REPORT.report_id))
    # Not over: masks are still to be opened.
    assert (taken, device.phase) == ([ReceiptTaken("coordinator")], Phase.OPENING)
    assert device.handle(ReceiptArrived(HASH, "coordinator", REPORT.report_id)) == []
    assert device.handle(Cancelled(HASH)) == [ForgetRound(HASH)]
    assert device.job is None


def test_a_restart_goes_on_from_what_was_kept() -> None:
    device = Participant()
    assert device.handle(Restored(JOB, None)) == [SayReply(JOB, accepted=True), ShareSecrets(JOB)]
    assert device.phase is Phase.SHARING
    device = Participant()
    actions = device.handle(Restored(JOB, REPORT))
    assert actions == [
        ShareSecrets(JOB, reported=True),
        SendReport(JOB, REPORT, frozenset({"coordinator"})),
    ]


@pytest.mark.parametrize("phase", [Phase.SHARING, Phase.OPENING])
def test_a_round_that_is_over_is_left_in_either_phase(phase: Phase) -> None:
    device = Participant()
    device.handle(Restored(JOB, None if phase is Phase.SHARING else REPORT))
    if phase is Phase.OPENING:
        device.handle(ReceiptArrived(HASH, "coordinator", REPORT.report_id))
    assert device.phase is phase
    actions = device.handle(Deadline(HASH))
    assert actions[-1] == ForgetRound(HASH)
    assert (StopWork(HASH) in actions) == (phase is Phase.SHARING)
