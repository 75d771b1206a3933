"""Getting a task and a model vector: what is held, else by a small step, else whole."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.updates.errors import UnledRoundError
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.messages import ModelOffer
from shoal_codecs.wire.step import decode_step
from shoal_edge.errors import StoreError, fault_name
from shoal_edge.files import disk_faults
from shoal_edge.store import DeviceStore
from shoal_edge.worker_client import Worker

Fetch = Callable[[BlobRef], Awaitable[Path]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class OfferedStep:
    """An encoded step as it came, ``inline`` or in the file ``path``, and the versions it leads between."""

    parent: bytes
    child: bytes
    inline: bytes
    path: Path | None

    @classmethod
    def decoded(cls, inline: bytes, path: Path | None) -> Self:
        """Read the step.

        Raises:
            MalformedMessageError: not a step.
            StoreError: the disk does not give it.
        """
        step = decode_step(_contents(path) if path else inline)
        return cls(step.parent, step.child, inline, path)

    def read(self) -> bytes:
        """Return the encoded step.

        Raises:
            StoreError: the disk does not give it.
        """
        return _contents(self.path) if self.path else self.inline


class ModelKeeper:
    """Makes sure that a task or a vector is on disk; one at a time, so that nothing is fetched twice."""

    def __init__(
        self,
        store: DeviceStore,
        worker: Worker,
        fetch: Fetch,
        drop: Callable[[str], object],
        limit_s: float,
    ) -> None:
        self._store = store
        self._worker = worker
        self._fetch = fetch
        self._drop = drop
        self._limit_s = limit_s
        self._turn = asyncio.Lock()

    async def task(self, ref: BlobRef) -> Path:
        """Return the path of the task file.

        Raises:
            TransportError: it cannot be had.
            TimeoutError: not within the limit.
        """
        async with self._turn, asyncio.timeout(self._limit_s):
            path = await self._fetch(ref)
        earlier = self._store.task
        if earlier is not None and earlier != ref.digest:
            self._drop(earlier.hex())
        return path

    def own_path(self, task: BlobRef) -> Path:
        """Return where the tensors of ``task`` that stay on this device are kept."""
        return self._store.own.path(task.digest)

    def forget_damaged(self, error: ShoalError, task: bytes, model: bytes) -> None:
        """Drop the file that the worker found damaged, so that it is fetched again."""
        fault = fault_name(error)
        if fault == "TaskFileError":
            self._drop(task.hex())
        if fault == "VectorFileError" and model:
            self._store.drop_model(model)

    async def model(
        self,
        offer: ModelOffer,
        task: BlobRef,
        *,
        keep: frozenset[bytes] = frozenset(),
        local: tuple[str, ...] = (),
    ) -> Path:
        """Return the path of the vector of ``task`` that ``offer`` names; ``keep`` are not to be dropped.

        It is the vector without ``local``, or without the tensors that this device keeps already.

        Raises:
            TransportError, WorkerError, StoreError: it cannot be had.
            TimeoutError: not within the limit.
        """
        async with self._turn, asyncio.timeout(self._limit_s):
            if not self._store.holds_model(offer.digest) and not await self._by_steps(
                offer, task, keep, local
            ):
                await self._whole(offer)
            await asyncio.to_thread(self._store.adopt_model, offer.digest, task.digest, keep=keep)
            return self._store.model_path(offer.digest)

    async def blob(self, ref: BlobRef) -> Path:
        """Return the path of a blob that one round needs, until ``drop_blob``.

        Raises:
            TransportError: it cannot be had.
            TimeoutError: not within the limit.
        """
        async with self._turn, asyncio.timeout(self._limit_s):
            return await self._fetch(ref)

    def drop_blob(self, ref: BlobRef) -> None:
        """Let go of a blob that only one round needed."""
        self._drop(ref.name)

    async def source(self, digest: bytes, ref: BlobRef | None) -> Path:
        """Return the path of the encoded step with ``digest``: the one applied last, or fetched as ``ref``.

        Raises:
            UnledRoundError: it is not here, and none is offered.
            TransportError, StoreError: it cannot be had.
            TimeoutError: not within the limit.
        """
        async with self._turn, asyncio.timeout(self._limit_s):
            path = await asyncio.to_thread(self._store.step_path, digest)
            if path is None and ref is not None:
                fetched = await self._fetch(ref)
                await asyncio.to_thread(lambda: self._store.keep_step(fetched.read_bytes()))
                self._drop(ref.name)
                path = await asyncio.to_thread(self._store.step_path, digest)
        if path is None:
            raise UnledRoundError(
                "the step that the round's coordinates come from is not here and not offered: invite again"
            )
        return path

    async def _by_steps(
        self, offer: ModelOffer, task: BlobRef, keep: frozenset[bytes], local: tuple[str, ...]
    ) -> bool:
        """Apply what is offered of the steps from a vector that is held; on any fault the whole is the way.

        What is done of a chain is kept: a start in its midst, or another offer, goes on from there.
        """
        keep |= frozenset(self._store.held_models)
        try:
            steps = await self._steps(offer)
            for step in steps:
                await self._apply(step, task, local)
                if step is not steps[-1]:
                    await asyncio.to_thread(self._store.adopt_model, step.child, task.digest, keep=keep)
                elif step.parent:
                    await asyncio.to_thread(self._store.keep_step, await asyncio.to_thread(step.read))
                if step.path:
                    self._drop(step.path.name)
        except ShoalError as error:
            log.warning("step_refused", version=offer.version, fault=fault_name(error), remedy=str(error))
            for ref in offer.chain:
                self._drop(ref.name)
            return False
        return bool(steps)

    async def _steps(self, offer: ModelOffer) -> list[OfferedStep]:
        """Return the steps to the offered vector from the newest one that is held.

        None where there are none, or where they are no fewer bytes than the whole.

        Raises:
            MalformedMessageError: steps that do not join up.
            TransportError: one cannot be fetched.
        """
        if sum(ref.size for ref in offer.chain) >= offer.whole.size:
            return []
        steps: list[OfferedStep] = []
        needed, left = offer.digest, list(offer.chain)
        inline = offer.step
        while inline or left:
            path = None if inline else await self._fetch(left.pop())
            step = await asyncio.to_thread(OfferedStep.decoded, inline, path)
            inline = b""
            if step.child != needed:
                raise MalformedMessageError("a step is between other versions than its offer says")
            steps.append(step)
            needed = step.parent
            if not needed or self._store.holds_model(needed):
                return steps[::-1]
        return []

    async def _apply(self, step: OfferedStep, task: BlobRef, local: tuple[str, ...]) -> None:
        """Make the step's child of its parent, or of a seed."""
        task_path = await self._fetch(task)
        try:
            await self._worker.request(
                "apply_step",
                self._limit_s,
                task=task.digest,
                task_path=str(task_path),
                base_path=str(self._store.model_path(step.parent)) if step.parent else "",
                step=step.inline,
                step_path=str(step.path or ""),
                child_path=str(self._store.model_path(step.child)),
                local=local,
                own_path=str(self._store.own.path(task.digest)),
            )
        except ShoalError as error:
            self.forget_damaged(error, task.digest, step.parent)
            raise

    async def _whole(self, offer: ModelOffer) -> None:
        path = await self._fetch(offer.whole)
        target = self._store.model_path(offer.digest)
        beside = target.with_name(target.name + ".new")
        with disk_faults(target):
            beside.unlink(missing_ok=True)
            # The blob store has written and verified it; here it only gets its second name.
            os.link(path, beside)
            beside.replace(target)
        self._drop(offer.whole.name)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; mend the disk") from error
