"""What an algorithm remembers from one version to the next; it belongs to the version it was made with.

Only the coordinator holds it. Nothing of it is sent but what an algorithm publishes itself.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.control import AlgorithmMemory, decode_memory
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack
from shoal_coordinator.algorithms.errors import AlgorithmStateError

Float32Vector = npt.NDArray[np.float32]


@dataclass(slots=True, eq=False)
class AlgorithmState:
    """``vectors`` float32[D] by name; ``settled`` is, by device, the round of which a control was last taken.

    Changed in place by the algorithm that it belongs to.
    """

    algorithm: str
    vectors: dict[str, Float32Vector] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)

    def vector(self, name: str, dimension: int, first: float = 0.0) -> Float32Vector:
        """Return the vector ``name`` (float32[D]), at the beginning ``first`` everywhere."""
        if name not in self.vectors:
            self.vectors[name] = np.full(dimension, first, np.float32)
        return self.vectors[name]


def encode_state(state: AlgorithmState) -> bytes:
    """Return the bytes that ``decode_state`` reads; none for a state that holds nothing."""
    if not state.vectors and not state.settled:
        return b""
    vectors = {name: vector.astype("<f4", copy=False).tobytes() for name, vector in state.vectors.items()}
    return pack(AlgorithmMemory(state.algorithm, vectors, state.settled))


def decode_state(data: bytes, algorithm: str, dimension: int) -> AlgorithmState:
    """Return the state in ``data`` for ``algorithm``: an empty one where there is none, or of another one.

    Raises:
        AlgorithmStateError: no state, or one of a model of another length.
    """
    if not data:
        return AlgorithmState(algorithm)
    try:
        stored = decode_memory(data)
    except MalformedMessageError as error:
        raise AlgorithmStateError(
            f"the stored state of the algorithm is damaged ({str(error)[:120]}): restore the store"
        ) from error
    if stored.algorithm != algorithm:
        return AlgorithmState(algorithm)
    if any(len(vector) != 4 * dimension for vector in stored.vectors.values()):
        raise AlgorithmStateError(
            f"the stored state of {algorithm} is of another model than one of {dimension} weights: give this "
            "task a data folder of its own"
        )
    vectors = {
        name: np.frombuffer(vector, "<f4").astype(np.float32) for name, vector in stored.vectors.items()
    }
    return AlgorithmState(algorithm, vectors, dict(stored.settled))
