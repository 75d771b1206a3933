"""The transition table of a round: which event means which step in which state; the rest are errors."""

from shoal_coordinator.round_steps import (
    Aggregated,
    AggregationFailed,
    Begun,
    DeviceBack,
    DeviceEvaluated,
    DeviceGone,
    DeviceReplied,
    DeviceShows,
    GivenUp,
    HubAbandoned,
    HubAgreed,
    HubRefused,
    HubRevealed,
    HubSigned,
    HubSummed,
    LateStored,
    MasksOpened,
    ReportStored,
    Restored,
    RoundState,
    SurvivorsNamed,
    Tick,
)

IGNORE = "ignore"
_FLEET = (DeviceReplied, DeviceShows, DeviceBack, DeviceGone)
_REPORTS = (ReportStored, LateStored)
_HUBS = (HubRevealed, HubSigned, HubAbandoned, HubAgreed, HubSummed)


def _row(steps: dict[type, str], ignored: tuple[type, ...]) -> dict[type, str]:
    """Return a state's row; ``ignored`` are late or repeated words that honest parties do send."""
    return steps | dict.fromkeys(ignored, IGNORE)


TRANSITIONS: dict[RoundState, dict[type, str]] = {
    RoundState.IDLE: _row({Begun: "begin", Restored: "restore"}, ()),
    RoundState.REVEALING: _row(
        {HubRevealed: "revealed", HubRefused: "refused", GivenUp: "given_up", Tick: "revealing_due"},
        (DeviceBack, DeviceGone, DeviceShows),
    ),
    RoundState.PROPOSING: _row(
        {
            HubSigned: "signed",
            HubRefused: "refused",
            HubAbandoned: "hub_abandoned",
            GivenUp: "given_up",
            Tick: "proposing_due",
        },
        (DeviceBack, DeviceGone, DeviceShows, HubRevealed),
    ),
    RoundState.COLLECTING: _row(
        {
            DeviceReplied: "replied",
            DeviceShows: "shows",
            DeviceBack: "back",
            ReportStored: "reported",
            LateStored: "late_stored",
            SurvivorsNamed: "survivors_named",
            MasksOpened: "masks_opened",
            HubAgreed: "agreed",
            HubSummed: "summed",
            HubAbandoned: "hub_abandoned",
            GivenUp: "given_up",
            Tick: "collecting_due",
        },
        (DeviceGone, HubRevealed, HubSigned),
    ),
    RoundState.SUMMING: _row(
        {
            MasksOpened: "masks_opened",
            HubAgreed: "agreed",
            HubSummed: "summed",
            HubAbandoned: "hub_abandoned",
            GivenUp: "given_up",
        },
        (*_FLEET, SurvivorsNamed, HubRevealed, HubSigned, Tick),
    ),
    RoundState.AGGREGATING: _row(
        {Aggregated: "aggregated", AggregationFailed: "aggregation_failed"},
        (*_FLEET, *_HUBS, *_REPORTS, Tick),
    ),
    RoundState.EVALUATING: _row(
        {DeviceEvaluated: "evaluated", DeviceGone: "gone", Tick: "evaluating_due"},
        (DeviceReplied, DeviceShows, DeviceBack, *_HUBS, *_REPORTS),
    ),
    RoundState.WITHDRAWING: _row(
        {
            HubAbandoned: "hub_let_go",
            HubAgreed: "agreed",
            HubSummed: "summed",
            Tick: "withdrawing_due",
        },
        (*_FLEET, HubRevealed, HubSigned, HubRefused, GivenUp),
    ),
    RoundState.COMMITTED: _row({}, (*_FLEET, *_HUBS, *_REPORTS, DeviceEvaluated, Tick)),
    RoundState.ABORTED: _row({}, (*_FLEET, *_HUBS, HubRefused, *_REPORTS, GivenUp, Tick)),
}
