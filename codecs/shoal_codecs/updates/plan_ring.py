"""The ring of a plan: the numbers that device, hubs and coordinator each derive from it alone."""

from shoal_codecs.updates.ring import RingSpec
from shoal_codecs.wire.plan import Plan, coordinate_seed


def ring_spec(plan: Plan) -> RingSpec:
    """Return what every party of ``plan`` encodes and decodes with (mode ``hubs``).

    Raises:
        RingSpecError: a plan whose numbers make no ring.
    """
    codec = plan.codec
    return RingSpec(
        dimension=codec.dimension,
        kept=codec.kept,
        clip_norm=codec.clip_norm,
        clamp=codec.clamp,
        ring_bits=codec.ring_bits,
        n_max=plan.n_max,
        weight_cap=codec.weight_cap,
        seed=coordinate_seed(plan),
        range_factor=codec.range_factor,
    )
