"""Every move a hub can make in a round: state, event, and the states it may lead to."""

from shoal_codecs.secagg.hub_messages import (
    Aborted,
    Committed,
    Event,
    NormsJudged,
    PeerAbandoned,
    PeerAgreement,
    PeerChallenge,
    PeerProjections,
    PeerSet,
    Projected,
    Reminded,
    ReportStored,
    State,
    SumSealed,
    Tick,
)

S = State
TRANSITIONS: dict[State, dict[type[Event], frozenset[State]]] = {
    S.SIGNED: {
        ReportStored: frozenset({S.SIGNED, S.CLOSED, S.CHALLENGED, S.AGREED, S.ABANDONED}),
        Tick: frozenset({S.SIGNED, S.CLOSED, S.CHALLENGED, S.AGREED, S.ABANDONED}),
        PeerSet: frozenset({S.SIGNED}),
        PeerAbandoned: frozenset({S.ABANDONED}),
        Aborted: frozenset({S.ABANDONED}),
        Reminded: frozenset({S.SIGNED}),
        # No PeerAgreement: a peer can only agree to a set that holds this hub's own, so this hub must have
        # been put back to an older folder.
    },
    S.CLOSED: {
        Tick: frozenset({S.CLOSED, S.ABANDONED}),
        PeerSet: frozenset({S.CLOSED, S.CHALLENGED, S.CHECKING, S.AGREED, S.SUMMING, S.ABANDONED}),
        PeerChallenge: frozenset({S.CLOSED}),
        PeerAgreement: frozenset({S.CLOSED}),
        PeerAbandoned: frozenset({S.ABANDONED}),
        Aborted: frozenset({S.ABANDONED}),
        Reminded: frozenset({S.CLOSED}),
    },
    S.CHALLENGED: {
        Tick: frozenset({S.CHALLENGED, S.ABANDONED}),
        PeerSet: frozenset({S.CHALLENGED}),
        PeerChallenge: frozenset({S.CHALLENGED, S.CHECKING, S.ABANDONED}),
        PeerProjections: frozenset({S.CHALLENGED}),
        PeerAbandoned: frozenset({S.ABANDONED}),
        Aborted: frozenset({S.ABANDONED}),
        Reminded: frozenset({S.CHALLENGED}),
        # No PeerAgreement: a peer agrees only once it has this hub's projections.
    },
    S.CHECKING: {
        Tick: frozenset({S.CHECKING, S.ABANDONED}),
        PeerSet: frozenset({S.CHECKING}),
        PeerChallenge: frozenset({S.CHECKING}),
        PeerProjections: frozenset({S.CHECKING}),
        Projected: frozenset({S.CHECKING}),
        NormsJudged: frozenset({S.AGREED, S.SUMMING, S.ABANDONED}),
        PeerAgreement: frozenset({S.CHECKING}),
        PeerAbandoned: frozenset({S.ABANDONED}),
        Aborted: frozenset({S.ABANDONED}),
        Reminded: frozenset({S.CHECKING}),
    },
    S.AGREED: {
        Tick: frozenset({S.AGREED, S.ABANDONED}),
        PeerSet: frozenset({S.AGREED}),
        PeerAgreement: frozenset({S.AGREED, S.SUMMING, S.ABANDONED}),
        PeerAbandoned: frozenset({S.ABANDONED}),
        # Peers may have released already, for good: then a sum is better than a base nobody can use again.
        Aborted: frozenset({S.AGREED}),
        Reminded: frozenset({S.AGREED}),
    },
    S.SUMMING: {
        Tick: frozenset({S.SUMMING}),
        PeerSet: frozenset({S.SUMMING}),
        PeerAgreement: frozenset({S.SUMMING}),
        SumSealed: frozenset({S.SUMMED, S.SPENT}),
        Aborted: frozenset({S.SUMMING}),
        Reminded: frozenset({S.SUMMING}),
    },
    S.SUMMED: {
        Tick: frozenset({S.SUMMED}),
        PeerSet: frozenset({S.SUMMED}),
        PeerAgreement: frozenset({S.SUMMED}),
        Committed: frozenset({S.COMMITTED}),
        Aborted: frozenset({S.SPENT}),
        Reminded: frozenset({S.SUMMED}),
    },
    S.COMMITTED: {
        Tick: frozenset({S.COMMITTED}),
        PeerSet: frozenset({S.COMMITTED}),
        PeerAgreement: frozenset({S.COMMITTED}),
        Committed: frozenset({S.COMMITTED}),
        Reminded: frozenset({S.COMMITTED}),
    },
    S.SPENT: {
        Tick: frozenset({S.SPENT}),
        PeerSet: frozenset({S.SPENT}),
        PeerAgreement: frozenset({S.SPENT}),
        # An abort may have crossed the sum: a coordinator that got it in the end commits.
        Committed: frozenset({S.COMMITTED}),
        Aborted: frozenset({S.SPENT}),
        Reminded: frozenset({S.SPENT}),
    },
    S.ABANDONED: {
        Tick: frozenset({S.ABANDONED}),
        PeerSet: frozenset({S.ABANDONED}),
        PeerAgreement: frozenset({S.ABANDONED}),
        PeerAbandoned: frozenset({S.ABANDONED}),
        Aborted: frozenset({S.ABANDONED}),
        Reminded: frozenset({S.ABANDONED}),
    },
}

# Words of the norm check that come late: a peer repeats them until it has seen this hub's agreement.
for _state in (S.AGREED, S.SUMMING, S.SUMMED, S.COMMITTED, S.SPENT, S.ABANDONED):
    for _late in (PeerChallenge, PeerProjections, Projected):
        TRANSITIONS[_state][_late] = frozenset({_state})
TRANSITIONS[S.ABANDONED][NormsJudged] = frozenset({S.ABANDONED})
