"""FedAvg, and what is FedAvg to the coordinator."""

from typing import ClassVar

from shoal_coordinator.algorithms.base import Algorithm


class FedAvg(Algorithm):
    """Federated averaging: the weighted mean of the updates, times the server's learning rate."""

    name: ClassVar[str] = "fedavg"
    paper: ClassVar[str] = "McMahan et al. 2017, algorithm 1 (arXiv:1602.05629)"
    formula: ClassVar[str] = "x += rate * sum_k w_k d_k / sum_k w_k"


class FedProx(FedAvg):
    """FedAvg whose devices are pulled back to the base by ``mu``."""

    name: ClassVar[str] = "fedprox"
    paper: ClassVar[str] = "Li et al. 2020, algorithm 2 (arXiv:1812.06127)"
    formula: ClassVar[str] = "FedAvg; a device minimises F_k(w) + mu/2 |w - x|^2"
