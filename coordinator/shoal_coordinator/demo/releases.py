"""The demo's releases: half-way to everybody, a bad one that the canary must catch, then the final model."""

from contextlib import suppress

from shoal_codecs.wire.status import FleetView, ReleaseRow
from shoal_coordinator.demo.state import DemoState
from shoal_coordinator.operator import Operator, OperatorError

RELEASE_S = 90.0
UNTRAINED = 0
SETTLE_S = 4.0
SETTLED = frozenset({"", "idle", "confirmed"})
_ENDED = {"complete", "aborted", "withdrawn"}


async def release_half_way(operator: Operator, state: DemoState) -> None:
    """Release the version at half of the rounds while training goes on, so that there is one to replace."""
    goal = state.first_version + max(1, state.rounds // 2)
    view = await operator.until(lambda view: view.version >= goal, RELEASE_S * 4)
    await _release(operator, state, view.version, f"half-way-v{view.version}")


async def release_everything(operator: Operator, state: DemoState) -> FleetView:
    """Release the untrained model, which must fail on its canary, then the newest; return the last view."""
    name = f"untrained-v{UNTRAINED}"
    view = operator.view
    latest = view.version if view else -1
    bad = await _release(operator, state, UNTRAINED, f"{name}-{latest}")
    if bad.state == "complete":
        state.happened("release.bad", "the untrained model passed every health check: that must not happen")
    else:
        held = sum(row.release_version > UNTRAINED for row in _view(operator).devices)
        state.happened("release.bad", f"the fleet kept what it had: {held} devices still run a trained model")
    await _release(operator, state, latest, f"final-v{latest}")
    # The devices' heartbeats follow their reports within a second or two.
    with suppress(OperatorError):
        return await operator.until(lambda view: _all_settled(view, latest), SETTLE_S)
    return _view(operator)


async def _release(operator: Operator, state: DemoState, version: int, name: str) -> ReleaseRow:
    state.releases.append(name)
    await operator.command("release.create", version=version, name=name, canaries=1, allow_older=True)

    def ended(view: FleetView) -> bool:
        return _row(view, name) is not None and _require(view, name).state in _ENDED

    view = await operator.until(ended, RELEASE_S)
    row = _require(view, name)
    words = f"release {name}: {row.state}, {row.confirmed} of {state.options.devices} devices confirmed"
    if row.rolled_back:
        words += f", {row.rolled_back} went back"
    state.happened(f"release.{row.state}", words)
    return row


def _all_settled(view: FleetView, version: int) -> bool:
    devices = [row for row in view.devices if row.trust == "roster"]
    return all(row.release_version == version and row.updater in SETTLED for row in devices)


def _row(view: FleetView, name: str) -> ReleaseRow | None:
    return next((row for row in reversed(view.releases) if row.release == name), None)


def _require(view: FleetView, name: str) -> ReleaseRow:
    row = _row(view, name)
    if row is None:
        raise LookupError(name)
    return row


def _view(operator: Operator) -> FleetView:
    if operator.view is None:
        raise RuntimeError("the releases began before the fleet was seen")
    return operator.view
