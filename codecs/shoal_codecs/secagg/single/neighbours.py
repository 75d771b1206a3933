"""Who holds a device's secrets and with whom it shares masks: drawn by each device for itself.

Bell et al. (2020, section 4) draw one Harary graph for all from common randomness. Common randomness has a
last revealer, who may withhold its part and so choose between graphs, again and again. Here every device
draws its own neighbours from a nonce that its signed key bundle has committed it to before the plan
existed: nobody else knows the nonce when the plan is made, and nobody's silence changes a draw. The first
``neighbours`` of the permutation hold shares of the device's secrets; with the first ``edges`` of them it
shares masks, whichever end drew the other.
"""

import hashlib
from collections.abc import Sequence

from shoal_codecs.secagg.single.errors import DrawError
from shoal_codecs.wire.packing import prefixed
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey, draw_commitment

_LABEL = b"shoal/1 neighbours\x00"
_WORD_BYTES = 8


def draw_neighbours(
    nonce: bytes, plan_hash: bytes, device: str, cohort: Sequence[str], count: int
) -> tuple[str, ...]:
    """Return the first ``count`` of the other members of ``cohort``, in the order that ``nonce`` draws.

    Fisher and Yates' shuffle; step i takes word i (64 bits, little-endian) of SHAKE-256 over label, M, name
    and nonce, modulo what is left: the bias is under 2^-48 for any cohort there can be.
    """
    others = [name for name in cohort if name != device]
    stream = hashlib.shake_256(_LABEL + plan_hash + prefixed(device) + nonce).digest(_WORD_BYTES * count)
    for place in range(count):
        word = int.from_bytes(stream[place * _WORD_BYTES : (place + 1) * _WORD_BYTES], "little")
        other = place + word % (len(others) - place)
        others[place], others[other] = others[other], others[place]
    return tuple(others[:count])


def drawn_by(device: str, nonce: bytes, prekey: Prekey, plan: Plan, plan_hash: bytes) -> tuple[str, ...]:
    """Return the neighbours of ``device``, whose bundle in the plan is ``prekey``, in their order.

    Raises:
        DrawError: ``nonce`` is not the one the bundle commits to.
    """
    if plan.single is None:
        raise DrawError("neighbours are drawn in mode 'single' only: look at the plan")
    if draw_commitment(nonce) != prekey.draw:
        raise DrawError(f"{device!r} shows another nonce than it committed to: its shares are not taken")
    return draw_neighbours(nonce, plan_hash, device, plan.cohort, plan.single.neighbours)
