"""Whose word lets a base be planned again, and what is done without it."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

import coordinator_bench
from edge_parts import codec_plan, make_fleet, make_plan
from shoal_codecs.secagg.certificates import check_certified
from shoal_codecs.secagg.errors import MissingCertificateError
from shoal_codecs.wire.hubs import NeverReleased, never_released_bytes
from shoal_codecs.wire.plan import HubOffer, Plan, SinglePlan, encode_plan, plan_hash
from shoal_coordinator.certificates import CertificateBook
from shoal_coordinator.round_errors import NothingToSkipError
from shoal_coordinator.service import make_organs
from shoal_coordinator.skipping import VersionSkipper
from shoal_coordinator.store import Store

THEN, NOW = make_fleet(hubs=3), make_fleet(hubs=2)
BASE = b"\1" * 32


def signed(digest: bytes, *hubs: str) -> NeverReleased:
    return NeverReleased(
        digest, {hub: THEN.identities[hub].sign(never_released_bytes(digest)) for hub in hubs}
    )


def test_a_hub_that_left_the_roster_cannot_be_spoken_for() -> None:
    """It may have released its sum, and a hub that came instead never signed the plan."""
    digest, keys = b"\3" * 32, {name: THEN.identities[name].public for name in ("hub-1", "hub-2")}
    full = signed(digest, "hub-1", "hub-2", "hub-3")
    check_certified(digest, ("hub-1", "hub-2"), (full,), keys)
    check_certified(digest, ("hub-1",), (full,), keys)
    with pytest.raises(MissingCertificateError, match="hub-3"):
        check_certified(digest, ("hub-1", "hub-2", "hub-3"), (full,), keys)


@pytest.fixture(name="store")
async def _store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "store")
    yield store
    await store.close()


async def test_the_book_waits_for_the_hubs_of_the_plan(store: Store) -> None:
    book, plan = CertificateBook(store, NOW.roster), make_plan(THEN, BASE)
    data, digest = encode_plan(plan), plan_hash(encode_plan(plan))
    await book.propose(data)
    for hub in ("hub-1", "hub-2"):
        await book.take(digest, hub, NOW.identities[hub].sign(never_released_bytes(digest)))
    assert dict(book.missing(plan.task, BASE)) == {(7, digest): ("hub-3",)}
    assert book.closed(plan.task, BASE)


def single_plan(like: Plan) -> Plan:
    part = SinglePlan(
        neighbours=4,
        threshold=3,
        edges=4,
        prekeys=tuple(bytes([place]) * 16 for place in range(5)),
        shares_ms=like.opens_ms + 1000,
        masked_ms=like.closes_ms - 1000,
    )
    coordinator = HubOffer("coordinator", bytes(32), bytes(32))
    return msgspec.structs.replace(like, mode="single", single=part, hubs=(coordinator,))


async def test_a_version_whose_masks_may_be_open_can_be_skipped(tmp_path: Path, store: Store) -> None:
    """A coordinator that was put back to an older folder finds that nobody answers: there is a way out."""
    bench = coordinator_bench.Bench(tmp_path, "mqtt://127.0.0.1:9", mode="single", shares_s=1.0, unmask_s=1.0)
    organs = await make_organs(bench.settings(), store)
    skipper, base = VersionSkipper(organs), organs.models.newest
    with pytest.raises(NothingToSkipError):
        await skipper.skip("nobody answers")
    codec = codec_plan(5, dimension=base.whole.size // 4)
    plan = make_plan(make_fleet(devices=5), base.digest, task=organs.models.task.digest, codec=codec)
    for number in (7, 8):
        # However many rounds are given up, the book does not grow.
        await organs.certificates.propose(
            encode_plan(single_plan(msgspec.structs.replace(plan, round=number)))
        )
        assert len(organs.certificates._page.plans) == 1
    assert not organs.certificates.missing(plan.task, base.digest)
    outcome = await skipper.skip("nobody answers")
    assert organs.models.newest.number == base.number + 1
    assert outcome.version == organs.models.newest
