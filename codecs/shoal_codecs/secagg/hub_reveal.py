"""When a hub shows the nonce it promised; pure.

All hubs promise before any of them shows, so that no hub can choose its nonce after the others'. A nonce is
shown for one set of promises, one task and one base. Whoever could draw again and again would draw until the
coordinates suit, so draws that come to no sum are few, and seldom after that.
"""

from collections.abc import Container
from dataclasses import dataclass

from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.hub_errors import (
    BaseAnsweredError,
    DrawLimitError,
    PromiseSetError,
    PromiseSignatureError,
    StalePromiseError,
)
from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.security.identity import verify
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.hubs import HubPromise, promise_signing_bytes
from shoal_codecs.wire.messages import RevealWanted


@dataclass(frozen=True, slots=True)
class Wasted:
    """How many draws came to no sum since the last that did, and when the newest was made."""

    draws: int = 0
    last_ms: int = 0


def check_reveal(
    wanted: RevealWanted,
    *,
    own: HubPromise,
    roster: Roster,
    floors: HubFloors,
    answered: Container[tuple[bytes, bytes]],
    wasted: Wasted,
    now_ms: int,
) -> None:
    """Refuse to show the nonce of the promise ``own`` for the promises in ``wanted``.

    Raises:
        BaseAnsweredError: a plan on this base is signed and not abandoned.
        PromiseSetError: not one promise of every hub on the roster.
        StalePromiseError: this hub promises something else now.
        PromiseSignatureError: a promise that its hub did not sign.
        DrawLimitError: too many draws came to no sum.
    """
    named = tuple(sorted(promise.hub for promise in wanted.promises))
    if named != roster.names("hub"):
        raise PromiseSetError(
            f"promises of {list(named)}, the roster names the hubs {list(roster.names('hub'))}: "
            "ask with one promise of each"
        )
    if own not in wanted.promises:
        raise StalePromiseError("this hub promises something else now: take its newest status")
    for promise in wanted.promises:
        _check_signature(promise, roster)
    if (wanted.task, wanted.base) in answered:
        raise BaseAnsweredError(
            f"this hub answered for base {wanted.base.hex()[:16]} already: finish that round, or abort it "
            "and wait until every hub has abandoned it"
        )
    wait_ms = wasted.last_ms + floors.draw_pause_s * 1000 - now_ms
    if wasted.draws >= floors.free_draws and wait_ms > 0:
        raise DrawLimitError(
            f"{wasted.draws} draws of coordinates in a row came to no sum: see why rounds fail; the next "
            f"draw in {wait_ms / 1000:.0f} s"
        )


def _check_signature(promise: HubPromise, roster: Roster) -> None:
    signed = promise_signing_bytes(roster.fleet, promise.hub, promise.key, promise.commitment)
    try:
        verify(roster.party(promise.hub).key, signed, promise.signature)
    except ShoalError as error:
        raise PromiseSignatureError(
            f"the promise of {promise.hub} is not signed by it: take its newest status"
        ) from error
