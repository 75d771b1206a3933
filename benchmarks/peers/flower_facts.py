"""What Flower's SecAgg+ does where an attacker would look, each by running it.

.peers/flower/bin/python benchmarks/peers/flower_facts.py
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from flower_round import Node, run_round
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)

MODULUS = 1 << 32
DIMENSION = 64
CONFIG = {
    Key.SAMPLE_NUMBER: 5,
    Key.SHARE_NUMBER: 5,
    Key.THRESHOLD: 3,
    Key.CLIPPING_RANGE: 8.0,
    Key.TARGET_RANGE: 1 << 22,
    Key.MOD_RANGE: MODULUS,
    Key.MAX_WEIGHT: 1000.0,
}


def update(seed: int) -> np.ndarray:
    """Return a small update."""
    return np.random.default_rng(seed).normal(0, 0.1, DIMENSION).astype(np.float32)


def node(name: int) -> Node:
    """Return a client on its own, played with by a server that lies."""
    return Node(update(name), 100, Context(0, name, {}, RecordDict(), {}))


def say(client: Node, name: int, stage: str, content: Mapping[Any, object]) -> ConfigRecord:
    """Return what ``client`` answers."""
    record = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({**content, Key.STAGE: stage})})
    reply = client.handle(Message(record, dst_node_id=name, message_type="train"))
    return reply.content.config_records[RECORD_KEY_CONFIGS]


def seeds_of_32_bits() -> str:
    """Masks hang on 32 bits, the exclusive or of the key's words."""
    key = os.urandom(32)
    other = bytearray(os.urandom(32))
    fold = np.bitwise_xor.reduce(np.frombuffer(key, "<u4"))
    other[:4] = (np.bitwise_xor.reduce(np.frombuffer(bytes(other[4:]), "<u4")) ^ fold).tobytes()
    same = np.array_equal(
        pseudo_rand_gen(key, MODULUS, [(DIMENSION,)])[0],
        pseudo_rand_gen(bytes(other), MODULUS, [(DIMENSION,)])[0],
    )
    tries, began = 20_000, time.process_time()
    for seed in range(tries):
        pseudo_rand_gen(seed.to_bytes(4, "little"), MODULUS, [(4,)])
    hours = (time.process_time() - began) / tries * MODULUS / 3600
    return f"two unlike 32-byte keys, one mask: {same}; all seeds tried in {hours:.1f} CPU hours, unoptimised"


def impersonated() -> str:
    """Keys are unsigned: a server that invents every neighbour reads one device in full."""
    victim, fakes = node(1), {name: (generate_key_pairs(), generate_key_pairs()) for name in range(2, 6)}
    keys = say(victim, 1, Stage.SETUP, CONFIG)
    named = {"1": [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]]}
    named |= {str(name): [public_key_to_bytes(one[1]) for one in pairs] for name, pairs in fakes.items()}
    shared = say(victim, 1, Stage.SHARE_KEYS, named)
    boxing, masking = (bytes_to_public_key(keys[key]) for key in (Key.PUBLIC_KEY_2, Key.PUBLIC_KEY_1))
    shares, boxes = [], []
    for name, box in zip(shared[Key.DESTINATION_LIST], shared[Key.CIPHERTEXT_LIST], strict=True):
        secret = generate_shared_key(fakes[name][1][0], boxing)
        shares.append(share_keys_plaintext_separate(decrypt(secret, box))[2])
        boxes.append(encrypt(secret, share_keys_plaintext_concat(name, 1, b"", b"")))
    given = {Key.CIPHERTEXT_LIST: boxes, Key.SOURCE_LIST: shared[Key.DESTINATION_LIST]}
    answer = say(victim, 1, Stage.COLLECT_MASKED_VECTORS, given)
    weight, vector = (bytes_to_ndarray(data) for data in answer[Key.MASKED_PARAMETERS])
    masks = [pseudo_rand_gen(combine_shares(shares), MODULUS, [(1,), (DIMENSION,)])]
    masks += [
        pseudo_rand_gen(generate_shared_key(pairs[0][0], masking), MODULUS, [(1,), (DIMENSION,)])
        for pairs in fakes.values()
    ]
    # The smaller of two names subtracts, and 1 is the smallest.
    clear = (vector - masks[0][1] + sum(pair[1] for pair in masks[1:])) % MODULUS
    levels = clear / CONFIG[Key.TARGET_RANGE] * 2 * CONFIG[Key.CLIPPING_RANGE] - CONFIG[Key.CLIPPING_RANGE]
    found = levels / np.linalg.norm(levels)
    wanted = victim.update / np.linalg.norm(victim.update)
    del weight
    return f"cosine between what the server makes of the masked vector and the update: {found @ wanted:.4f}"


