"""The coordinator's parts of mode ``single``: bundles, files, plans, and its round machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shoal_codecs.secagg.single.device_messages import Split
from shoal_codecs.secagg.single.errors import LostWordsError
from shoal_codecs.secagg.single.opening_records import Answer
from shoal_codecs.secagg.single.parameters import Neighbourhood, check_neighbourhood
from shoal_codecs.secagg.single.server_memory import sound_memory
from shoal_codecs.secagg.single.server_messages import (
    KeepAnswer,
    KeepAsked,
    KeepConsent,
    KeepMembers,
    KeepShares,
    KeepSplit,
    PublishedShares,
    ServerMemory,
    ServerTerms,
)
from shoal_codecs.wire.messages import Prekeys
from shoal_codecs.wire.plan import HubOffer, Plan, encode_plan
from shoal_codecs.wire.single import BOX_BYTES, bitmap_of, prekey_signing_bytes
from shoal_coordinator import round_steps as on
from shoal_coordinator.plannable import refuse_unplannable
from shoal_coordinator.planning import PlanSettings, make_plan
from shoal_coordinator.prekey_desk import PrekeyDesk
from shoal_coordinator.round import RoundMachine
from shoal_coordinator.round_errors import CohortTooSmallError, InvalidRoundPlanError
from shoal_coordinator.single_files import SingleFiles
from single_bench import make_cohort, names
from wire_parts import FLEET, NOW_MS

COHORT = make_cohort(10, n_min=7)
OFFER = HubOffer("coordinator", bytes(32), bytes(32))
SETTINGS = PlanSettings(fleet=FLEET, mode="single", dropout_share=0.3, floor_share=0.5, minimum=3)


# --- bundles ------------------------------------------------------------------------------------


def parked(device: str, *bundles: Any) -> Prekeys:
    return Prekeys(protocol=1, sender=device, message_id=bytes(8), sent_ms=NOW_MS, bundles=bundles)


def test_a_bundle_is_chosen_once_and_only_if_its_device_signed_it() -> None:
    one, two, three = names(10)[:3]
    keys = {name: COHORT.bundles[name].prekey for name in names(10)}
    desk = PrekeyDesk(COHORT.roster)
    assert desk.choose(names(10)) == {}
    forged = msgspec.structs.replace(keys[two], signature=keys[one].signature)
    desk.hear(parked(one, keys[one]))
    desk.hear(parked(two, forged, keys[two]))
    desk.hear(parked(three, keys[one]))
    assert desk.choose(names(10)) == {one: keys[one], two: keys[two]}
    desk.spend({one: keys[one]})
    assert desk.choose([one, two]) == {two: keys[two]}
    # A device's newest word replaces the one before.
    desk.hear(parked(two))
    assert desk.choose([one, two]) == {}


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), bytes(31) + b"\x80"])
@pytest.mark.parametrize("field", ["mask_key", "seal_key"])
def test_a_key_nobody_can_agree_on_anything_with_is_left_out(point: bytes, field: str) -> None:
    """Everybody who drew such a device would fail, and the round with them."""
    one = names(10)[0]
    keys = msgspec.structs.replace(COHORT.bundles[one].prekey, **{field: point})
    signed = prekey_signing_bytes(FLEET, one, keys)
    keys = msgspec.structs.replace(keys, signature=COHORT.identities[one].sign(signed))
    desk = PrekeyDesk(COHORT.roster)
    desk.hear(parked(one, keys, COHORT.bundles[one].prekey))
    assert desk.choose([one]) == {one: COHORT.bundles[one].prekey}


# --- files --------------------------------------------------------------------------------------


def test_what_was_told_outlives_the_process(tmp_path: Path) -> None:
    files = SingleFiles(tmp_path / "round")
    assert files.memory() == ServerMemory()
    assert files.prekeys() == ()
    files.begin(COHORT.prekeys)
    shares = PublishedShares(b"d" * 32, b"s" * 32, (b"box",))
    answer = Answer(b"o" * 32, {"device-002": b"h" * 32})
    split = Split(b"\x01", b"\x02")
    for action in (
        KeepShares("device-001", shares),
        KeepMembers(b"\x03"),
        KeepSplit(split),
        KeepConsent("device-001", b"c" * 64),
        KeepAnswer("device-001", answer),
        KeepAsked(),
    ):
        files.keep(action)
    expected = ServerMemory(
        {"device-001": shares},
        b"\x03",
        split,
        asked=True,
        consents={"device-001": b"c" * 64},
        answers={"device-001": answer},
    )
    assert SingleFiles(tmp_path / "round").memory() == expected
    assert files.prekeys() == COHORT.prekeys
    (tmp_path / "round" / "shares" / "device-001").write_bytes(b"noise")
    assert files.memory().shares == {}
    files.clear()
    assert files.memory() == ServerMemory()


# --- plans --------------------------------------------------------------------------------------


def planned(size: int, settings: PlanSettings = SETTINGS, **changes: Any) -> Plan:
    cohort = make_cohort(size, n_min=size) if size > 2 else COHORT
    fields: dict[str, Any] = {
        "number": 1,
        "task": bytes(32),
        "base": bytes(32),
        "roster": bytes(32),
        "dimension": 100,
        "cohort": names(size),
        "offers": {"coordinator": OFFER},
        "hubs": ("coordinator",),
        "now_ms": NOW_MS,
        "prekeys": {name: one.prekey for name, one in cohort.bundles.items()},
    }
    return make_plan(settings, **(fields | changes))


@pytest.mark.parametrize(("size", "floor"), [(4, 3), (10, 7), (20, 14), (64, 45), (100, 70)])
def test_a_plan_keeps_what_devices_insist_on(size: int, floor: int) -> None:
    plan = planned(size)
    single = plan.single
    assert single is not None
    assert plan.n_min == floor
    assert (single.neighbours == size - 1) == (size <= 64 or single.neighbours == size - 1)
    found = Neighbourhood(single.neighbours, single.threshold)
    check_neighbourhood(size, found, single.edges, 0.1, size - plan.n_min)
    assert plan.codec.ring_bits > 0
    assert (single.shares_ms, single.masked_ms) == (NOW_MS + 15_000, NOW_MS + 45_000)


def test_a_cohort_that_cannot_keep_secrets_waits_for_more() -> None:
    lacking = {name: one.prekey for name, one in COHORT.bundles.items() if name != "device-003"}
    with pytest.raises(CohortTooSmallError, match="device-003 has parked no key bundle"):
        planned(10, prekeys=lacking)
    with pytest.raises(CohortTooSmallError, match="cannot keep a secret"):
        planned(10, msgspec.structs.replace(SETTINGS, corrupt_share=0.5))
    with pytest.raises(CohortTooSmallError):
        planned(2, msgspec.structs.replace(SETTINGS, minimum=2))
    with pytest.raises(InvalidRoundPlanError, match="too short for its phases"):
        planned(10, msgspec.structs.replace(SETTINGS, window_ms=25_000))
    refuse_unplannable(SETTINGS, 100, 10)


# --- the round machine --------------------------------------------------------------------------


def machine(snapshot: on.RoundSnapshot | None = None) -> RoundMachine:
    return RoundMachine(encode_plan(COHORT.plan), on.RoundTimings(), snapshot)


def collecting() -> RoundMachine:
    made = machine()
    made.handle(on.Begun(), NOW_MS)
    return made


def test_the_round_waits_for_its_masks() -> None:
    made = collecting()
    for device in names(10):
        assert made.handle(on.ReportStored(device), NOW_MS) == []
    assert made.state == "collecting"
    (kept,) = made.handle(on.SurvivorsNamed(), NOW_MS)
    assert isinstance(kept, on.Persist)
    assert made.state == "summing"
    assert made.handle(on.DeviceReplied("device-001", accepted=False), NOW_MS) == []
    assert made.handle(on.SurvivorsNamed(), NOW_MS) == []
    assert made.handle(on.MasksOpened(names(9)), NOW_MS) == [on.Aggregate(names(9), b"", {})]
    assert made.facts.members == names(9)


def test_a_round_that_is_given_up_before_masks_open_is_aborted() -> None:
    for made in (collecting(), collecting()):
        made.handle(on.SurvivorsNamed(), NOW_MS)
        (aborted,) = made.handle(on.GivenUp("nobody consented"), NOW_MS)
        assert isinstance(aborted, on.Abort)
        assert made.finished


def test_a_restart_collects_again_until_the_desk_says_more() -> None:
    snapshot = on.RoundSnapshot(state=on.RoundState.SUMMING, plan=encode_plan(COHORT.plan))
    made = machine(snapshot)
    actions = made.handle(on.Restored(), NOW_MS)
    assert [type(action) for action in actions] == [on.PublishPlan, on.Invite]
    assert made.handle(on.MasksOpened(names(8)), NOW_MS)[0] == on.Aggregate(names(8), b"", {})


# --- from outside, and damaged ------------------------------------------------------------------


def test_what_is_parked_is_bounded_and_holds_keys() -> None:
    one = names(10)[0]
    good, desk = COHORT.bundles[one].prekey, PrekeyDesk(COHORT.roster)
    odd = [msgspec.structs.replace(good, **{name: bytes(n)}) for name, n in (
        ("mask_key", 31), ("seal_key", 0), ("draw", 100_000), ("signature", 63))]  # fmt: skip
    desk.hear(parked(one, *odd, good))
    assert desk.choose([one]) == {one: good}
    forged = [msgspec.structs.replace(good, draw=number.to_bytes(32, "big")) for number in range(10_000)]
    desk.hear(parked(one, *forged))
    assert desk.choose([one]) == {}
    # A bundle that was used stays so as long as it is shown, and strangers park nothing.
    desk.hear(parked(one, good))
    desk.spend({one: good})
    desk.hear(parked(one, good))
    desk.hear(parked("stranger", good))
    assert desk.choose([one, "stranger"]) == {}


def kept() -> tuple[ServerTerms, ServerMemory]:
    """A memory in which all ten shared, eight survived, and masks may be open."""
    terms = ServerTerms(COHORT.plan, COHORT.plan_hash, COHORT.prekeys, COHORT.keys)
    cohort, single = COHORT.plan.cohort, COHORT.plan.single
    assert single is not None
    boxes = tuple(bytes(BOX_BYTES) for _ in range(single.neighbours))
    shares = {name: PublishedShares(COHORT.bundles[name].nonce, bytes(32), boxes) for name in cohort}
    split = Split(bitmap_of(cohort[:8], cohort), bitmap_of(cohort[8:], cohort))
    consents = {name: bytes(64) for name in cohort[:8]}
    answers = {name: Answer(bytes(32), {cohort[9]: bytes(32)}) for name in cohort[:3]}
    members = bitmap_of(cohort, cohort)
    return terms, ServerMemory(shares, members, split, asked=True, consents=consents, answers=answers)


def test_a_sound_memory_stays_as_it_is_and_strangers_words_go() -> None:
    terms, memory = kept()
    assert sound_memory(terms, memory) == memory
    strange = replace(
        memory,
        shares={**memory.shares, "stranger": memory.shares[names(10)[0]]},
        consents={**memory.consents, names(10)[9]: bytes(64)},
        answers={**memory.answers, names(10)[4]: Answer(bytes(31), {})},
    )
    assert sound_memory(terms, strange) == memory
    early = ServerMemory(shares={names(10)[0]: PublishedShares(b"x" * 32, bytes(32), ())})
    assert sound_memory(terms, early) == ServerMemory()


@pytest.mark.parametrize(
    "damage",
    [
        {"members": b"\xff"},
        {"members": b""},
        {"split": Split(b"\xff\x00", b"\xff\xff")},
        {"split": Split(b"\xff\x00", b"\x00\x01")},
        {"split": Split(b"x", b"y")},
        {"split": None},
        {"shares": {}},
    ],
    ids=str,
)
def test_a_memory_that_does_not_carry_what_was_decided_is_lost(damage: dict[str, Any]) -> None:
    terms, memory = kept()
    with pytest.raises(LostWordsError, match="restore the coordinator's folder"):
        sound_memory(terms, replace(memory, **damage))
