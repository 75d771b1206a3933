"""Rounds with noise over a real broker: real hubs and coordinator, devices made of the real wire code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from brokers import eventually
from coordinator_bench import DEVICES, METRICS, Bench, everybody, fleet, until_version
from shoal_codecs.privacy.plan_noise import device_variance
from shoal_codecs.privacy.promise import check_promise
from shoal_coordinator.config import PrivacySettings
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.store import Store

# Five devices cannot hide each other: a budget that nobody should give, so that there is something to see.
GENEROUS: dict[str, Any] = {"epsilon": 5000.0, "rounds": 10, "allow_small_fleet": True}


async def test_noised_rounds_move_the_model_and_tell_what_they_may(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    privacy = PrivacySettings(mechanism="auto", adaptive_clip=True, metrics=True, **GENEROUS)
    bench = Bench(tmp_path, mosquitto.url, privacy=privacy, clip_norm=0.5)
    async with fleet(bench) as devices, bench.operator() as operator:
        async with bench.coordinator():
            await operator.until(everybody, 20)
            await operator.command("rounds.run", count=2)
            view = await operator.until(until_version(2), 40)
        before = dict(devices[DEVICES[0]].plans)
        async with bench.coordinator():
            await operator.until(lambda new: new.taken_ms > view.taken_ms and everybody(new), 20)
            await operator.command("rounds.run", count=1)
            view = await operator.until(until_version(3), 40)
        plans = devices[DEVICES[0]].plans
    assert [row.outcome for row in view.rounds] == ["committed"] * 3
    assert [row.version for row in view.rounds] == [1, 2, 3]
    first = plans[view.rounds[0].round]
    check_promise(first)
    assert first.privacy is not None
    assert first.privacy.mechanism == "skellam"
    for row in view.rounds:
        assert set(row.told) == {"accuracy", "loss", "clipped"}
        for name, truth in (("accuracy", METRICS.accuracy), ("loss", METRICS.loss)):
            value, error = row.told[name]
            assert 0 < error < 0.5
            assert abs(value - truth) < 5 * error
        levels = first.privacy.metric_levels
        spread = math.sqrt(row.devices * device_variance(first)) / (2 * row.devices * levels)
        assert row.told["accuracy"][1] == pytest.approx(spread)
    # The norm follows the noised share of clipped updates, over the restart too.
    clip = first.codec.clip_norm
    assert clip == 0.5
    for row, following in zip(view.rounds[:-1], view.rounds[1:], strict=True):
        clip *= math.exp(-0.2 * (1 - row.told["clipped"][0] - 0.5))
        assert plans[following.round].codec.clip_norm == pytest.approx(clip)
    assert len(before) == 2
    store = await Store.open(bench.folders["coordinator"] / "data")
    versions = await store.versions()
    assert len({one.digest for one in versions}) == 4
    assert versions[-1].epsilon is not None
    await store.close()


@pytest.mark.parametrize("mechanism", ["central", "local-gaussian", "local-laplace"])
async def test_noised_plain_rounds_move_the_model(
    mosquitto: BrokerHandle, tmp_path: Path, mechanism: str
) -> None:
    privacy = PrivacySettings(mechanism=mechanism, **GENEROUS)  # type: ignore[arg-type]
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec="randk", privacy=privacy, patience_s=20.0)
    async with fleet(bench, hubs=False) as devices, bench.coordinator(), bench.operator() as operator:
        await operator.until(everybody, 20)
        await operator.command("rounds.run", count=1)
        view = await operator.until(until_version(1), 40)
        await eventually(lambda: all(len(device.receipts) == 1 for device in devices.values()))
        plan = devices[DEVICES[0]].plans[view.rounds[-1].round]
    assert plan.privacy is not None
    assert plan.privacy.mechanism == mechanism
    assert view.rounds[-1].devices == len(DEVICES)
    assert view.rounds[-1].told == {}
