"""A device that declines again and again is asked less often; a reply to no open round is refused."""

import os
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import wire_parts
from shoal_codecs.secagg.single.bundles import make_bundle
from shoal_codecs.wire.errors import OutOfRoundError
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.messages import DeviceStatus, Prekeys, Reply
from shoal_codecs.wire.plan import encode_plan, plan_hash
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.declines import Declines
from shoal_coordinator.device_words import check_round
from shoal_coordinator.fleet_desk import FleetDesk
from shoal_coordinator.prekey_desk import PrekeyDesk
from shoal_coordinator.registry import Registry
from shoal_coordinator.round_runner import RoundRunner
from shoal_coordinator.selection import NotEnoughDevicesError, SelectionRules
from shoal_coordinator.store import Store

DEVICES = ("device-01", "device-02", "device-03")


class Silent:
    """Says nothing."""

    def event(self, *_: Any, **__: Any) -> None: ...

    def device(self, *_: Any, **__: Any) -> None: ...


@pytest.fixture
async def store(tmp_path: Path) -> Any:
    opened = await Store.open(tmp_path)
    yield opened
    await opened.close()


def desk_with(store: Store, minimum: int, most: int = 0) -> FleetDesk:
    registry = Registry(wire_parts.roster(), 5.0)
    rules = SelectionRules(minimum=minimum, cohort_max=most)
    desk = FleetDesk(registry, rules, store, cast("Announcer", Silent()), random.Random(1))
    for device in DEVICES:
        status = wire_parts.post(device).compose(DeviceStatus, online=True, session=b"s" * 8)
        desk.hear_status(status, wire_parts.NOW_MS)
        registry.note(device, Reading.EXAMPLES, 40)
    return desk


def invited_while_declining(desk: FleetDesk, rounds: int) -> list[int]:
    """Return the rounds to which ``device-02`` was invited, which declines every time."""
    invited = []
    for number in range(1, rounds + 1):
        cohort = desk.cohort(number - 1)
        assert {"device-01", "device-03"} <= set(cohort)
        if "device-02" in cohort:
            invited.append(number)
            desk.replied("device-02", number, accepted=False, reason="no\x1b[2J memory")
        desk.replied("device-01", number, accepted=True)
    return invited


async def test_who_always_declines_is_asked_less_and_less_often(store: Store) -> None:
    assert invited_while_declining(desk_with(store, 2), 130) == [1, 2, 4, 8, 16, 32, 64, 96, 128]


async def test_an_operator_sees_who_declines_for_what_and_how_long_it_rests(store: Store) -> None:
    desk = desk_with(store, 2)
    invited_while_declining(desk, 9)
    row = next(row for row in desk.rows() if row.name == "device-02")
    assert (row.declined, row.declined_for, row.rests_until) == (4, "no[2J memory", 15)
    assert all(other.declined == other.rests_until == 0 for other in desk.rows() if other != row)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("NoExamplesError: nothing in /srv/wards/7/examples.npz: see to it", "NoExamplesError"),
        ("NoExamplesError", "NoExamplesError"),
        ("not now: the boiler is on", "not now: the boiler is on"),
        ("", ""),
    ],
)
def test_the_picture_that_everybody_reads_names_a_fault_and_not_the_device_s_files(
    reason: str, shown: str
) -> None:
    declines = Declines()
    declines.declined("device-02", 4, reason)
    assert declines.of("device-02").reason == shown


async def test_who_started_again_is_asked_again_at_once(store: Store) -> None:
    """What it declined for may be mended."""
    desk = desk_with(store, 2)
    invited_while_declining(desk, 8)
    assert "device-02" not in desk.cohort(9)
    again = wire_parts.post("device-02").compose(DeviceStatus, online=True, session=b"t" * 8)
    assert desk.hear_status(again, wire_parts.NOW_MS + 1)[1]
    assert "device-02" in desk.cohort(9)


