"""One SecAgg+ round of Flower by Flower's own workflow and client code, without its network.

Runs in the environment that ``flower.sh`` makes. ``SecAggPlusWorkflow`` is the server, ``secaggplus_mod`` is
every client; what lies between them hands messages over in memory, lets devices drop out, and counts CPU
seconds on both sides and bytes on the way up.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from logging import ERROR, getLogger
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_to_proto
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity

getLogger("flwr").setLevel(ERROR)
LOST = Error(code=1, reason="dropped out")
# What a real run's server process is called; messages carry it.
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@dataclass
class Cost:
    """CPU seconds and bytes up of one device."""

    cpu_s: float = 0.0
    up_bytes: int = 0


@dataclass
class Node:
    """A client: its state between the stages, its update and what it cost."""

    update: np.ndarray
    examples: int
    context: Context
    cost: Cost = field(default_factory=Cost)

    def handle(self, message: Message) -> Message:
        """Answer with Flower's client code; making the update itself is not counted."""
        spent = 0.0

        def app(message: Message, _: Context) -> Message:
            nonlocal spent
            began = time.process_time()
            result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.update]), self.examples, {})
            content = fitres_to_recorddict(result, keep_input=False)
            spent = time.process_time() - began
            return Message(content, reply_to=message)

        began = time.process_time()
        reply = secaggplus_mod(message, self.context, app)
        self.cost.cpu_s += time.process_time() - began - spent
        self.cost.up_bytes += recorddict_to_proto(reply.content).ByteSize()
        return reply


class Between:
    """Stands in for the network: ``lost`` maps a stage to the nodes that are gone from it on.

    Where ``whole`` is given, only those nodes mask their whole vector, the others one coordinate, and the
    server gets a whole one in their place: the sum is then worth nothing, its cost is what it would be.
    """

    def __init__(
        self, nodes: dict[int, Node], lost: dict[str, set[int]], whole: set[int] | None = None
    ) -> None:
        self.nodes, self.lost, self.whole = nodes, lost, whole
        self.gone: set[int] = set()
        self.cpu_s = 0.0
        self.seen: list[tuple[str, int, RecordDict]] = []

    def send_and_receive(self, messages: Iterable[Message], timeout: float | None = None) -> list[Message]:
        """Let every node answer; the time it takes is not the server's."""
        del timeout
        messages = list(messages)
        began = time.process_time()
        stage = str(messages[0].content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])
        self.gone |= self.lost.get(stage, set())
        replies = []
        for message in messages:
            name = message.metadata.dst_node_id
            content = _copy(message.content)
            if name in self.gone:
                replies.append(Message(LOST, reply_to=message))
                continue
            sent = Message(content, dst_node_id=name, message_type=message.metadata.message_type)
            reply = self.nodes[name].handle(sent)
            self.seen.append((stage, name, reply.content))
            replies.append(Message(reply.content, reply_to=message))
        if stage == Stage.COLLECT_MASKED_VECTORS and self.whole:
            self._fill(replies, self.whole)
        self.cpu_s += time.process_time() - began
        return replies

    @staticmethod
    def _fill(replies: list[Message], whole: set[int]) -> None:
        good = [reply for reply in replies if not reply.has_error()]
        first = next(reply for reply in good if reply.metadata.src_node_id in whole)
        vector = first.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        for reply in good:
            reply.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS] = vector


class Proxy:
    """What the workflow knows of a client."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id


class TakeAll:
    """A strategy that chooses everybody and keeps the mean."""

    def __init__(self, names: list[int]) -> None:
        self.names = names
        self.mean: np.ndarray | None = None

    def configure_fit(
        self, number: int, parameters: Parameters, manager: object
    ) -> list[tuple[Proxy, FitIns]]:
        """Choose every node."""
        del number, manager
        return [(Proxy(name), FitIns(parameters, {})) for name in self.names]

    def aggregate_fit(self, number: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        """Keep the mean that the workflow unmasked."""
        del number, failures
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}


@dataclass
class Outcome:
    """What came of a round: the mean (None: none), the server's CPU seconds, nodes, and what was sent up."""

    mean: np.ndarray | None
    server_cpu_s: float
    nodes: dict[int, Node]
    seen: list[tuple[str, int, RecordDict]]


def run_round(
    updates: dict[int, np.ndarray],
    examples: dict[int, int],
    *,
    shares: float,
    threshold: float,
    lost: dict[str, set[int]] | None = None,
    whole: set[int] | None = None,
) -> Outcome:
    """Run one round; ``shares`` counts a device's own, so that it has ``shares - 1`` neighbours.

    A float is a share: of the devices, and of the shares.
    """
    nodes = {
        name: Node(update, examples[name], Context(0, name, {}, RecordDict(), {}))
        for name, update in updates.items()
    }
    strategy = TakeAll(list(nodes))
    context = LegacyContext(Context(0, 0, {}, RecordDict(), {}), strategy=strategy)
    longest = max(updates.values(), key=len)
    context.state.config_records["config"] = ConfigRecord({"current_round": 1})
    context.state.array_records["parameters"] = parameters_to_arrayrecord(
        ndarrays_to_parameters([longest]), keep_input=False
    )
    between = Between(nodes, lost or {}, whole)
    workflow = SecAggPlusWorkflow(num_shares=shares, reconstruction_threshold=threshold)
    began = time.process_time()
    workflow(between, context)
    total = time.process_time() - began
    return Outcome(strategy.mean, total - between.cpu_s, nodes, between.seen)


def _copy(content: RecordDict) -> RecordDict:
    """Return what a node may take apart: the mod takes keys out of what it is sent."""
    copied = RecordDict({key: record for key, record in content.items() if key != RECORD_KEY_CONFIGS})
    copied[RECORD_KEY_CONFIGS] = ConfigRecord(dict(content.config_records[RECORD_KEY_CONFIGS]))
    return copied
