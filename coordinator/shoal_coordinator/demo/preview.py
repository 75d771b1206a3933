"""One device's update beside what the first hub saw of it, from the two logs that a demonstration keeps."""

import json
from pathlib import Path
from typing import Any

SHOWN = 6


def preview_line(device_log: Path, hub_log: Path, device: str, hub: str) -> str | None:
    """Return the newest round's numbers that both logs show, None while there are none."""
    updates = _newest(device_log, "update_preview")
    shares = _newest(hub_log, "share_preview")
    rounds = sorted(updates.keys() & shares.keys())
    if not rounds:
        return None
    update, share = updates[rounds[-1]]["update"], shares[rounds[-1]]["share"]
    sent = " ".join(f"{value:+.3f}" for value in update[:SHOWN])
    seen = " ".join(str(word) for word in share[:SHOWN])
    return f"round {rounds[-1]}: the update of {device} ends {sent}; {hub} opened {seen}: uniform noise"


def _newest(path: Path, event: str) -> dict[int, dict[str, Any]]:
    found = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if f'"{event}"' in line:
                entry = json.loads(line)
                found[int(entry["round"])] = entry
    return found
