"""Budgets in a running coordinator: refused at the start, counted through aborts, ended with a reason."""

from pathlib import Path
from typing import Any

import pytest

from brokers import eventually
from coordinator_bench import DEVICES, Bench, everybody, fleet, until_version
from shoal_codecs.errors import ShoalError
from shoal_codecs.privacy.errors import BudgetExceededError, FleetTooSmallError
from shoal_codecs.wire import messages as wire
from shoal_coordinator.config import PrivacySettings
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.privacy_reference import reference_epsilons
from shoal_coordinator.round_errors import InvalidRoundPlanError
from shoal_coordinator.service import make_organs, serve
from shoal_coordinator.store import Store


def private(**changes: Any) -> PrivacySettings:
    said: dict[str, Any] = {"mechanism": "auto", "rounds": 3, "allow_small_fleet": True}
    return PrivacySettings(**(said | changes))


@pytest.mark.parametrize(
    ("rounds", "error", "words"),
    [
        ({"privacy": private(), "target_version": 5}, BudgetExceededError, "3 rounds would fit"),
        ({"privacy": private(allow_small_fleet=False)}, FleetTooSmallError, "5 devices cannot learn"),
        (
            {"privacy": private(noise_multiplier=0.9)},
            BudgetExceededError,
            r"3 rounds cost epsilon .* the budget is 8: [12] rounds would fit",
        ),
        ({"privacy": private(mechanism="central")}, InvalidRoundPlanError, "'auto'"),
        ({"privacy": private(epsilon=-1.0)}, InvalidRoundPlanError, "makes no budget"),
    ],
)
async def test_a_budget_that_cannot_be_kept_ends_the_start(
    tmp_path: Path, rounds: dict[str, Any], error: type[ShoalError], words: str
) -> None:
    bench = Bench(tmp_path, "mqtt://127.0.0.1:9", **rounds)
    with pytest.raises(error, match=words):
        await serve(bench.settings())


async def test_a_codec_that_the_mode_does_not_have_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidRoundPlanError, match="cannot be secret-shared"):
        await serve(Bench(tmp_path, "mqtt://127.0.0.1:9", codec="topk").settings())


async def test_a_norm_check_that_the_mode_does_not_have_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidRoundPlanError, match="the norm check belongs to mode 'hubs'"):
        await serve(
            Bench(tmp_path, "mqtt://127.0.0.1:9", mode="plain", codec="dense", norm_check=1.6).settings()
        )


async def test_a_target_that_was_reached_is_no_reason_not_to_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "mqtt://127.0.0.1:9", privacy=private(), target_version=3)
    store = await Store.open(bench.folders["coordinator"] / "data")
    organs = await make_organs(bench.settings(), store)
    assert organs.privacy.rounds_left() == 3
    await store.close()


async def test_an_aborted_round_is_paid_for_and_the_rounds_end_with_the_reason(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec="dense", privacy=private(), window_s=6.0)
    async with fleet(bench, hubs=False) as devices, bench.coordinator(), bench.operator() as operator:
        await operator.until(everybody, 20)
        for device in devices.values():
            device.skips.add(1)
        events: list[wire.CoordinatorEvent] = []
        operator.on_event.append(events.append)
        await operator.command("rounds.run", count=3)
        # Everybody was invited, nobody says that it sent nothing: the round may have cost what it costs.
        view = await operator.until(until_version(2), 60)
        await eventually(lambda: any(event.kind == "privacy.spent" for event in events))
        view = await operator.until(lambda view: len(view.rounds) == 4, 10)
        answer = await operator.command("privacy.show")
    assert [row.outcome for row in view.rounds] == ["aborted", "committed", "committed", "aborted"]
    assert "the privacy budget of epsilon 8 is spent: 0 devices can pay" in view.rounds[-1].reason
    assert view.target == 2
    assert view.privacy is not None
    assert view.privacy.rounds_left == 0
    (committed, *_) = [event for event in events if event.kind == "round.committed"]
    assert committed.fields["examples"] == 0
    assert not {"accuracy", "loss"} & set(committed.fields)
    # Nobody was asked for counts in clear.
    assert not any(device.all(wire.Evaluate) for device in devices.values())
    invited = {message.round for device in devices.values() for message in device.all(wire.Invitation)}
    assert len(invited) == 3
    rows = answer.fields["devices"]
    assert {row["name"] for row in rows} == set(DEVICES)
    for row in rows:
        assert row["epsilon"] == pytest.approx(row["rdp"], abs=1e-3)
        assert row["pld"] < row["epsilon"] <= 8.0 * (1 + 1e-9)
    store = await Store.open(bench.folders["coordinator"] / "data")
    (plan, *_) = await store.private_plans()
    versions = await store.versions()
    await store.close()
    # An independent accountant's figure of the same rounds stands with the version.
    by_rdp, _ = reference_epsilons((("central", plan.noise, 3),), 1e-5)
    assert versions[-1].epsilon == pytest.approx(by_rdp, abs=1e-3)
    assert versions[-1].delta == 1e-5


async def test_epsilon_goes_on_over_a_restart(mosquitto: BrokerHandle, tmp_path: Path) -> None:
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec="dense", privacy=private())
    async with fleet(bench, hubs=False), bench.operator() as operator:
        async with bench.coordinator():
            await operator.until(everybody, 20)
            await operator.command("rounds.run", count=2)
            before = await operator.until(until_version(2), 30)
        async with bench.coordinator():
            view = await operator.until(lambda view: view.taken_ms > before.taken_ms and everybody(view), 20)
            assert view.privacy is not None
            assert view.privacy.rounds_left == 1
            await operator.command("rounds.run", count=1)
            after = await operator.until(until_version(3), 30)
    assert before.privacy is not None
    assert view.privacy.spent == pytest.approx(before.privacy.spent)
    assert after.rounds[-1].epsilon == pytest.approx(8.0, abs=1e-3)
