"""What a device must not forget: the round it accepted, reports not yet taken, bases answered, models held.

Plain files, each written whole or not at all, so that ``kill -9`` at any instruction loses nothing that was
promised. A report is on disk before its base counts as answered, and both before a byte of it is sent.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from shoal_codecs.durable import sync_folder
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.packing import pack
from shoal_edge.errors import DamagedStateError, EvaluationRefusedError, OutboxFullError, StoreError
from shoal_edge.files import disk_faults, read_record, remove_leftovers, write_durably
from shoal_edge.pending import PendingFile
from shoal_edge.plan_check import Answer, answer_to
from shoal_edge.round_events import Job, SealedReport

MODELS_KEPT = 3
ANSWERS_KEPT = 4096
_RECORD_BODY = 32 * 4 + 8
_RECORD = _RECORD_BODY + 8


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The vectors on disk, newest first, the task used last, and the one before it (digests)."""

    models: tuple[bytes, ...] = ()
    task: bytes = b""
    earlier: bytes = b""


class _Scored(msgspec.Struct, frozen=True, array_like=True):
    """The round whose model was scored last, and that model's digest."""

    round: int = 0
    model: bytes = b""


class _Outgoing(msgspec.Struct, frozen=True, array_like=True):
    job: Job
    report: SealedReport


def held_state(folder: Path) -> Held:
    """Return what a device with its state in ``folder`` holds.

    Raises:
        StoreError: it cannot be read.
    """
    return read_record(folder / "held.bin", Held) or Held()


