"""Which way a device is offered: the steps it lacks or the whole, whichever is smaller."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.wire.blob import BlobRef, describe
from shoal_coordinator.chains import (
    MAX_INLINE_STEP_BYTES,
    ModelVersion,
    chain_to,
    longest_to,
    transfer_bytes,
    useful,
    with_step,
)

WHOLE = 100_000
QUICK = settings(deadline=None, max_examples=200)


def blob(size: int, mark: int) -> BlobRef:
    return describe(mark.to_bytes(4, "big") + bytes(size - 4))


def history(*sizes: int | None) -> list[ModelVersion]:
    """Versions 0, 1, ...: each with a step of that many bytes, None: without one."""
    versions: list[ModelVersion] = []
    for number, size in enumerate(sizes):
        whole = blob(WHOLE, number)
        step = blob(size, 1000 + number) if size else None
        parent = versions[-1].digest if versions else b""
        inline = bytes(size) if size and size <= MAX_INLINE_STEP_BYTES else b""
        versions.append(ModelVersion(number, whole.digest, whole, parent, step, inline))
    return versions


def numbers(chain: tuple[ModelVersion, ...] | None) -> list[int] | None:
    return None if chain is None else [version.number for version in chain]


def test_a_device_that_is_behind_gets_the_steps_it_lacks() -> None:
    known = history(80, 9000, 9000, 9000, 9000)
    target = known[-1]
    assert numbers(chain_to(target, target.model_id, known)) == []
    assert numbers(chain_to(target, known[3].model_id, known)) == [4]
    assert numbers(chain_to(target, known[1].model_id, known)) == [2, 3, 4]
    assert numbers(chain_to(target, b"", known)) == [0, 1, 2, 3, 4]
    assert numbers(chain_to(target, b"unknown!", known)) == [0, 1, 2, 3, 4]


def test_where_the_steps_are_no_smaller_the_whole_is_the_way() -> None:
    known = history(80, 40_000, 40_000, 40_000)
    assert numbers(chain_to(known[-1], known[1].model_id, known)) == [2, 3]
    assert chain_to(known[-1], known[0].model_id, known) is None
    assert chain_to(known[-1], b"", known) is None


def test_a_gap_in_the_steps_ends_the_chain() -> None:
    known = history(80, 900, None, 900, 900)
    assert numbers(chain_to(known[-1], known[2].model_id, known)) == [3, 4]
    assert chain_to(known[-1], known[1].model_id, known) is None
    later = known[3:]
    assert numbers(chain_to(known[-1], known[2].model_id, later)) == [3, 4]
    assert chain_to(known[-1], b"unknown!", later) is None


@QUICK
@given(st.lists(st.integers(4, 120_000) | st.none(), min_size=1, max_size=12), st.data())
def test_a_chain_joins_up_and_is_smaller_than_the_whole(sizes: list[int | None], data: st.DataObject) -> None:
    known = history(*sizes)
    target = data.draw(st.sampled_from(known))
    held = data.draw(st.sampled_from([b"", b"unknown!", *(version.model_id for version in known)]))
    chain = chain_to(target, held, known)
    if not chain:
        return
    assert chain[-1] is target
    for before, after in pairwise(chain):
        assert after.parent == before.digest
    assert not chain[0].parent or chain[0].parent[:8] == held
    assert sum(one.step.size for one in chain if one.step) < transfer_bytes(target.whole)


def test_one_that_may_hold_anything_is_offered_all_steps_that_are_smaller_than_the_whole() -> None:
    assert numbers(longest_to(history(80, *[900] * 5)[-1], history(80, *[900] * 5), 32)) == [0, 1, 2, 3, 4, 5]
    known = history(80, *[9000] * 20)
    assert numbers(longest_to(known[-1], known, 32)) == list(range(11, 21))
    assert numbers(longest_to(known[-1], known, 5)) == list(range(16, 21))
    assert numbers(longest_to(known[-1], known[:-1], 5)) == list(range(15, 21))
    assert longest_to(history(80, None)[-1], history(80, None), 32) is None


def test_only_so_many_steps_are_worth_keeping() -> None:
    assert useful(history(80, *[9000] * 20), 32) == 11
    assert useful(history(80, *[9000] * 20), 5) == 5
    assert useful(history(80, 900, None, 900, 900), 32) == 2
    assert useful(history(80, 900, 900), 32) == 3
    assert useful([], 32) == 0


@pytest.mark.parametrize("size", [MAX_INLINE_STEP_BYTES, MAX_INLINE_STEP_BYTES + 1])
def test_a_stored_step_is_inline_where_it_is_short(tmp_path: Path, size: int) -> None:
    blobs = BlobStore(tmp_path)
    ref = blobs.put(bytes(size))
    version = ModelVersion(3, b"d" * 32, ref, b"p" * 32, ref)
    assert with_step(version, blobs).inline == (bytes(size) if size == MAX_INLINE_STEP_BYTES else b"")
    assert with_step(version, blobs).step == ref
    blobs.drop(ref.name)
    assert with_step(version, blobs) == ModelVersion(3, b"d" * 32, ref, b"p" * 32)
