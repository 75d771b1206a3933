"""``shoal-edge privacy``: the device's own ledger, for its owner to read."""

import math
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from shoal_codecs.privacy.charge import Charge
from shoal_codecs.privacy.ledger import FOLDED, Ledger
from shoal_edge.config import EdgeSettings

BAR_WIDTH = 30
SHOWN = 10
TOLD = {
    "clear": "counts and scores of its data, in clear",
    "verdict": "whether a release passes its health check here, no counts",
    "none": "nothing else about its data",
}


def ledger_view(settings: EdgeSettings, ledger: Ledger) -> dict[str, Any]:
    """Return the ledger as plain values: what is spent (None where that is unknown), and every charge."""
    delta = settings.privacy.delta
    spent = ledger.spent(delta)
    so_far, charges = Charge(), []
    for entry in ledger.entries.values():
        so_far += entry.charge
        charges.append(
            {
                "round": entry.round,
                "task": entry.task.hex()[:16],
                "plan": "" if entry.plan_hash == FOLDED else entry.plan_hash.hex()[:16],
                "at_ms": entry.at_ms,
                "epsilon_after": so_far.epsilon(delta),
            }
        )
    return {
        "device": settings.name,
        "budget": settings.privacy.epsilon,
        "delta": delta,
        "spent": spent if math.isfinite(spent) else None,
        "exhausted": ledger.exhausted,
        "metrics": settings.privacy.told,
        "charges": charges,
    }


def privacy_words(settings: EdgeSettings, ledger: Ledger, *, as_json: bool) -> str:
    """Return the ledger as text for a terminal, or as JSON."""
    view = ledger_view(settings, ledger)
    if as_json:
        return msgspec.json.format(msgspec.json.encode(view)).decode() + "\n"
    return "\n".join(_lines(view)) + "\n"


def _lines(view: dict[str, Any]) -> Iterator[str]:
    budget, spent = view["budget"], view["spent"]
    yield f"privacy budget of {view['device'] or 'this device'}, over all tasks"
    yield ""
    if view["exhausted"]:
        yield f"  spent        all of it: {view['exhausted']}"
    else:
        share = min(spent / budget, 1.0) if budget else 0.0
        filled = round(BAR_WIDTH * share)
        bar = f"  [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {share:.0%}" if budget else ""
        yield f"  spent        epsilon {spent:.3f}{bar}"
    yield f"  budget       {f'epsilon {budget:g}' if budget else 'none is set'}, delta {view['delta']:g}"
    without = "refused" if budget else "taken part in, and not counted here"
    yield f"  no noise     rounds without it are {without}"
    yield f"  also told    {TOLD[view['metrics']]}"
    charges = view["charges"]
    if not charges:
        if not view["exhausted"]:
            yield "  rounds       none has been charged yet"
        return
    yield ""
    yield f"  {'round':>6}  {'task':<16}  {'charged at':<19}  epsilon then"
    if len(charges) > SHOWN:
        yield f"  {'...':>6}  {len(charges) - SHOWN} earlier ones"
    for one in charges[-SHOWN:]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["at_ms"] / 1000))
        task = one["task"] if one["plan"] else "(older ones)"
        yield f"  {one['round']:>6}  {task:<16}  {at}  {one['epsilon_after']:>12.3f}"
