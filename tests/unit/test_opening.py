"""How long a round that cannot begin is waited for, quietly, before that takes a number and a row."""

from pathlib import Path

import pytest

import coordinator_bench
from shoal_coordinator import service
from shoal_coordinator.store import Store


async def test_a_round_that_cannot_begin_is_said_so_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000_000]
    monkeypatch.setattr(service, "now_ms", lambda: now[0])
    bench = coordinator_bench.Bench(tmp_path, "mqtt://127.0.0.1:9", mode="plain", codec="dense")
    store = await Store.open(tmp_path / "store")
    opening = (await service.make_organs(bench.settings(), store)).opening
    patience = []
    for _ in range(9):
        opening.block("too few")
        patience.append(opening.patience_ms())
        now[0] += opening.patience_ms()
        assert opening.patience_ms() == 0
        assert opening.give_up() == opening.reason == "too few"
    assert patience == [5000 << n for n in range(6)] + [300_000] * 3
    # A round that begins is a change: the next wait is short again, and nothing is waited for.
    assert opening.plan(1, coordinator_bench.DEVICES, {}) is not None
    assert (opening.reason, opening.patience_ms()) == ("", 5000)
    await store.close()
