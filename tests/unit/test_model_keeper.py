"""A device gets a vector by the steps it lacks: in a real worker, from real files, over kills and damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_parts import TASK, TASK_BYTES, TASK_REF, base_vector
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.errors import BlobTimeoutError
from shoal_codecs.updates.levels import pack_levels
from shoal_codecs.updates.step import Step, apply_step
from shoal_codecs.wire.blob import BlobRef, describe, digest_of
from shoal_codecs.wire.messages import ModelOffer
from shoal_codecs.wire.step import ModelStep, encode_step, initial_step
from shoal_edge.models import ModelKeeper
from shoal_edge.store import DeviceStore
from shoal_edge.worker_client import WorkerClient

STEPS = 5


class PowerCut(BaseException):
    """Ends everything where it is."""


class History:
    """Versions 0 to ``STEPS`` and the encoded steps between them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        vector = base_vector()
        self.vectors = [vector.astype("<f4").tobytes()]
        self.steps = [encode_step(initial_step(1, digest_of(self.vectors[0])))]
        for _ in range(STEPS):
            step = Step(rng.integers(-9, 10, TASK.dimension).astype(np.int32), 0.0078125)
            parent = digest_of(vector.astype("<f4").tobytes())
            vector = apply_step(vector, None, step)
            self.vectors.append(vector.astype("<f4").tobytes())
            child, count = digest_of(self.vectors[-1]), step.q.size
            moved = ModelStep("dense", parent, child, b"", count, step.scale, pack_levels(step.q))
            self.steps.append(encode_step(moved))

    def digest(self, number: int) -> bytes:
        return digest_of(self.vectors[number])

    def offer(self, behind: int, number: int = STEPS) -> ModelOffer:
        """What a device that holds version ``behind`` is offered; -1: one that holds none."""
        return ModelOffer(
            version=number,
            digest=self.digest(number),
            whole=describe(self.vectors[number]),
            parent=self.digest(behind) if behind >= 0 else b"",
            chain=tuple(describe(one) for one in self.steps[behind + 1 : number + 1]),
        )


HISTORY = History()


class Device:
    """A device's files; what it fetches is in ``fetched``, what it applies in ``applied``."""

    def __init__(self, folder: Path, worker: WorkerClient) -> None:
        self.blobs = BlobStore(folder / "blobs")
        self.worker = worker
        self.folder = folder
        self.fetched: list[str] = []
        self.applied: list[str] = []
        self.damaged: set[str] = set()
        self.missing: set[str] = set()
        self.cut_after = 99
        self.start()

    def start(self) -> None:
        """Begin a life of the agent on the same files."""
        self.store = DeviceStore(self.folder, 1 << 20)
        self.keeper = ModelKeeper(
            self.store,
            self,  # type: ignore[arg-type]
            self.fetch,
            self.blobs.drop,
            60.0,
        )

    async def fetch(self, ref: BlobRef) -> Path:
        """As the fetcher does, from what the coordinator would publish."""
        if not self.blobs.has(ref.name):
            if ref.name in self.missing:
                raise BlobTimeoutError("nobody publishes it")
            self.fetched.append(ref.name)
            for data in (TASK_BYTES, *HISTORY.vectors, *HISTORY.steps):
                if digest_of(data) == ref.digest:
                    self.blobs.put(data)
        path = self.blobs.path(ref.name)
        if ref.name in self.damaged:
            path.write_bytes(path.read_bytes()[:-9] + b"\0" * 9)
        return path

    async def request(self, job: str, limit_s: float, **values: Any) -> dict[str, Any]:
        """Hand on to the real worker, and fail as told."""
        if job == "apply_step" and len(self.applied) == self.cut_after:
            raise PowerCut
        answer = await self.worker.request(job, limit_s, **values)
        self.applied.append(Path(values["child_path"]).name)
        return answer

    async def hold(self, number: int) -> None:
        """Let the device hold a version, and forget how it came by it."""
        data = HISTORY.vectors[number]
        await self.keeper.model(ModelOffer(number, digest_of(data), describe(data)), TASK_REF)
        self.fetched.clear()
        self.applied.clear()

    async def get(self, offer: ModelOffer) -> bytes:
        return (await self.keeper.model(offer, TASK_REF)).read_bytes()

    def whole_was_fetched(self, number: int = STEPS) -> bool:
        return HISTORY.digest(number).hex() in self.fetched


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    worker = WorkerClient(idle_s=60)
    yield Device(tmp_path, worker)
    await worker.close()


def names(*numbers: int) -> list[str]:
    return [HISTORY.digest(number).hex() for number in numbers]


