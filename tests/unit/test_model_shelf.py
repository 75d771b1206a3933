"""What of the versions is on the broker, and what a device is offered."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from shoal_codecs.security.identity import Identity
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.blobs import BlobPublisher
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.status import RoundRow
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.chains import ModelVersion, with_step
from shoal_coordinator.config import shipped
from shoal_coordinator.models import ModelShelf
from shoal_coordinator.pruning import Pruner
from shoal_coordinator.release_errors import CalibrationFileError, PrunedVersionError
from shoal_coordinator.release_making import Recipe, make_release
from shoal_coordinator.store import ReleaseRecord, Store, VersionRecord


class Broker:
    """Keeps what is published, as a broker does; every publish takes ``lag_s``."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.retained: set[str] = set()
        self.ever: set[str] = set()
        self.lag_s = 0.0
        self.tasks: list[asyncio.Task[None]] = []

    async def publish(self, ref: BlobRef) -> None:
        assert self.blobs.read(ref.name)
        await asyncio.sleep(self.lag_s)
        self.retained.add(ref.name)
        self.ever.add(ref.name)

    async def clear(self, ref: BlobRef) -> None:
        self.retained.discard(ref.name)

    def spawn(self, work: Callable[[], Awaitable[None]], _key: str = "") -> None:
        self.tasks.append(asyncio.ensure_future(work()))

    async def settle(self) -> None:
        await asyncio.gather(*self.tasks)
        self.tasks.clear()


