"""Whether every hub has certified that the sum of an earlier plan was not released and never will be; pure.

Hubs ask it before they sign a second plan on a base, devices before they answer one (mode ``hubs``, step 11).
"""

from collections.abc import Iterable, Mapping

from shoal_codecs.secagg.errors import BadCertificateError, MissingCertificateError
from shoal_codecs.security.errors import BadSignatureError
from shoal_codecs.security.identity import verify
from shoal_codecs.wire.hubs import NeverReleased, never_released_bytes


def check_certified(
    plan_hash: bytes,
    hubs: Iterable[str],
    certificates: Iterable[NeverReleased],
    keys: Mapping[str, bytes],
) -> None:
    """Refuse unless all ``hubs`` of the plan with ``plan_hash`` have given it up.

    ``keys`` are the Ed25519 keys of the hubs there are now, by name. The word of one that had no part in the
    plan is worth nothing, and one that is not there any more cannot give it.

    Raises:
        MissingCertificateError: a hub's certificate is not there.
        BadCertificateError: one is not signed by its hub, or is of another plan.
    """
    given: dict[str, bytes] = {}
    for certificate in certificates:
        if certificate.plan_hash == plan_hash:
            given |= certificate.signatures
    named = sorted(hubs)
    missing = [hub for hub in named if hub not in given or hub not in keys]
    if missing:
        raise MissingCertificateError(
            f"{', '.join(missing)} has not certified that the earlier plan {plan_hash.hex()[:16]} on this "
            "base is never released: wait until it has, or skip this base (`shoal rounds skip`)"
        )
    for hub in named:
        check_certificate(plan_hash, hub, keys[hub], given[hub])


def check_certificate(plan_hash: bytes, hub: str, key: bytes, certificate: bytes) -> None:
    """Refuse a ``certificate`` that ``hub`` (Ed25519 key ``key``) did not sign for this plan.

    Raises:
        BadCertificateError: with the hub's name.
    """
    try:
        verify(key, never_released_bytes(plan_hash), certificate)
    except BadSignatureError as error:
        raise BadCertificateError(
            f"the certificate of {hub} for the plan {plan_hash.hex()[:16]} is wrong: ask that hub again, "
            "and compare its key with the roster"
        ) from error