async def test_one_round_is_declined_once_however_often_a_device_says_so(store: Store) -> None:
    """Who comes back in a round is invited to it again, and declines it again."""
    desk = desk_with(store, 2)
    for reason in ("first", "second", "third"):
        desk.replied("device-02", 4, accepted=False, reason=reason)
    row = next(row for row in desk.rows() if row.name == "device-02")
    assert (row.declined, row.declined_for, row.rests_until) == (1, "third", 4)
    assert "device-02" in desk.cohort(4)


async def test_a_pass_does_not_wait_for_a_device_that_no_round_is_narrow_enough_for(store: Store) -> None:
    """With `widths` off, say: whose turn it is was then left to chance for good."""
    desk = desk_with(store, 1, most=1)
    desk.registry.note("device-02", Reading.WIDTH, 50)
    times = Counter[str]()
    for ended in range(20):
        cohort = desk.cohort(ended)
        desk.chosen(cohort)
        times.update(cohort)
    assert times == {"device-01": 10, "device-03": 10}


async def test_devices_without_key_bundles_keep_no_round_from_opening(store: Store) -> None:
    """They never had a turn, so that they were first each time, and too few were left of each cohort."""
    desk, prekeys = desk_with(store, 2, most=2), PrekeyDesk(wire_parts.roster())
    assert prekeys.unbundled() >= set(DEVICES)
    with pytest.raises(NotEnoughDevicesError, match="3 without a key bundle"):
        desk.cohort(0, unbundled=prekeys.unbundled())
    for device in ("device-01", "device-03"):
        bundles = tuple(
            make_bundle(wire_parts.identity(device), wire_parts.FLEET, os.urandom).prekey for _ in range(8)
        )
        message = wire_parts.post(device).compose(Prekeys, bundles=bundles)
        prekeys.hear(message)
    for ended in range(8):
        cohort = desk.cohort(ended, unbundled=prekeys.unbundled())
        chosen = prekeys.choose(cohort)
        assert tuple(chosen) == ("device-01", "device-03")
        prekeys.spend(chosen)
        desk.chosen(cohort)
    # Each bundle serves one round.
    assert prekeys.unbundled() >= set(DEVICES)


async def test_who_took_part_is_asked_again_at_once(store: Store) -> None:
    desk = desk_with(store, 2)
    assert invited_while_declining(desk, 8) == [1, 2, 4, 8]
    desk.took_part(("device-02",))
    assert desk.cohort(8) == DEVICES
    assert invited_while_declining(desk, 3) == [1, 2]


async def test_whoever_is_needed_is_asked_all_the_same(store: Store) -> None:
    desk = desk_with(store, 3)
    assert invited_while_declining(desk, 6) == [1, 2, 3, 4, 5, 6]
    desk.silent(wire_parts.NOW_MS + 60_000)
    with pytest.raises(NotEnoughDevicesError):
        desk.cohort(6)


@pytest.mark.parametrize(("number", "other"), [(8, False), (7, True), (2**64 - 1, False)])
def test_a_reply_to_a_round_that_is_not_open_is_refused(number: int, other: bool) -> None:  # noqa: FBT001
    plan = wire_parts.plan()
    digest = plan_hash(encode_plan(plan))
    runner = cast("RoundRunner", SimpleNamespace(plan=plan, plan_hash=digest))
    nobody = cast("RoundRunner", SimpleNamespace(plan=None, plan_hash=b""))
    post = wire_parts.post("device-01")
    good = post.compose(Reply, round=7, plan_id=digest[:8], accepted=True)
    check_round(runner, good)
    bad = post.compose(Reply, round=number, plan_id=b"x" * 8 if other else digest[:8], accepted=True)
    for present, word in ((runner, bad), (nobody, good)):
        with pytest.raises(OutOfRoundError, match=r"not open.*dropped; if it repeats"):
            check_round(present, word)
