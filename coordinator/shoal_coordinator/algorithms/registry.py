"""The coordinator's algorithms, by the name that settings and plans use."""

from shoal_coordinator.algorithms.averaging import FedAvg, FedProx
from shoal_coordinator.algorithms.base import Algorithm
from shoal_coordinator.algorithms.errors import UnknownAlgorithmError
from shoal_coordinator.algorithms.normalised import FedBuff, FedNova, QFedAvg
from shoal_coordinator.algorithms.optimisers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from shoal_coordinator.algorithms.robust import Krum, Median, MultiKrum, NormClip, TrimmedMean
from shoal_coordinator.algorithms.scaffold import Scaffold
from shoal_coordinator.algorithms.settings import DEFAULT_OPTIONS, AlgorithmSettings

_KINDS: tuple[type[Algorithm], ...] = (
    FedAvg,
    FedProx,
    FedAvgM,
    FedAdam,
    FedYogi,
    FedAdagrad,
    Scaffold,
    FedNova,
    QFedAvg,
    FedBuff,
    Median,
    TrimmedMean,
    Krum,
    MultiKrum,
    NormClip,
)
ALGORITHMS: dict[str, type[Algorithm]] = {kind.name: kind for kind in _KINDS}
"""The one registry; docs/reference/algorithms.md is held to it by a test."""


def make_algorithm(name: str, settings: AlgorithmSettings = DEFAULT_OPTIONS) -> Algorithm:
    """Return the algorithm called ``name``.

    Raises:
        UnknownAlgorithmError: there is none.
    """
    try:
        return ALGORITHMS[name](settings)
    except KeyError:
        raise UnknownAlgorithmError(
            f"no algorithm is called {name!r}: set rounds.algorithm.name to one of {', '.join(ALGORITHMS)}"
        ) from None
