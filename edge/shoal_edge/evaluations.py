"""Answers the coordinator's question how a model version does on this device's held-out examples."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.post import Post
from shoal_codecs.transport.traffic import Traffic
from shoal_codecs.wire.messages import AnyMessage, Evaluate, Evaluated
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import fault_name
from shoal_edge.models import ModelKeeper
from shoal_edge.worker_client import Worker

MODEL_ID_BYTES = 8

log = structlog.get_logger()


class Evaluations:
    """One evaluation at a time, only the newest question waiting; the last answer is kept to be repeated."""

    def __init__(
        self,
        *,
        settings: EdgeSettings,
        post: Post,
        worker: Worker,
        keeper: ModelKeeper,
        say: Callable[[AnyMessage], None],
        note_fault: Callable[[str], None],
        traffic: Callable[[], Traffic],
        percent: Callable[[bytes], int],
        quiet: bool = False,
    ) -> None:
        self._settings = settings
        self._post = post
        self._worker = worker
        self._keeper = keeper
        self._say = say
        self._note_fault = note_fault
        self._traffic = traffic
        self._percent = percent
        self._quiet = quiet
        self._asked: Evaluate | None = None
        self._wake = asyncio.Event()
        self._last: tuple[bytes, dict[str, Any]] = (b"", {})

    def ask(self, command: Evaluate) -> None:
        """Note the question; an older one that still waits is forgotten. A quiet device does not answer."""
        if self._quiet:
            log.info("evaluation_withheld", round=command.round, version=command.model.version)
            return
        self._asked = command
        self._wake.set()

    async def run(self) -> None:
        """Answer questions until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            command, self._asked = self._asked, None
            if command is not None:
                await self._answer(command)

    async def _answer(self, command: Evaluate) -> None:
        model = command.model
        began = time.monotonic()
        try:
            counts = await self._count(command)
        except ShoalError as error:
            self._keeper.forget_damaged(error, command.task.digest, model.digest)
            self._note_fault(fault_name(error))
            log.warning(
                "not_evaluated",
                round=command.round,
                version=model.version,
                fault=fault_name(error),
                remedy=str(error),
            )
            return
        except TimeoutError:
            self._note_fault("TimeoutError")
            log.warning("not_evaluated", round=command.round, version=model.version, fault="TimeoutError")
            return
        except Exception as error:  # a defect must not end the agent
            self._note_fault(type(error).__name__)
            log.exception("evaluation_failed", round=command.round, version=model.version)
            return
        traffic, personal = self._traffic(), counts.get("personal")
        self._say(
            self._post.compose(
                Evaluated,
                round=command.round,
                model_id=model.digest[:MODEL_ID_BYTES],
                examples=int(counts["examples"]),
                correct=int(counts["correct"]),
                loss_sum=float(counts["loss_sum"]),
                personal=(int(personal[0]), float(personal[1])) if personal else None,
                sent=traffic.sent,
                received=traffic.received,
            )
        )
        log.info(
            "evaluated",
            round=command.round,
            version=model.version,
            examples=counts["examples"],
            correct=counts["correct"],
            **({"personal_correct": personal[0]} if personal else {}),
            seconds=round(time.monotonic() - began, 3),
        )

    async def _count(self, command: Evaluate) -> dict[str, Any]:
        digest = command.model.digest
        task_path = await self._keeper.task(command.task)
        model_path = await self._keeper.model(command.model, command.task)
        if self._last[0] != digest:
            counts = await self._worker.request(
                "evaluate",
                self._settings.evaluate_time_limit_s,
                task=command.task.digest,
                task_path=str(task_path),
                model_path=str(model_path),
                digest=digest,
                data_path=str(self._settings.examples_path),
                data=self._settings.data.packed,
                own_path=str(self._keeper.own_path(command.task)),
                percent=self._percent(command.task.digest),
            )
            self._last = (digest, counts)
        return self._last[1]