class DeviceStore:
    """The device's state in ``folder``; ``outbox_cap_bytes`` bounds the reports that wait.

    ``in_use`` gives further tasks of which nothing may be removed; it is called in a thread.

    Raises:
        StoreError: the folder cannot be made or read.
    """

    def __init__(
        self, folder: Path, outbox_cap_bytes: int, in_use: Callable[[], Collection[bytes]] = frozenset
    ) -> None:
        self._folder = folder
        self._outbox = folder / "outbox"
        self._cap = outbox_cap_bytes
        self._in_use = in_use
        self.models = folder / "models"
        try:
            for place in (folder, self._outbox, self.models):
                place.mkdir(parents=True, exist_ok=True)
                remove_leftovers(place)
        except OSError as error:
            raise StoreError(
                f"cannot use {error.filename}: {error.strerror}; give the agent a folder"
            ) from error
        self._held = held_state(folder)
        self._answers = self._load_answers()
        # The codec's error feedback, the tensors that stay here, and the control of SCAFFOLD.
        self.residual = PendingFile(folder, "residual")
        self.own = PendingFile(folder, "own")
        self.control = PendingFile(folder, "control")
        self._scored = read_record(folder / "scored.bin", _Scored) or _Scored()

    # --- the accepted round and its report ------------------------------------------------------

    def persist_job(self, job: Job) -> None:
        """Write down that the round of ``job`` is accepted."""
        write_durably(self._job_path, pack(job))

    def check_room(self, size: int) -> None:
        """Raise OutboxFullError unless a report of ``size`` bytes would fit the outbox."""
        waiting = sum(path.stat().st_size for path in self._outbox.glob("*.bin"))
        if waiting + size > self._cap:
            raise OutboxFullError(
                f"{waiting} bytes wait in the outbox and {size} more pass its cap of {self._cap}: "
                "raise outbox_cap_bytes, or let the hubs come back"
            )

    def persist_report(self, job: Job, report: SealedReport) -> None:
        """Write the report down, and that its base is answered; only then may any of it be sent.

        Raises:
            OutboxFullError: it does not fit.
            StoreError: the disk does not take it.
        """
        data = pack(_Outgoing(job, report))
        self.check_room(len(data))
        write_durably(self._report_path(job.plan_hash), data)
        self._answer(job)

    def restore(self) -> tuple[Job, SealedReport | None] | None:
        """Return the round to go on with after a start, with its report if that was finished."""
        reports = [found for path in self._outbox.glob("*.bin") if (found := read_record(path, _Outgoing))]
        if reports:
            newest = max(reports, key=lambda found: found.job.round)
            # A power cut between the two writes of a report leaves its base unanswered.
            self._answer(newest.job)
            return newest.job, newest.report
        job = read_record(self._job_path, Job)
        if job is None or job.plan is None or self.has_answered(job.plan_hash):
            return None
        return job, None

    def forget_round(self, plan_hash: bytes) -> None:
        """Drop job and report of a round; that its base is answered stays.

        Raises:
            StoreError: the disk does not let go of them.
        """
        with disk_faults(self._folder):
            self._report_path(plan_hash).unlink(missing_ok=True)
            self._job_path.unlink(missing_ok=True)

    @property
    def waiting_reports(self) -> int:
        """Reports in the outbox."""
        return sum(1 for _ in self._outbox.glob("*.bin"))

    # --- answered bases -------------------------------------------------------------------------

    def answered(self, task: bytes, base: bytes) -> Answer | None:
        """Return the latest answer on this base, or None."""
        return self._answers.get(task + base)

    def has_answered(self, plan_hash: bytes) -> bool:
        """Return whether a report of this very plan was made."""
        return any(answer.plan_hash == plan_hash for answer in tuple(self._answers.values()))

    def permit_evaluation(self, number: int, model: bytes) -> None:
        """Note, durably, that ``model`` (digest) is scored for round ``number``: one model for each round.

        Whoever could have any model scored would read the gradient of the loss, a score for each coordinate.

        Raises:
            EvaluationRefusedError: this device sent no report to that round, or scored another model since.
            StoreError: the disk does not take it.
        """
        scored = self._scored
        if (number, model) == (scored.round, scored.model):
            return
        if all(answer.round != number for answer in tuple(self._answers.values())):
            raise EvaluationRefusedError(
                f"this device sent no report to round {number}: it scores what came of its own rounds only"
            )
        if number <= scored.round:
            raise EvaluationRefusedError(
                f"a model was scored for round {scored.round}, none other is for round {number}: run a round"
            )
        scored = _Scored(number, model)
        write_durably(self._folder / "scored.bin", pack(scored))
        self._scored = scored

    # --- models ---------------------------------------------------------------------------------

    def model_path(self, digest: bytes) -> Path:
        """Return where the vector with ``digest`` is, or would be."""
        return self.models / digest.hex()

    def holds_model(self, digest: bytes) -> bool:
        """Return whether that vector is here; its bytes are verified when they are used."""
        return digest in self._held.models and self.model_path(digest).is_file()

    def adopt_model(self, digest: bytes, task: bytes, *, keep: frozenset[bytes] = frozenset()) -> None:
        """Note that the vector is here and the newest; all but three and ``keep`` are dropped.

        With a new task goes what was kept of those before the last.
        """
        order = (digest, *(held for held in self._held.models if held != digest))
        if (order, task) == (self._held.models, self._held.task):
            return
        kept = tuple(held for place, held in enumerate(order) if place < MODELS_KEPT or held in keep)
        before = self._held
        other = before.task not in {b"", task}
        self._hold(Held(kept, task, before.task if other else before.earlier))
        with disk_faults(self.models):
            for path in self.models.iterdir():
                if path.name not in {held.hex() for held in kept}:
                    path.unlink(missing_ok=True)
        if other:
            # Not where it is unknown what was held, as with a damaged record: what stays here is made once.
            for one in (self.residual, self.own, self.control):
                one.forget_others({task, before.task, *self._in_use()})

    def drop_model(self, digest: bytes) -> None:
        """Forget a vector that turned out to be damaged."""
        models = tuple(held for held in self._held.models if held != digest)
        self._hold(msgspec.structs.replace(self._held, models=models))
        with disk_faults(self.model_path(digest)):
            self.model_path(digest).unlink(missing_ok=True)

    @property
    def held_models(self) -> tuple[bytes, ...]:
        """Digests of the vectors on disk, the one adopted last first."""
        return self._held.models

    @property
    def newest_model(self) -> bytes | None:
        """Digest of the vector adopted last."""
        return self._held.models[0] if self._held.models else None

    @property
    def task(self) -> bytes | None:
        """Digest of the task used last."""
        return self._held.task or None

    # --- the step that led to a model ------------------------------------------------------------

    def keep_step(self, step: bytes) -> None:
        """Keep an encoded model step, the newest only: the next round may take its coordinates from it."""
        write_durably(self._step_path, step)

    def step_path(self, digest: bytes) -> Path | None:
        """Return where the encoded step with ``digest`` is, None where it is not the one kept."""
        path = self._step_path
        try:
            return path if digest_of(path.read_bytes()) == digest else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error

    # --- what changes with a report -------------------------------------------------------------

    def commit_pending(self, task: bytes, plan_hash: bytes) -> None:
        """Let count what the fit left for the plan whose report is persisted.

        Raises:
            StoreError: the disk does not take it.
        """
        self.residual.commit(task, plan_hash)
        self.own.commit(task, plan_hash)
        self.control.commit(task, plan_hash)

    # --- inside ---------------------------------------------------------------------------------

    @property
    def _job_path(self) -> Path:
        return self._folder / "round.bin"

    @property
    def _step_path(self) -> Path:
        return self._folder / "step.bin"

    @property
    def _answers_path(self) -> Path:
        return self._folder / "answered.log"

    def _report_path(self, plan_hash: bytes) -> Path:
        return self._outbox / f"{plan_hash.hex()[:32]}.bin"

    def _hold(self, held: Held) -> None:
        write_durably(self._folder / "held.bin", pack(held))
        self._held = held

    def _answer(self, job: Job) -> None:
        if job.plan is None:
            raise DamagedStateError("a report without its plan: report this as a defect")
        key = job.plan.task + job.plan.base
        answer = answer_to(job.plan, job.plan_hash)
        if self._answers.get(key) == answer:
            return
        path = self._answers_path
        with disk_faults(path):
            whole = path.stat().st_size
            try:
                with path.open("ab") as file:
                    file.write(_record(key, answer))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                # Half a record would shift every later one out of reach.
                os.truncate(path, whole)
                raise
        self._answers[key] = answer

    def _load_answers(self) -> dict[bytes, Answer]:
        path = self._answers_path
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}; mend the disk") from error
        records = [data[start : start + _RECORD] for start in range(0, len(data), _RECORD)]
        whole = [record for record in records if _is_whole(record)]
        answers = {
            record[:64]: Answer(int.from_bytes(record[96:104], "big"), record[64:96], record[104:136])
            for record in whole
        }
        if len(whole) != len(records) or len(whole) > 2 * ANSWERS_KEPT:
            # A torn tail would shift every later record; old bases are never planned again.
            answers = dict(list(answers.items())[-ANSWERS_KEPT:])
            write_durably(path, b"".join(_record(key, answer) for key, answer in answers.items()))
        elif not data:
            path.touch()
            sync_folder(path.parent)
        return answers


def _record(key: bytes, answer: Answer) -> bytes:
    body = key + answer.plan_hash + answer.round.to_bytes(8, "big") + answer.hubs
    return body + hashlib.sha256(body).digest()[:8]


def _is_whole(record: bytes) -> bool:
    body = record[:_RECORD_BODY]
    return len(record) == _RECORD and hashlib.sha256(body).digest()[:8] == record[_RECORD_BODY:]
