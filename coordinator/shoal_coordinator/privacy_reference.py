"""What an independent accountant makes of a device's rounds: shown beside our own figure.

``dp-accounting`` is imported where it is first needed, for it brings SciPy and takes a second: call from a
thread.
"""

from functools import lru_cache
from typing import Any

from shoal_codecs.privacy.accountant import ORDERS

History = tuple[tuple[str, float, int], ...]
"""(mechanism, noise, rounds) each."""
GAUSSIANS = frozenset({"central", "local-gaussian"})


@lru_cache(maxsize=256)
def reference_epsilons(history: History, delta: float) -> tuple[float | None, float | None]:
    """Return epsilon by RDP and by privacy loss distributions, None where it has no event for a mechanism.

    It has none for Skellam noise; there our closed form is the only figure.
    """
    if any(mechanism not in GAUSSIANS | {"local-laplace"} for mechanism, _, _ in history):
        return None, None
    if not history:
        return 0.0, 0.0
    import dp_accounting  # noqa: PLC0415 - heavy, wanted for display only
    from dp_accounting import pld, rdp  # noqa: PLC0415 - the same

    accountants: tuple[Any, ...] = (rdp.RdpAccountant(orders=ORDERS), pld.PLDAccountant())
    for accountant in accountants:
        for mechanism, noise, rounds in history:
            kind = dp_accounting.GaussianDpEvent if mechanism in GAUSSIANS else dp_accounting.LaplaceDpEvent
            accountant.compose(kind(noise), rounds)
    by_rdp, by_pld = (float(accountant.get_epsilon(delta)) for accountant in accountants)
    return by_rdp, by_pld
