"""The ring of a plan: the numbers that device, hubs and coordinator each derive from it alone."""

from shoal_codecs.privacy.plan_noise import device_variance
from shoal_codecs.updates.model_step import leading_coordinates
from shoal_codecs.updates.ring import RingSpec
from shoal_codecs.updates.selection import NO_LEADING
from shoal_codecs.wire.plan import Plan, coordinate_seed


def ring_spec(plan: Plan, source: bytes | None = None) -> RingSpec:
    """Return what every party of ``plan`` encodes and decodes with (the shared modes).

    ``source`` is the encoded step that a ``global_topk`` plan takes coordinates from. Hubs leave it out:
    they add words and never ask which coordinates these are.

    Raises:
        RingSpecError: a plan whose numbers make no ring.
        UnledRoundError: ``source`` is not the step that the plan names.
    """
    codec, privacy = plan.codec, plan.privacy
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
        leading=NO_LEADING if source is None else leading_coordinates(source, codec, plan.base),
        noise=device_variance(plan),
        clip_bit=privacy.clip_bit if privacy else 0,
        metric_levels=privacy.metric_levels if privacy else 0,
    )
