"""Whether this device answers with what is its own; read beside a running agent, and without numpy."""

from typing import Any

from shoal_edge.config import EdgeSettings
from shoal_edge.errors import NoOwnModelError
from shoal_edge.own_file import OwnFile, read_own_file
from shoal_edge.pending import PendingFile
from shoal_edge.store import held_state


def own_question(settings: EdgeSettings) -> dict[str, Any] | None:
    """Return what the worker's ``predict_own`` needs, None where the deployed model is to answer.

    Raises:
        NoOwnModelError: the owner wants the device's own model, and there is none yet.
        StoreError: the state folder cannot be read.
    """
    held = held_state(settings.state)
    personal = settings.personal.predict == "personal"
    own_path = PendingFile(settings.state, "own").path(held.task)
    kept = read_own_file(own_path) if held.task else OwnFile()
    if personal and kept.personal is None:
        raise NoOwnModelError(
            "this device has no model of its own yet: let it take part in a round, with `ditto` in its "
            "[personal] or in the fleet's [rounds]"
        )
    if not personal and not kept.tensors:
        return None
    newest = held.models[0] if held.models else b""
    return {
        "task": held.task,
        "task_path": str(settings.state / "blobs" / held.task.hex()),
        "model_path": str(settings.state / "models" / newest.hex()) if newest else "",
        "digest": newest,
        "own_path": str(own_path),
        "personal": personal,
    }
