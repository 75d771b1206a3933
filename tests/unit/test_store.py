import asyncio
import dataclasses
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from shoal_codecs.wire.blob import describe
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import encode_plan
from shoal_codecs.wire.status import RoundRow
from shoal_coordinator.ledger import Ledger
from shoal_coordinator.store import (
    AuditRecord,
    ReleaseDeviceRecord,
    ReleaseRecord,
    RoundRecord,
    Store,
    VersionRecord,
)
from shoal_coordinator.store.database import HEAD, MIGRATIONS, Database
from shoal_coordinator.store.errors import (
    ClosedStoreError,
    DamagedStoreError,
    NewerStoreError,
    StoreConflictError,
    StoreInUseError,
    StoreWriteError,
    UnknownVersionError,
)
from shoal_coordinator.store.store import DATABASE
from shoal_coordinator.store.tables import Table
from wire_parts import plan


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path)
    yield opened
    await opened.close()


def version(number: int, **changes: Any) -> VersionRecord:
    fields: dict[str, Any] = {
        "number": number,
        "digest": bytes([number]) * 32,
        "parent": bytes([number - 1]) * 32 if number else b"",
        "round": number,
        "task": b"t" * 32,
        "whole": describe(bytes(3000), 1024),
        "step": describe(b"step"),
        "devices": 10,
        "examples": 359,
        "accuracy": 0.95,
        "loss": 0.2,
        "median_loss": 0.25,
        "created_ms": 1_700_000_000_000,
    }
    return VersionRecord(**(fields | changes))


def under_way(number: int, state: str = "collecting", snapshot: bytes = b"") -> RoundRecord:
    return RoundRecord(
        number=number, state=state, plan=b"plan", plan_hash=b"h" * 32, opened_ms=1, snapshot=snapshot
    )


def committed(number: int) -> RoundRow:
    return RoundRow(round=number, outcome="committed", version=number, devices=10, accuracy=0.95)


async def reopened(store: Store) -> Store:
    await store.close()
    return await Store.open(store.folder)


async def test_to_close_waits_for_the_transaction_under_way_and_leaves_no_connection(tmp_path: Path) -> None:
    opened = await Database.open(tmp_path / DATABASE)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with opened.begin() as connection:
            await connection.execute(text("CREATE TABLE slow (id INTEGER)"))
            begun.set()
            await go_on.wait()

    writing = asyncio.create_task(write())
    await begun.wait()
    closed = asyncio.create_task(opened.close())
    await asyncio.sleep(0.05)
    assert not closed.done()
    go_on.set()
    await asyncio.gather(writing, closed)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'slow'").fetchone() == (1,)
    assert open_files(tmp_path) == []


async def test_who_comes_after_the_store_was_closed_is_told_so_and_opens_nothing(tmp_path: Path) -> None:
    opened = await Store.open(tmp_path)
    await opened.add_first_version(version(0))
    await opened.close()
    with pytest.raises(ClosedStoreError, match="is closed: open the store again"):
        await opened.latest_version()
    assert open_files(tmp_path) == []


def open_files(folder: Path) -> list[str]:
    """Return what this process has open under ``folder``."""
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            targets.append(str(entry.readlink()))
    return [target for target in targets if target.startswith(str(folder))]


async def test_versions_come_back_with_where_they_came_from(store: Store) -> None:
    assert await store.latest_version() is None
    await store.add_first_version(version(0))
    await store.save_round(under_way(1))
    await store.commit_version(version(1), committed(1))
    again = await reopened(store)
    assert await again.versions() == [version(0), version(1)]
    assert await again.latest_version() == version(1)
    assert await again.version(0) == version(0)
    assert await again.rounds() == [committed(1)]
    assert await again.unfinished_round() is None
    await again.close()


async def test_an_unknown_version_is_named(store: Store) -> None:
    with pytest.raises(UnknownVersionError, match="version 7"):
        await store.version(7)


@pytest.mark.parametrize(
    "wrong", [version(2, round=1), version(1, parent=b"?" * 32), version(0, parent=b"\x00" * 32)]
)
async def test_a_version_that_does_not_follow_changes_nothing(store: Store, wrong: VersionRecord) -> None:
    await store.add_first_version(version(0))
    await store.save_round(under_way(1))
    with pytest.raises(StoreConflictError, match="does not follow"):
        await store.commit_version(wrong, committed(1))
    assert await store.versions() == [version(0)]
    assert await store.unfinished_round() == under_way(1)


async def test_a_version_and_the_end_of_its_round_are_kept_both_or_neither(store: Store) -> None:
    await store.add_first_version(version(0))
    await store.finish_round(RoundRow(round=1, outcome="aborted", reason="too few"))
    with pytest.raises(StoreConflictError, match="round 1 is over"):
        await store.commit_version(version(1), committed(1))
    assert await store.versions() == [version(0)]