async def test_a_chain_leads_from_what_is_held_to_what_is_offered(device: Device) -> None:
    await device.hold(1)
    assert await device.get(HISTORY.offer(1)) == HISTORY.vectors[STEPS]
    assert device.applied == names(2, 3, 4, 5)
    assert not device.whole_was_fetched()
    assert device.store.newest_model == HISTORY.digest(STEPS)
    # Nothing of it stays on the disk but the vectors, and the last step, which may lead a round.
    steps = [describe(one).name for one in HISTORY.steps]
    assert not [name for name in steps if device.blobs.has(name)]
    assert device.store.step_path(digest_of(HISTORY.steps[STEPS])) is not None


async def test_a_device_that_holds_nothing_draws_the_first_and_goes_on(device: Device) -> None:
    assert await device.get(HISTORY.offer(-1)) == HISTORY.vectors[STEPS]
    assert device.applied == names(0, 1, 2, 3, 4, 5)
    assert not device.whole_was_fetched()


async def test_steps_to_what_is_held_already_are_not_fetched(device: Device) -> None:
    await device.hold(3)
    assert await device.get(HISTORY.offer(0)) == HISTORY.vectors[STEPS]
    assert device.applied == names(4, 5)
    assert describe(HISTORY.steps[2]).name not in device.fetched


@pytest.mark.parametrize("done", range(4))
async def test_what_was_done_before_a_power_cut_stays_done(device: Device, done: int) -> None:
    await device.hold(1)
    device.cut_after = done
    with pytest.raises(PowerCut):
        await device.get(HISTORY.offer(1))
    device.start()
    assert device.store.newest_model == HISTORY.digest(1 + done)
    device.applied.clear()
    device.fetched.clear()
    device.cut_after = 99
    assert await device.get(HISTORY.offer(1)) == HISTORY.vectors[STEPS]
    assert device.applied == names(*range(2 + done, STEPS + 1))
    # The steps were on the disk; what heartbeats say now may bring a shorter offer, which works alike.
    assert device.fetched == []


async def test_vectors_held_for_other_ends_outlast_a_chain(device: Device) -> None:
    await device.hold(0)
    await device.hold(1)
    keep = frozenset({HISTORY.digest(0)})
    await device.keeper.model(HISTORY.offer(1), TASK_REF, keep=keep)
    assert device.store.holds_model(HISTORY.digest(0))
    assert len(list(device.store.models.iterdir())) <= 4


@pytest.mark.parametrize("at", [2, 4, 5])
async def test_a_damaged_step_leads_to_the_whole(device: Device, at: int) -> None:
    await device.hold(1)
    device.damaged = {describe(HISTORY.steps[at]).name}
    assert await device.get(HISTORY.offer(1)) == HISTORY.vectors[STEPS]
    assert device.whole_was_fetched()
    assert not device.blobs.has(describe(HISTORY.steps[at]).name)


async def test_a_step_that_nobody_publishes_leads_to_the_whole(device: Device) -> None:
    await device.hold(1)
    device.missing = {describe(HISTORY.steps[3]).name}
    assert await device.get(HISTORY.offer(1)) == HISTORY.vectors[STEPS]
    assert device.whole_was_fetched()


async def test_a_damaged_base_leads_to_the_whole_and_is_forgotten(device: Device) -> None:
    await device.hold(1)
    device.store.model_path(HISTORY.digest(1)).write_bytes(b"damaged!")
    assert await device.get(HISTORY.offer(1)) == HISTORY.vectors[STEPS]
    assert device.whole_was_fetched()
    assert not device.store.holds_model(HISTORY.digest(1))


async def test_steps_that_do_not_join_up_lead_to_the_whole(device: Device) -> None:
    await device.hold(1)
    offer = HISTORY.offer(1)
    swapped = msgspec.structs.replace(offer, chain=(*offer.chain[1:], offer.chain[0]))
    assert await device.get(swapped) == HISTORY.vectors[STEPS]
    assert device.whole_was_fetched()
    assert device.applied == []


async def test_a_chain_from_something_else_leads_to_the_whole(device: Device) -> None:
    assert await device.get(HISTORY.offer(1)) == HISTORY.vectors[STEPS]
    assert device.whole_was_fetched()


async def test_a_chain_that_is_no_smaller_than_the_whole_is_not_fetched(device: Device) -> None:
    """Whatever is offered, a device fetches no more than the whole for it."""
    await device.hold(1)
    offer = HISTORY.offer(1)
    padded = tuple(
        BlobRef(bytes([number]) * 32, offer.whole.size // 255, offer.whole.chunk_bytes, ())
        for number in range(256 - len(offer.chain))
    )
    heavy = msgspec.structs.replace(offer, chain=(*padded, *offer.chain))
    assert sum(ref.size for ref in heavy.chain) >= offer.whole.size
    assert await device.get(heavy) == HISTORY.vectors[STEPS]
    assert device.fetched == [offer.whole.name]
