"""Update codecs by the name a round plan gives them."""

from collections.abc import Mapping
from types import MappingProxyType

from shoal_codecs.updates.base import Codec
from shoal_codecs.updates.blocks import INT4, INT8
from shoal_codecs.updates.dense import BlockCodec, DenseCodec
from shoal_codecs.updates.errors import UnknownCodecError
from shoal_codecs.updates.randk import RandKCodec
from shoal_codecs.updates.topk import TopKCodec
from shoal_codecs.wire.plan import INDEXED_CODECS, LED_CODEC, SEEDED_CODECS

_ALL: tuple[Codec, ...] = (
    DenseCodec(),
    BlockCodec("int8", INT8),
    BlockCodec("int4", INT4),
    TopKCodec("topk", INT8),
    TopKCodec("topk4", INT4),
    RandKCodec("randk", INT8),
    RandKCodec("randk4", INT4),
)

SEEDED = SEEDED_CODECS
INDEXED = INDEXED_CODECS
SPARSE = SEEDED | INDEXED | {LED_CODEC}
"""Codecs that send the kept coordinates only; the secret-shared ones of them are ``ring``'s."""
CODECS: Mapping[str, Codec] = MappingProxyType({each.name: each for each in _ALL})


def codec(name: str) -> Codec:
    """Return the codec with that wire name. Raises UnknownCodecError, which lists the known."""
    try:
        return CODECS[name]
    except KeyError:
        raise UnknownCodecError(
            f"no update codec is called {name!r}; known: {', '.join(sorted(CODECS))}"
        ) from None
