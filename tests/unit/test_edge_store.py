"""The device's state: what was promised is still there after a power cut at any instruction."""

import os
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_parts import invitation_to, make_fleet, make_plan, offer_of, write_examples
from shoal_codecs.wire.plan import encode_plan
from shoal_coordinator.fleet_init import init_fleet
from shoal_edge.agent import EdgeAgent
from shoal_edge.config import EdgeSettings
from shoal_edge.data import Examples, split_held_out
from shoal_edge.errors import EvaluationRefusedError, OutboxFullError, StoreError
from shoal_edge.files import shard_counts, write_durably
from shoal_edge.plan_check import Answer, hubs_digest
from shoal_edge.round_events import Job, SealedReport
from shoal_edge.single_store import SingleStore
from shoal_edge.store import ANSWERS_KEPT, DeviceStore

FLEET = make_fleet()
MODEL = offer_of(b"\0" * 4 * 9610)
REPORT = SealedReport(b"r" * 32, {"hub-1": b"one" * 50, "hub-2": b"two"})
CAP = 100_000


def job(number: int = 7) -> Job:
    plan = make_plan(FLEET, MODEL.digest, round=number)
    return Job(invitation_to(plan, MODEL), plan, encode_plan(plan))


class PowerCutError(BaseException):
    """The power is gone; nothing after this runs, not even what handles errors."""