def both_alive_and_dead() -> str:
    """One name in both lists gives up both secrets of one device."""
    names = range(1, 6)
    clients = {name: node(name) for name in names}
    keys = {name: say(clients[name], name, Stage.SETUP, CONFIG) for name in names}
    named = {str(name): [one[Key.PUBLIC_KEY_1], one[Key.PUBLIC_KEY_2]] for name, one in keys.items()}
    boxes: dict[int, list[tuple[int, bytes]]] = {name: [] for name in names}
    for name in names:
        answer = say(clients[name], name, Stage.SHARE_KEYS, dict(named))
        for to, box in zip(answer[Key.DESTINATION_LIST], answer[Key.CIPHERTEXT_LIST], strict=True):
            boxes[to].append((name, box))
    for name in names:
        given = {
            Key.CIPHERTEXT_LIST: [b for _, b in boxes[name]],
            Key.SOURCE_LIST: [s for s, _ in boxes[name]],
        }
        say(clients[name], name, Stage.COLLECT_MASKED_VECTORS, given)
    lists = {Key.ACTIVE_NODE_ID_LIST: list(names), Key.DEAD_NODE_ID_LIST: [1]}
    seeds, privates = [], []
    for name in names:
        answer = say(clients[name], name, Stage.UNMASK, dict(lists))
        found = list(zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True))
        seeds.append(found[0][1])
        privates.append(found[-1][1])
    both = len(combine_shares(seeds)) == 32 and b"PRIVATE KEY" in combine_shares(privates)
    return f"all five answered, seed and private key of device 1 put together: {both}"


def cohort_of_two() -> str:
    """Two devices: each knows the other's update from the mean and its own."""
    updates = {1: update(1), 2: update(2)}
    outcome = run_round(updates, {1: 100, 2: 100}, shares=1.0, threshold=1.0)
    if outcome.mean is None:
        return "refused"
    error = np.abs(2 * outcome.mean - updates[1] - updates[2]).max()
    return f"runs; the other's update is the mean doubled less one's own, off by {error:.1e}"


def lost_before_sharing() -> str:
    """A device that is lost before it shares keys."""
    updates = {name: update(name) for name in range(1, 6)}
    results = []
    for stage in (Stage.SETUP, Stage.SHARE_KEYS):
        try:
            outcome = run_round(
                updates, dict.fromkeys(updates, 100), shares=1.0, threshold=0.6, lost={stage: {5}}
            )
            results.append(f"lost at {stage!r}: mean {'there' if outcome.mean is not None else 'missing'}")
        except Exception as error:  # noqa: BLE001 - which error it is, is what is asked
            results.append(f"lost at {stage!r}: {type(error).__name__}: {error}")
    return "; ".join(results)


def in_clear() -> str:
    """What travels beside the masked vector."""
    updates = {name: update(name) for name in range(1, 6)}
    outcome = run_round(updates, {name: 10 * name for name in updates}, shares=1.0, threshold=0.6)
    seen = [content for stage, _, content in outcome.seen if stage == Stage.COLLECT_MASKED_VECTORS]
    keys = sorted({key for content in seen for record in content.metric_records.values() for key in record})
    values = [dict(record) for content in seen[:1] for record in content.metric_records.values()]
    masked = seen[0].config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
    kind = bytes_to_ndarray(masked[1]).dtype
    return f"records {keys} in clear, first device: {values}; masked coordinates travel as {kind}"


def main() -> None:
    """Print each fact."""
    for fact in (
        seeds_of_32_bits,
        impersonated,
        both_alive_and_dead,
        cohort_of_two,
        lost_before_sharing,
        in_clear,
    ):
        print(f"{fact.__name__}: {fact()}", flush=True)


if __name__ == "__main__":
    main()
