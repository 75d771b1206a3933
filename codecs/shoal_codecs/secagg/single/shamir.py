"""Shamir's secret sharing (1979) over bytes: any ``threshold`` shares give the secret, fewer say nothing.

Holder i (from 1) has the value at point i of polynomials whose constant terms are the secret's bytes, or its
pairs of bytes where more than 255 hold shares.
"""

import os
from collections.abc import Callable, Mapping

import numpy as np

from shoal_codecs.secagg.single.errors import ShamirError, ThresholdError
from shoal_codecs.secagg.single.fields import Elements, Field, field_for

MOST_HOLDERS = 65_535


def split_secret(
    secret: bytes, holders: int, threshold: int, random: Callable[[int], bytes] = os.urandom
) -> list[bytes]:
    """Return the shares of holders 1 to ``holders``, each as long as ``secret``.

    ``random`` gives that many bytes nobody can guess, for the other coefficients.

    Raises:
        ShamirError: an empty secret, one of odd length for pairs of bytes, or a threshold without meaning.
    """
    field = _checked_field(holders, threshold)
    if not secret or len(secret) % field.dtype.itemsize:
        raise ShamirError(
            f"a secret of {len(secret)} bytes cannot be shared among {holders}: use an even number"
        )
    drawn = random((threshold - 1) * len(secret))
    coefficients = np.frombuffer(drawn + secret, dtype=field.dtype).reshape(threshold, -1)
    points = np.arange(1, holders + 1, dtype=field.dtype)[:, None]
    # Horner's rule for all holders at once; the secret is the last to be added.
    values: Elements = np.zeros((holders, coefficients.shape[1]), dtype=field.dtype)
    for coefficient in coefficients:
        values = field.multiply(values, points)
        np.bitwise_xor(values, coefficient, out=values)
    return [row.tobytes() for row in values]


def join_secret(shares: Mapping[int, bytes], holders: int, threshold: int) -> bytes:
    """Return the secret from ``shares`` by holder (from 1); exactly ``threshold`` of them are used.

    A wrong share gives a wrong secret: whoever needs to know compares the result with what is public.

    Raises:
        ThresholdError: fewer than ``threshold`` shares.
        ShamirError: shares of different lengths, or from nobody among ``holders``.
    """
    field = _checked_field(holders, threshold)
    if len(shares) < threshold:
        raise ThresholdError(
            f"{len(shares)} shares came and {threshold} are needed: end the round and begin with fresh keys"
        )
    chosen = sorted(shares)[:threshold]
    if not 1 <= chosen[0] <= chosen[-1] <= holders:
        raise ShamirError(f"shares come from holders 1 to {holders}: drop the others")
    lengths = {len(shares[holder]) for holder in chosen}
    if len(lengths) != 1 or (length := lengths.pop()) == 0 or length % field.dtype.itemsize:
        raise ShamirError("shares of one secret have one length: drop what does not fit")
    values = np.frombuffer(b"".join(shares[holder] for holder in chosen), dtype=field.dtype)
    weights = _weights_at_zero(field, np.array(chosen, dtype=field.dtype))
    terms = field.multiply(values.reshape(threshold, -1), weights[:, None])
    return bytes(np.bitwise_xor.reduce(terms, axis=0).tobytes())


def _weights_at_zero(field: Field, points: Elements) -> Elements:
    """Return Lagrange's weights of ``points`` for the value at zero."""
    apart = points[:, None] ^ points[None, :]
    ratios = field.divide(np.broadcast_to(points, apart.shape), np.where(apart == 0, 1, apart))
    np.fill_diagonal(ratios, 1)
    weights: Elements = np.ones(points.size, dtype=field.dtype)
    for column in ratios.T:
        weights = field.multiply(weights, column)
    return weights


def _checked_field(holders: int, threshold: int) -> Field:
    if not 1 <= threshold <= holders <= MOST_HOLDERS:
        raise ShamirError(f"{threshold} of {holders} holders is no sharing: take 1 to {MOST_HOLDERS} holders")
    return field_for(holders)
