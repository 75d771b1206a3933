"""Files that change with a report: what a fit leaves counts once the report it belongs to is persisted.

So a fit that is repeated after a power cut begins where the first one began, and trains nothing twice.
"""

from pathlib import Path

from shoal_codecs.durable import sync_folder
from shoal_edge.files import disk_faults


class PendingFile:
    """One file a task in ``folder``, named after ``kind``."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind

    def path(self, task: bytes) -> Path:
        """Return where the file of ``task`` is kept."""
        return self._folder / f"{self._kind}-{task.hex()[:16]}"

    def next_path(self, task: bytes, plan_hash: bytes) -> Path:
        """Return where the worker leaves the file that counts once the plan's report is persisted."""
        path = self.path(task)
        return path.with_name(f"{path.name}.{plan_hash.hex()[:16]}.next")

    def commit(self, task: bytes, plan_hash: bytes) -> None:
        """Let what the worker left for the plan, whose report is persisted, be the next round's start.

        Does nothing the second time, so that it can be repeated after a power cut between the two writes;
        what was left for plans whose reports were never made goes.

        Raises:
            StoreError: the disk does not take it.
        """
        path = self.path(task)
        following = self.next_path(task, plan_hash)
        with disk_faults(path):
            if following.exists():
                following.replace(path)
                # Before the report is sent and forgotten: nothing would bring it back after that.
                sync_folder(path.parent)
            for stale in path.parent.glob(f"{path.name}.*.next"):
                stale.unlink(missing_ok=True)
