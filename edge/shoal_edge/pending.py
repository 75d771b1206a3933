"""Files that change with a report: what a fit leaves counts once the report it belongs to is persisted.

So a fit that is repeated after a power cut begins where the first one began, and trains nothing twice.
"""

import re
from collections.abc import Collection
from pathlib import Path

from shoal_codecs.durable import sync_folder
from shoal_edge.files import disk_faults

_DIGITS = 16


class PendingFile:
    """One file a task in ``folder``, named after ``kind``."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind

    def path(self, task: bytes) -> Path:
        """Return where the file of ``task`` is kept."""
        return self._folder / f"{self._kind}-{task.hex()[:_DIGITS]}"

    def forget_others(self, keep: Collection[bytes]) -> None:
        """Remove the files of all tasks but those to ``keep``, damaged ones too.

        Raises:
            StoreError: the disk does not let go of them.
        """
        kept = {self.path(task).name for task in keep}
        names = re.compile(rf"({self._kind}-[0-9a-f]{{{_DIGITS}}})(\..*)?")
        with disk_faults(self._folder):
            for path in self._folder.iterdir():
                found = names.fullmatch(path.name)
                if found and found[1] not in kept:
                    path.unlink(missing_ok=True)

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
