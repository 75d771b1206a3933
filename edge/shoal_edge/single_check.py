"""What a device checks of a plan of mode ``single`` beyond any other's, and of all because of it."""

import math
from collections.abc import Sequence

from shoal_codecs.secagg.single.bundles import check_bundles
from shoal_codecs.secagg.single.parameters import Neighbourhood, check_neighbourhood
from shoal_codecs.security.roster import Roster
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey
from shoal_edge.errors import AnsweredBaseError, CohortFloorError
from shoal_edge.single_store import SingleStore


def check_masks_closed(plan: Plan, store: SingleStore) -> None:
    """Check that this device has opened no masks on the base of ``plan``, which may be of any mode.

    Raises:
        AnsweredBaseError: it has; the sum over those it was among is known.
    """
    if store.opened(plan.task + plan.base) is not None:
        raise AnsweredBaseError(
            "masks on this base were opened in another round: a second sum would show what differs; wait for "
            "the next version, or make it with `shoal rounds skip`"
        )


def check_single(
    plan: Plan,
    prekeys: Sequence[Prekey],
    *,
    device: str,
    roster: Roster,
    store: SingleStore,
    corrupt_share: float,
    dropout_share: float,
) -> None:
    """Check that ``device`` may share its secrets as ``plan`` says.

    It expects that ``corrupt_share`` of a cohort may be corrupt, and lets ``dropout_share`` of it vanish.

    Raises:
        BundleError: key bundles that are not what they must be, its own among them.
        CohortFloorError: a floor under which a small group could be split off.
        WeakNeighbourhoodError: fewer neighbours, masks or shares than hide it.
    """
    single, size = plan.single, len(plan.cohort)
    if single is None:
        return
    store.bundle_of(plan, device)
    check_bundles(plan, prekeys, roster)
    least = size - math.floor(dropout_share * size + 1e-9)
    if plan.n_min < least:
        raise CohortFloorError(
            f"the plan sums {plan.n_min} of {size} devices, this one insists on {least}: lower the plan's "
            "dropout_share, or raise this device's"
        )
    found = Neighbourhood(single.neighbours, single.threshold)
    check_neighbourhood(size, found, single.edges, corrupt_share, size - plan.n_min)
