"""What a device keeps for itself: whole or not at all, for its user alone, and begun anew where damaged."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edge_parts import TASK
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.task import initial_weights
from shoal_edge.errors import StoreError
from shoal_edge.own_tensors import Own, begun, part_for, read_own, write_own
from shoal_edge.pending import PendingFile

HEAD = tuple(one.name for one in TASK.parameters[-2:])
PART = SharedPart(TASK.parameters, HEAD)


def own(value: float) -> Own:
    return Own({one.name: np.full(one.shape, value, np.float32) for one in PART.own})


def test_what_was_written_is_read_again_by_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "own"
    assert read_own(path).tensors == {}
    personal = np.arange(TASK.dimension, dtype=np.float32)
    write_own(path, Own(own(0.5).tensors, personal))
    found = read_own(path)
    assert not found.damaged
    for name, tensor in own(0.5).tensors.items():
        assert_array_equal(found.tensors[name], tensor)
        assert found.tensors[name].flags.writeable
    assert_array_equal(found.personal, personal)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_counts_with_a_report_is_on_disk_before_the_report_can_be_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending, synced = PendingFile(tmp_path, "own"), []
    task, plan = b"t" * 32, b"p" * 32
    pending.next_path(task, plan).write_bytes(b"after")

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(pending.path(task).read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    pending.commit(task, plan)
    assert synced == [b"after"]


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-3], lambda data: data[:40] + b"?" + data[41:], lambda _: b""]
)
def test_a_damaged_file_is_set_aside(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "own"
    write_own(path, own(0.5))
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    found = read_own(path)
    assert found.damaged
    assert found.tensors == {}
    assert not path.exists()
    assert (tmp_path / "own.damaged").exists()


def test_a_place_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(StoreError, match="mend the disk"):
        read_own(tmp_path / "own")


def test_tensors_begin_as_the_task_does_and_go_on_from_what_is_kept() -> None:
    first = PART.own_of(initial_weights(TASK.parameters, TASK.reference.seed))
    kept = own(0.5).tensors[HEAD[0]]
    odd = {HEAD[0]: kept, HEAD[1]: np.full(1, 0.5, np.float32)}
    found = begun(PART, Own(odd), TASK)
    assert_array_equal(found[HEAD[0]], kept)
    # Of another shape, or no number: not of this model any more.
    assert_array_equal(found[HEAD[1]], first[HEAD[1]])
    assert_array_equal(begun(PART, Own({HEAD[0]: kept * np.nan}), TASK)[HEAD[0]], first[HEAD[0]])
    assert begun(SharedPart(TASK.parameters), own(0.5), TASK) == {}


def test_a_vector_tells_by_its_length_what_of_the_task_it_is() -> None:
    assert part_for(TASK, own(0.5), TASK.dimension).own == ()
    assert part_for(TASK, own(0.5), PART.dimension).own == PART.own
    assert part_for(TASK, Own(), PART.dimension).own == ()