class Bench:
    def __init__(self, store: Store, longest_chain: int = 32) -> None:
        self.store, self.blobs = store, store.blobs
        self.broker = Broker(store.blobs)
        self.task = store.blobs.put(b"task")
        self.publisher = cast("BlobPublisher", self.broker)
        self.shelf = ModelShelf(self.publisher, cast("Announcer", self.broker), self.task, longest_chain)
        self.rng = np.random.default_rng(0)

    def version(self, number: int, parent: bytes, step: int = 9000, whole: int = 100_000) -> ModelVersion:
        ref = self.blobs.put(self.rng.bytes(whole))
        return with_step(
            ModelVersion(number, ref.digest, ref, parent, self.blobs.put(self.rng.bytes(step))), self.blobs
        )

    async def grow(self, count: int, **sizes: int) -> list[ModelVersion]:
        """Commit ``count`` versions, as rounds do."""
        made = []
        for _ in range(count):
            newest = self.shelf.newest if self.shelf.has_any else None
            number = newest.number + 1 if newest else 0
            version = self.version(number, newest.digest if newest else b"", **sizes)
            made.append(version)
            record = VersionRecord(
                number=number, digest=version.digest, parent=version.parent, round=number,
                task=self.task.digest, whole=version.whole, step=version.step,
                # Every other version has the state of the one before: its round moved nothing.
                state=self.blobs.put(b"state %d" % (number // 2)),
            )  # fmt: skip
            if newest is None:
                await self.store.add_first_version(record)
                self.shelf.start([version])
            else:
                row = RoundRow(round=number, outcome="committed", version=number)
                await self.store.commit_version(record, row)
                self.shelf.candidate = version
                self.shelf.promote(version)
        return made


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    store = await Store.open(tmp_path)
    yield Bench(store)
    await store.close()


async def test_a_holder_of_the_base_fetches_the_step_alone(bench: Bench) -> None:
    first, second = await bench.grow(2)
    offer = bench.shelf.offer(second, first.model_id)
    assert (offer.parent, offer.step, offer.chain) == (first.digest, b"", (second.step,))
    await bench.broker.settle()
    assert bench.broker.ever == {bench.task.name, second.step.name}  # type: ignore[union-attr]


async def test_a_short_step_travels_in_the_offer(bench: Bench) -> None:
    first, second = await bench.grow(2, step=900)
    offer = bench.shelf.offer(second, first.model_id)
    assert (offer.parent, offer.step, offer.chain) == (first.digest, second.inline, ())
    nothing = bench.shelf.offer(second, second.model_id)
    assert (nothing.parent, nothing.step, nothing.chain) == (b"", b"", ())
    await bench.broker.settle()
    assert bench.broker.ever == {bench.task.name}


async def test_one_that_has_not_said_what_it_holds_gets_all_steps_and_not_the_whole(bench: Bench) -> None:
    made = await bench.grow(20)
    offer = bench.shelf.offer(made[-1], None)
    assert offer.chain == tuple(one.step for one in made[-len(offer.chain) :])
    assert 8 <= len(offer.chain) <= 11
    await bench.broker.settle()
    assert made[-1].whole.name not in bench.broker.ever


async def test_one_behind_gets_a_chain_and_one_too_far_behind_the_whole(bench: Bench) -> None:
    made = await bench.grow(20)
    newest = made[-1]
    offer = bench.shelf.offer(newest, made[12].model_id)
    assert offer.chain == tuple(one.step for one in made[13:])
    assert offer.parent == made[12].digest
    await bench.broker.settle()
    assert newest.whole.name not in bench.broker.ever
    far = bench.shelf.offer(newest, made[2].model_id)
    assert (far.parent, far.step, far.chain) == (b"", b"", ())
    await bench.broker.settle()
    assert newest.whole.name in bench.broker.retained


async def test_what_nothing_refers_to_leaves_the_broker(bench: Bench) -> None:
    made = await bench.grow(12)
    bench.shelf.offer(made[-1], made[3].model_id)
    bench.shelf.offer(made[-1], b"stranger")
    await bench.broker.settle()
    assert len(bench.broker.retained) == 1 + 8 + 1
    await bench.grow(1)
    await bench.broker.settle()
    assert made[-1].whole.name in bench.broker.retained
    await bench.grow(20)
    await bench.broker.settle()
    assert bench.broker.retained == {bench.task.name}


async def test_a_candidate_of_an_aborted_round_leaves_the_broker_whatever_the_order(bench: Bench) -> None:
    (first,) = await bench.grow(1)
    bench.broker.lag_s = 0.02
    candidate = bench.version(1, first.digest)
    bench.shelf.candidate = candidate
    bench.shelf.offer(candidate, first.model_id)
    bench.shelf.discard()
    await bench.broker.settle()
    assert bench.broker.retained == {bench.task.name}


async def test_the_step_that_leads_a_round_stays_while_it_runs(bench: Bench) -> None:
    await bench.grow(3)
    source = bench.shelf.last_step
    assert source == bench.shelf.newest.step
    bench.shelf.lead(source)
    await bench.grow(30)
    await bench.broker.settle()
    assert source is not None
    assert source.name in bench.broker.retained
    bench.shelf.lead(None)
    await bench.broker.settle()
    assert source.name not in bench.broker.retained


async def test_what_a_device_asks_for_is_published_again_if_it_is_in_use(bench: Bench) -> None:
    made = await bench.grow(14)
    assert bench.shelf.want(made[-1].step.digest)  # type: ignore[union-attr]
    assert bench.shelf.want(made[-1].whole.digest)
    assert bench.shelf.want(bench.task.digest)
    assert not bench.shelf.want(made[0].whole.digest)
    assert not bench.shelf.want(made[0].step.digest)  # type: ignore[union-attr]
    await bench.broker.settle()


async def test_files_of_old_versions_go_and_released_ones_stay(bench: Bench) -> None:
    made = await bench.grow(30)
    await bench.store.save_release(
        ReleaseRecord(release="r3", version=3, state="done", manifest=b"", signature=b"")
    )
    pruner = Pruner(bench.store, bench.publisher, kept=4)
    await pruner.prune(bench.shelf.newest.number, bench.shelf.first_step)
    wholes = [one.number for one in made if bench.blobs.has(one.whole.name)]
    steps = [one.number for one in made if one.step and bench.blobs.has(one.step.name)]
    assert wholes == [0, 3, 26, 27, 28, 29]
    assert steps == list(range(bench.shelf.first_step, 30))
    assert len(steps) == 11
    # Everything that may be offered is there.
    for held in (b"", *(one.model_id for one in made)):
        offer = bench.shelf.offer(made[-1], held)
        assert all(bench.blobs.has(ref.name) for ref in (offer.whole, *offer.chain))
    # A later run, by a process that knows nothing, goes on where this one ended.
    await bench.grow(2)
    await Pruner(bench.store, bench.publisher, kept=4).prune(31, bench.shelf.first_step)
    assert [one.number for one in made if bench.blobs.has(one.whole.name)] == [0, 3, 28, 29]


async def test_a_version_that_is_gone_is_not_released(bench: Bench, tmp_path: Path) -> None:
    await bench.grow(6)
    await Pruner(bench.store, bench.publisher, kept=2).prune(5, bench.shelf.first_step)
    recipe = Recipe(fleet="f", task_path=shipped("digits.task"), calibration_path=tmp_path / "none")
    publisher = Identity("publisher", b"p" * 32)
    for number, error in ((1, PrunedVersionError), (5, CalibrationFileError)):
        with pytest.raises(error):
            await make_release(
                recipe,
                bench.store,
                publisher,
                await bench.store.version(number),
                "r",
                allow_older=False,
                now_ms=1,
            )


async def test_the_state_of_an_algorithm_goes_with_the_last_version_that_has_it(bench: Bench) -> None:
    await bench.grow(6)
    states = [version.state for version in await bench.store.versions()]
    await Pruner(bench.store, bench.publisher, kept=3).prune(5, bench.shelf.first_step)
    # Versions 3 to 5 are kept; 2 and 3 have one state.
    assert [state is not None and bench.blobs.has(state.name) for state in states] == [
        *(False, False, True, True, True, True)
    ]


async def test_a_file_goes_only_once_its_blob_is_off_the_broker(bench: Bench) -> None:
    made = await bench.grow(8)
    broken = True

    async def clear(ref: BlobRef) -> None:
        if broken:
            raise OSError("the broker is away")
        bench.broker.retained.discard(ref.name)

    bench.broker.clear = clear  # type: ignore[method-assign]
    pruner = Pruner(bench.store, bench.publisher, kept=2)
    with pytest.raises(OSError, match="away"):
        await pruner.prune(7, 3)
    assert all(bench.blobs.has(one.whole.name) for one in made)
    broken = False
    await pruner.prune(7, 3)
    assert [one.number for one in made if bench.blobs.has(one.whole.name)] == [0, 6, 7]
    assert [one.number for one in made if one.step and bench.blobs.has(one.step.name)] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("longest", [1, 2, 5])
async def test_whatever_is_offered_is_on_the_broker(tmp_path: Path, longest: int) -> None:
    """With short chains too: a device that holds nothing, or an old version, never waits for a blob."""
    store = await Store.open(tmp_path)
    bench = Bench(store, longest)
    made: list[ModelVersion] = []
    for _ in range(6):
        made += await bench.grow(1)
        for held in (None, b"", *(version.model_id for version in made)):
            offer = bench.shelf.offer(bench.shelf.newest, held)
            await bench.broker.settle()
            needed = {ref.name for ref in offer.chain}
            if not needed and not offer.step and held != offer.digest[:8]:
                needed = {offer.whole.name}
            bench.shelf._trim()
            await bench.broker.settle()
            assert needed <= bench.broker.retained
            assert len(offer.chain) <= longest
    await store.close()