def test_a_finished_report_is_there_after_a_restart(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    store.persist_job(job())
    store.persist_report(job(), REPORT)
    again = DeviceStore(tmp_path, CAP)
    assert again.restore() == (job(), REPORT)
    assert again.waiting_reports == 1
    assert again.has_answered(job().plan_hash)


def test_an_accepted_round_is_there_after_a_restart(tmp_path: Path) -> None:
    DeviceStore(tmp_path, CAP).persist_job(job())
    assert DeviceStore(tmp_path, CAP).restore() == (job(), None)


def test_an_answer_that_the_disk_cuts_short_takes_no_other_with_it(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    store.persist_report(job(1), REPORT)
    log = tmp_path / "answered.log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 40, before[1]))
    try:
        with pytest.raises(StoreError, match="free some space"):
            store._answer(job(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.persist_report(job(3), REPORT)
    again = DeviceStore(tmp_path, CAP)
    assert not again.has_answered(job(2).plan_hash)
    assert again.has_answered(job(3).plan_hash)


def test_a_folder_that_cannot_be_changed_is_a_named_fault(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    (tmp_path / "round.bin").mkdir()
    with pytest.raises(StoreError, match="mend the disk"):
        store.forget_round(job().plan_hash)


def test_a_round_that_was_left_is_forgotten_but_not_that_it_was_answered(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    store.persist_job(job())
    store.persist_report(job(), REPORT)
    store.forget_round(job().plan_hash)
    again = DeviceStore(tmp_path, CAP)
    assert again.restore() is None
    plan = job().plan
    assert plan is not None
    answer = again.answered(plan.task, plan.base)
    assert answer is not None
    assert answer == Answer(7, job().plan_hash, hubs_digest(("hub-1", "hub-2")))


def test_one_model_is_scored_for_a_round_that_was_answered(tmp_path: Path) -> None:
    """Scores of many models by one device's examples are the gradient that sharing hides."""
    store = DeviceStore(tmp_path, CAP)
    one, other = b"1" * 32, b"2" * 32
    with pytest.raises(EvaluationRefusedError, match="no report"):
        store.permit_evaluation(7, one)
    for number in (7, 8):
        store.persist_report(job(number), REPORT)
        store.forget_round(job(number).plan_hash)
    store.permit_evaluation(8, one)
    for life in (store, DeviceStore(tmp_path, CAP)):
        life.permit_evaluation(8, one)
        for number, model in ((8, other), (7, other), (7, one), (9, other)):
            with pytest.raises(EvaluationRefusedError):
                life.permit_evaluation(number, model)


def test_the_newest_answer_on_a_base_counts(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    for number in (6, 7, 9):
        store.persist_report(job(number), REPORT)
        store.forget_round(job(number).plan_hash)
    plan = job(9).plan
    assert plan is not None
    answer = DeviceStore(tmp_path, CAP).answered(plan.task, plan.base)
    assert answer is not None
    assert answer.round == 9


def test_a_full_outbox_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    store.persist_report(job(6), REPORT)
    (path,) = (tmp_path / "outbox").glob("*.bin")
    # Room for one such report, and not for two.
    cap = path.stat().st_size * 3 // 2
    store = DeviceStore(tmp_path, cap)
    with pytest.raises(OutboxFullError, match="outbox_cap_bytes"):
        store.persist_report(job(7), REPORT)
    assert not store.has_answered(job(7).plan_hash)
    assert DeviceStore(tmp_path, cap).restore() == (job(6), REPORT)
    store.forget_round(job(6).plan_hash)
    store.persist_report(job(7), REPORT)


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_durably(tmp_path / "x", b"data")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("cut", range(12))
def test_a_power_cut_at_any_write_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    store = DeviceStore(tmp_path, CAP)
    store.persist_job(job())
    left = cut

    def fsync(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            raise PowerCutError
        left -= 1
        real(descriptor)

    real = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    sent = False
    try:
        store.persist_report(job(), REPORT)
        sent = True
    except PowerCutError:
        pass
    monkeypatch.undo()
    again = DeviceStore(tmp_path, CAP)
    restored = again.restore()
    if sent:
        assert restored == (job(), REPORT)
    assert restored is not None
    assert restored in [(job(), REPORT), (job(), None)]
    # A report that will be sent again is an answered base, however the writes were cut.
    assert again.has_answered(job().plan_hash) is (restored[1] is not None)


@given(st.integers(0, 4), st.binary(max_size=150))
@settings(max_examples=60)
def test_a_torn_answer_log_keeps_every_whole_record(
    tmp_path_factory: pytest.TempPathFactory, whole: int, tail: bytes
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = DeviceStore(folder, CAP)
    for number in range(1, whole + 1):
        store.persist_report(job(number), REPORT)
        store.forget_round(job(number).plan_hash)
    with (folder / "answered.log").open("ab") as file:
        file.write(tail)
    again = DeviceStore(folder, CAP)
    plan = job().plan
    assert plan is not None
    answer = again.answered(plan.task, plan.base)
    assert (answer.round if answer else 0) == whole
    again.persist_report(job(50), REPORT)
    assert DeviceStore(folder, CAP).has_answered(job(50).plan_hash)


def test_a_half_written_or_damaged_file_is_set_aside(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    store.persist_job(job())
    store.persist_report(job(), REPORT)
    (path,) = (tmp_path / "outbox").glob("*.bin")
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "outbox" / "half.bin.new").write_bytes(b"half")
    (tmp_path / "held.bin").write_bytes(b"\xff\xff")
    again = DeviceStore(tmp_path, CAP)
    # The base was answered and its report is lost: the round is over for this device.
    assert again.restore() is None
    assert again.waiting_reports == 0
    assert again.newest_model is None
    assert not list((tmp_path / "outbox").glob("*.new"))


def test_answers_do_not_grow_for_ever(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    plan = job().plan
    assert plan is not None
    store.persist_report(job(), REPORT)
    record = (tmp_path / "answered.log").read_bytes()
    (tmp_path / "answered.log").write_bytes(record * (2 * ANSWERS_KEPT + 1))
    again = DeviceStore(tmp_path, CAP)
    assert again.has_answered(job().plan_hash)
    assert len((tmp_path / "answered.log").read_bytes()) == len(record)


def test_the_three_newest_models_are_kept(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    digests = [bytes([n]) * 32 for n in range(5)]
    for digest in digests:
        store.model_path(digest).write_bytes(b"vector")
        store.adopt_model(digest, b"t" * 32, keep=frozenset({digests[0]}))
    again = DeviceStore(tmp_path, CAP)
    assert again.newest_model == digests[4]
    assert again.task == b"t" * 32
    assert [again.holds_model(digest) for digest in digests] == [True, False, True, True, True]
    again.drop_model(digests[4])
    assert again.newest_model == digests[3]
    assert not again.model_path(digests[4]).exists()


def test_a_residual_counts_once_its_report_is_kept(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path, CAP)
    path = store.residual.path(b"t" * 32)
    store.commit_pending(b"t" * 32, b"p" * 32)
    assert not path.exists()
    # A fit whose report was lost to a power cut left one too: it belongs to nothing that was sent.
    store.residual.next_path(b"t" * 32, b"o" * 32).write_bytes(b"never sent")
    store.residual.next_path(b"t" * 32, b"p" * 32).write_bytes(b"left over")
    for _ in range(2):
        store.commit_pending(b"t" * 32, b"p" * 32)
        assert path.read_bytes() == b"left over"
    assert not list(tmp_path.glob("*.next"))


def kept_files(store: DeviceStore, task: bytes) -> list[Path]:
    """Make everything that may be left of ``task``."""
    made = [one.path(task) for one in (store.residual, store.own, store.control)]
    made += [store.own.next_path(task, b"p" * 32), store.own.path(task).with_suffix(".damaged")]
    for path in made:
        path.write_bytes(b"something of its own")
    return made


def there(files: list[list[Path]]) -> list[bool]:
    assert all(len({path.exists() for path in some}) == 1 for some in files)
    return [some[0].exists() for some in files]


def test_what_was_kept_of_tasks_before_the_last_goes_with_a_new_one(tmp_path: Path) -> None:
    tasks = [bytes([number]) * 32 for number in range(1, 6)]
    store = DeviceStore(tmp_path, CAP, lambda: {tasks[0]})
    other = [tmp_path / "own-broker.conf", tmp_path / "control-"]
    for path in other:
        path.write_text("no file of a task")
    files = [kept_files(store, task) for task in tasks]
    store.adopt_model(b"m" * 32, tasks[0])
    # A device without a record of what it held removes nothing: what stays here is made once.
    assert all(there(files))
    store.adopt_model(b"n" * 32, tasks[0])
    assert all(there(files))
    store.adopt_model(b"o" * 32, tasks[1])
    assert there(files) == [True, True, False, False, False]
    files[2:] = [kept_files(store, task) for task in tasks[2:]]
    store.adopt_model(b"q" * 32, tasks[2])
    # The first is that of a release in a slot.
    assert there(files) == [True, True, True, False, False]
    files[3:] = [kept_files(store, task) for task in tasks[3:]]
    # Also where the agent started again, and damaged vectors were dropped in between.
    again = DeviceStore(tmp_path, CAP)
    again.drop_model(b"q" * 32)
    again.adopt_model(b"r" * 32, tasks[3])
    assert there(files) == [False, False, True, True, False]
    assert all(path.exists() for path in other)


def test_an_agent_keeps_what_belongs_to_the_releases_in_its_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = init_fleet(tmp_path, "herd", devices=["device-1"], hubs=["hub-1", "hub-2"])["device-1"]
    agent = EdgeAgent(EdgeSettings(name="device-1", fleet="herd", folder=str(folder)))
    tasks = [bytes([number]) * 32 for number in range(1, 5)]
    monkeypatch.setattr(agent.releases, "tasks", lambda: frozenset({tasks[0]}))
    files = [kept_files(agent.store, tasks[0])]
    for task in tasks[1:]:
        files.append(kept_files(agent.store, task))
        agent.store.adopt_model(task, task)
    assert there(files) == [True, False, True, True]


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="folder"):
        DeviceStore(tmp_path / "file" / "data", CAP)
    with pytest.raises(StoreError, match="free some space"):
        write_durably(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize("count", [0, 1, 4, 5, 7, 60, 123])
def test_counts_without_numpy_are_those_of_the_trainer(tmp_path: Path, count: int) -> None:
    path = tmp_path / "examples.npz"
    write_examples(path, count)
    shard = Examples(np.zeros((count, 2), np.uint8), np.zeros(count, np.int32))
    train, held_out = split_held_out(shard)
    assert shard_counts(path) == (len(train), len(held_out))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY"])
def test_an_unreadable_shard_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    assert shard_counts(tmp_path / "x.npz") == (0, 0)
    assert shard_counts(tmp_path / "none.npz") == (0, 0)


def test_an_array_with_an_endless_header_is_not_read_into_the_agent(tmp_path: Path) -> None:
    """Zeros or spaces pack a thousandfold; numpy takes no header over 10,000 bytes either."""
    for spaces, counts in ((5_000, (48, 12)), (50_000, (0, 0))):
        text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (60,)}" + b" " * spaces
        array = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + bytes(60)
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("y.npy", array)
        assert shard_counts(tmp_path / "x.npz") == counts


def test_a_shard_whose_bytes_were_changed_has_counts_or_none(tmp_path: Path) -> None:
    """Compressed too: whatever the readers raise, the agent goes on and counts nothing."""
    path = tmp_path / "examples.npz"
    np.savez_compressed(path, y=np.arange(500, dtype=np.int32))
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(300):
        torn = bytearray(good)
        for place in rng.integers(0, len(good), 8):
            torn[place] = rng.integers(0, 256)
        path.write_bytes(bytes(torn))
        train, held_out = shard_counts(path)
        assert isinstance(train + held_out, int)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for name in ("answered.log", "held.bin", "round.bin"):
        folder = tmp_path / name
        DeviceStore(folder, 1 << 20)
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
        with pytest.raises(StoreError, match=name):
            DeviceStore(folder, 1 << 20).restore()
    for name in ("session.bin", "bundles.bin", "opened.log"):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(StoreError, match=name):
            SingleStore(tmp_path / name)
