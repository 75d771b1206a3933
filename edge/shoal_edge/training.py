"""What a round makes of this device's data: the model fetched, trained on, and the report signed."""

from functools import partial
from typing import Any

import structlog

from shoal_codecs.security.identity import Identity
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import PlanMissingError, WorkerCrashedError, WorkerTimeLimitError, fault_name
from shoal_edge.models import ModelKeeper
from shoal_edge.privacy_guard import PrivacyGuard
from shoal_edge.reports import sign_report
from shoal_edge.round_events import Job, SealedReport
from shoal_edge.single_rounds import SingleRounds
from shoal_edge.store import DeviceStore
from shoal_edge.width import Width
from shoal_edge.worker_client import Worker

PROGRESS_LOGGED = 10
"""Per cent of a fit between two words in the log."""

log = structlog.get_logger()


class Training:
    """One round's work on the worker; ``progress`` is how far a fit is, in per cent, None between fits."""

    def __init__(
        self,
        *,
        settings: EdgeSettings,
        identity: Identity,
        store: DeviceStore,
        worker: Worker,
        keeper: ModelKeeper,
        guard: PrivacyGuard,
        width: Width,
        single: SingleRounds,
    ) -> None:
        self.progress: int | None = None
        self._settings = settings
        self._identity = identity
        self._store = store
        self._worker = worker
        self._keeper = keeper
        self._guard = guard
        self._width = width
        self._single = single

    async def fetch(self, job: Job) -> None:
        """Bring all that the fit of ``job`` needs, and measure this device where its width is not known.

        Raises:
            ShoalError: something cannot be had, or is not what it should be.
        """
        task, model = job.invitation.task, job.invitation.model
        await self._keeper.task(task)
        local = job.plan.training.local if job.plan else ()
        await self._keeper.model(model, task, keep=frozenset({model.digest}), local=local)
        await self._source(job)
        # Before it is measured a device trains the narrowest model: so this round is not held up for long.
        await self._width.measure(task.digest, await self._keeper.task(task))
        await self._control(job)

    async def _source(self, job: Job) -> str:
        """Return the path of the step that the plan takes coordinates from, empty where it takes none."""
        digest = job.plan.codec.source if job.plan else b""
        return str(await self._keeper.source(digest, job.invitation.source)) if digest else ""

    async def _control(self, job: Job) -> tuple[str, ...]:
        """Return the paths of the fleet's control, this device's and its next, where the plan has one."""
        ref, task = job.invitation.correction, job.invitation.task.digest
        if job.plan is None or not job.plan.training.correction or ref is None:
            return ()
        control = self._store.control
        paths = (await self._keeper.blob(ref), control.path(task), control.next_path(task, job.plan_hash))
        return tuple(map(str, paths))

    async def fit(self, job: Job) -> SealedReport:
        """Train as the plan of ``job`` says and return the report, sealed and signed.

        Raises:
            PlanMissingError: there is no plan.
            WorkerError: the worker refused, failed or did not end in time.
        """
        task, model, plan = job.invitation.task, job.invitation.model, job.plan
        if plan is None:
            raise PlanMissingError("no plan to train by: report this as a defect")
        silent = self._guard.metrics == "none"
        ask = partial(
            self._worker.request,
            "fit_and_report",
            self._settings.fit_time_limit_s,
            self._heard_progress,
            task=task.digest,
            task_path=str(await self._keeper.task(task)),
            model_path=str(self._store.model_path(model.digest)),
            data_path=str(self._settings.examples_path),
            data=self._settings.data.packed,
            plan=job.plan_bytes,
            source_path=await self._source(job),
            device=self._identity.name,
            residual_path=str(self._store.residual.path(task.digest)),
            residual_next_path=str(self._store.residual.next_path(task.digest, job.plan_hash)),
            own_path=str(self._store.own.path(task.digest)),
            own_next_path=str(self._store.own.next_path(task.digest, job.plan_hash)),
            control_paths=await self._control(job),
            ditto=self._settings.personal.pull(plan.training.ditto),
            percent=self._width.percent(task.digest),
            masks=self._single.masks(job) if plan.mode == "single" else b"",
            preview=self._settings.show_update_preview,
            hide_faults=silent,
        )
        try:
            answer = await ask()
        except (WorkerCrashedError, WorkerTimeLimitError) as error:
            if not silent or plan.privacy is None:
                raise
            # A task can be made to end its worker on chosen examples too.
            log.warning("fit_failed", round=job.round, fault=fault_name(error), remedy=str(error))
            answer = await ask(train=False)
        finally:
            self.progress = None
        if job.invitation.correction is not None:
            self._keeper.drop_blob(job.invitation.correction)
        report = sign_report(self._identity, plan, job.plan_hash, answer.pop("ciphertexts"))
        preview = answer.pop("preview", None)
        if "fault" in answer:
            log.warning("trained_nothing", round=job.round, version=model.version, **_rounded(answer))
        else:
            log.info("trained", round=job.round, version=model.version, **_rounded(answer))
        if preview:
            log.info("update_preview", round=job.round, version=model.version, **preview)
        return report

    def _heard_progress(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if percent // PROGRESS_LOGGED != (self.progress or 0) // PROGRESS_LOGGED:
            log.info("training", steps=done, total=total)
        self.progress = percent


def _rounded(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in answer.items()}