async def test_a_round_under_way_is_found_again_as_it_was_last(store: Store) -> None:
    await store.save_round(under_way(3, "proposing"))
    await store.save_round(under_way(3, "collecting", b"snapshot"))
    again = await reopened(store)
    assert await again.unfinished_round() == under_way(3, "collecting", b"snapshot")
    await again.close()


async def test_what_is_over_stays_over(store: Store) -> None:
    await store.add_first_version(version(0))
    await store.commit_version(version(1), committed(1))
    with pytest.raises(StoreConflictError, match="over already"):
        await store.finish_round(RoundRow(round=1, outcome="aborted"))
    with pytest.raises(StoreConflictError, match="over already"):
        await store.save_round(under_way(1))
    assert await store.rounds() == [committed(1)]


async def test_the_newest_rounds_are_given_oldest_first(store: Store) -> None:
    for number in (3, 1, 2):
        await store.finish_round(RoundRow(round=number, outcome="aborted", reason="too few"))
    assert [row.round for row in await store.rounds()] == [1, 2, 3]
    assert [row.round for row in await store.rounds(last=2)] == [2, 3]


async def test_no_round_number_is_given_twice(store: Store) -> None:
    numbers = await asyncio.gather(*(store.next_round_number() for _ in range(25)))
    again = await reopened(store)
    assert sorted([*numbers, await again.next_round_number()]) == list(range(1, 27))
    await again.close()


async def test_a_number_that_no_round_took_is_the_next_one_s_after_a_restart(store: Store) -> None:
    """And one that was taken never is, though nothing was stored of its round."""
    for taken in range(3):
        for _ in range(2):
            ledger = Ledger(store, b"t" * 32, lambda: 5, lambda: (0.0, 0.0))
            await ledger.load()
            assert ledger.upcoming == taken + 1
            store = await reopened(store)
        ledger = Ledger(store, b"t" * 32, lambda: 5, lambda: (0.0, 0.0))
        await ledger.load()
        assert await ledger.take_number() == ledger.last_number == taken + 1
        assert ledger.upcoming == taken + 2
        # On disk before it is returned.
        store = await reopened(store)
        assert await store.last_round_number() == taken + 1
    await store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from shoal_coordinator.store import Store

async def run():
    store = await Store.open(Path(sys.argv[1]))
    while True:
        number = await store.next_round_number()
        await store.log_event("round.opened", "", {"round": number})
        print(number, flush=True)

asyncio.run(run())
"""


def numbers_of_a_killed_writer(folder: Path) -> list[int]:
    """Run a process that uses up round numbers, kill it while it does, and return what it said."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        process.kill()
        return said + [int(line) for line in process.stdout if line.endswith("\n")]


async def test_a_kill_at_any_moment_loses_nothing_that_was_said(tmp_path: Path) -> None:
    last = 0
    for _ in range(3):
        said = await asyncio.to_thread(numbers_of_a_killed_writer, tmp_path)
        assert said[0] > last
        last = said[-1]
    store = await Store.open(tmp_path)
    assert await store.next_round_number() > last
    logged = [line.fields["round"] for line in await store.audit(last=10_000)]
    assert len(logged) == len(set(logged))
    assert last in logged
    await store.close()


async def test_releases_and_their_devices_come_back(store: Store) -> None:
    release = ReleaseRecord(
        release="spring", version=3, state="canary", manifest=b"m", signature=b"s", canaries=("d-1", "d-2")
    )
    device = ReleaseDeviceRecord(release="spring", device="d-1", state="testing", candidate=(40, 38))
    await store.save_release(release)
    await store.save_release_device(device)
    await store.save_release(dataclasses.replace(release, state="done", reason="all confirmed"))
    await store.save_release_device(dataclasses.replace(device, state="confirmed"))
    again = await reopened(store)
    assert await again.releases() == [dataclasses.replace(release, state="done", reason="all confirmed")]
    assert await again.release_devices("spring") == [dataclasses.replace(device, state="confirmed")]
    assert await again.release_devices("autumn") == []
    await again.close()


async def test_a_device_of_no_release_is_refused(store: Store) -> None:
    with pytest.raises(StoreConflictError, match="FOREIGN KEY"):
        await store.save_release_device(ReleaseDeviceRecord(release="none", device="d-1", state="testing"))


