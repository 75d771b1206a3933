"""What a report takes of a device's memory, at ten million parameters of which all are sent."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from shoal_codecs.privacy.noise_table import skellam_table
from shoal_codecs.privacy.plan_noise import device_variance
from shoal_codecs.security.sealing import new_sealing_key
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.wire.plan import HubOffer, encode_plan, plan_hash
from shoal_edge.shares import ring_shares, seal_shares
from wire_parts import codec_plan, plan, private_plan

D = 10_000_000
# The ring vector itself, its packed form, its ciphertext, and buffers of a few hundred kilobytes.
MOST_RING_VECTORS = 3.0
_BUFFERS = 4 << 20


@pytest.mark.parametrize(
    ("bits", "privacy"),
    [(16, None), (12, None), (32, private_plan(noise=1e6, corrupt=0, clip_bit=100, metric_levels=100))],
    ids=["uint16", "12 bits", "with noise"],
)
def test_a_report_takes_at_most_three_times_the_ring_vector(bits: int, privacy: Any) -> None:
    keys = {hub: new_sealing_key()[1] for hub in ("hub-1", "hub-2")}
    made = plan(
        codec=codec_plan(dimension=D, kept=D, ring_bits=bits),
        privacy=privacy,
        hubs=tuple(HubOffer(hub, key, b"\x05" * 32) for hub, key in keys.items()),
    )
    digest, spec = plan_hash(encode_plan(made)), ring_spec(made)
    if privacy is not None:
        skellam_table(device_variance(made))
    rng = np.random.default_rng(0)
    update = rng.standard_normal(D, np.float32)
    tracemalloc.start()
    shared = ring_shares(update, 10, made, digest, "device-01", rng)
    sealed = seal_shares(shared, made, digest, "device-01")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    vector = spec.words * (2 if bits <= 16 else 4)
    assert len(sealed[0]) >= spec.words * bits // 8
    assert peak <= MOST_RING_VECTORS * vector + _BUFFERS