async def test_the_audit_log_only_grows(store: Store) -> None:
    await store.log_event("round.opened", "round 1", {"round": 1, "devices": ["d-1"]})
    await store.log_event("round.aborted", "too few")
    lines = await store.audit()
    assert [(line.kind, line.text, line.fields) for line in lines] == [
        ("round.opened", "round 1", {"round": 1, "devices": ["d-1"]}),
        ("round.aborted", "too few", {}),
    ]
    assert await store.audit(last=1) == lines[1:]
    assert isinstance(lines[0], AuditRecord)
    with sqlite3.connect(store.folder / DATABASE) as direct:
        for statement in ("UPDATE audit SET text = 'nothing'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                direct.execute(statement)
    direct.close()


async def test_values_are_kept_by_key(store: Store) -> None:
    assert await store.get_value("boot") is None
    await store.set_value("boot", b"1")
    await store.set_value("boot", b"2")
    again = await reopened(store)
    assert await again.get_value("boot") == b"2"
    await again.close()


async def test_blobs_lie_beside_the_database(store: Store) -> None:
    ref = store.blobs.put(b"vector")
    assert store.blobs.read(ref.name) == b"vector"
    assert store.blobs.path(ref.name).is_relative_to(store.folder)


async def test_commits_are_written_through(store: Store) -> None:
    async with store._database.begin() as connection:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar() == value


# --- opening ------------------------------------------------------------------------------------


async def test_a_second_coordinator_is_told_that_the_store_is_in_use(store: Store) -> None:
    with pytest.raises(StoreInUseError, match="its own folder"):
        await Store.open(store.folder)


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database at all, but long enough to be read as one" * 40)
    with pytest.raises(DamagedStoreError, match="backup"):
        await Store.open(tmp_path)
    (tmp_path / DATABASE).unlink()
    store = await Store.open(tmp_path)
    await store.close()


async def test_a_broken_page_is_noticed_when_the_store_opens(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    await store.close()
    with (tmp_path / DATABASE).open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 16_384)
    with pytest.raises(DamagedStoreError, match="damaged"):
        await Store.open(tmp_path)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    with pytest.raises(DamagedStoreError, match="something else"):
        await Store.open(tmp_path)


async def test_a_newer_schema_asks_for_a_newer_shoal(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    await store.close()
    with sqlite3.connect(tmp_path / DATABASE) as direct:
        direct.execute("UPDATE alembic_version SET version_num = '9999'")
    direct.close()
    with pytest.raises(NewerStoreError, match="update this one"):
        await Store.open(tmp_path)


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreWriteError, match="cannot lock"):
        await Store.open(tmp_path / "file" / "store")


async def test_a_full_disk_is_named_and_nothing_is_half_kept(store: Store) -> None:
    await store.add_first_version(version(0))
    async with store._database.begin() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar()
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreWriteError, match="space"):
        await store.commit_version(version(1, task=bytes(1 << 20)), committed(1))
    assert (await store.versions(), await store.rounds()) == ([version(0)], [])


async def test_a_percent_sign_in_the_path_is_a_path(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "50% of it")
    assert await store.next_round_number() == 1
    await store.close()


async def test_the_tables_are_what_the_migrations_leave(store: Store) -> None:
    engine = create_engine(f"sqlite:///{store.folder / DATABASE}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


def test_the_newest_revision_is_the_one_that_opening_asks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_versions_of_an_older_store_promise_nothing(tmp_path: Path) -> None:
    """The first schema knew no privacy, and kept steps themselves where names of blobs stand now."""
    store = await Store.open(tmp_path)
    await store.add_first_version(version(0))
    await store.close()
    await asyncio.to_thread(_alembic, tmp_path / DATABASE, "downgrade", "0001")
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
        old_step = pack(["initial", b"", b"c" * 32, b"s", 0, 0.0, b""])
        database.execute("UPDATE versions SET step = ?", (old_step,))
    again = await Store.open(tmp_path)
    found = await again.version(0)
    assert (found.epsilon, found.task_epsilon, found.delta) == (None, None, 0.0)
    assert found.step is None
    assert await again.private_plans() == []
    await again.close()


@pytest.mark.parametrize("fault", ["plan", "snapshot"])
async def test_a_round_that_an_older_shoal_left_is_ended(store: Store, fault: str) -> None:
    """Its plan has another format, or its candidate names its step otherwise: the coordinator starts."""
    ledger = Ledger(store, b"t" * 32, lambda: 5, lambda: (0.0, 0.0))
    await ledger.load()
    fields: dict[str, Any] = {"plan": encode_plan(plan()), "snapshot": pack(old_memory(step=None))}
    assert unpack(fields["snapshot"], dict[str, Any])
    fields |= {"plan": pack({"format": 1})} if fault == "plan" else {"snapshot": pack(old_memory(step=b"x"))}
    record = RoundRecord(number=3, state="collecting", plan_hash=b"h" * 32, opened_ms=1, **fields)
    await store.save_round(record)
    assert await ledger.unfinished() is None
    assert await store.unfinished_round() is None
    assert (ledger.rows[-1].round, ledger.rows[-1].outcome) == (3, "aborted")
    assert "cannot be used any more" in ledger.rows[-1].reason


def old_memory(**changes: Any) -> dict[str, Any]:
    return {"signatures": {}, "members": [], "reason": "", **changes}


def _alembic(path: Path, direction: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, direction)(config, revision)
    engine.dispose()
