"""Every fault of mode ``single``."""

from shoal_codecs.secagg.errors import SecAggError


class SingleError(SecAggError):
    """Something of mode ``single`` that does not hold."""


class ShamirError(SingleError):
    """A secret, threshold or share that fits no polynomial."""


class ThresholdError(SingleError):
    """Fewer shares than the threshold: the secret stays shut."""


class NeighbourhoodError(SingleError):
    """No number of neighbours keeps what is asked for."""


class WeakNeighbourhoodError(NeighbourhoodError):
    """A plan with fewer neighbours, or a lower threshold, than keep what is asked for."""


class BundleError(SingleError):
    """Key bundles of a plan that cannot be used."""


class BundleMismatchError(BundleError):
    """Other bundles than the plan names, or fewer."""


class BundleSignatureError(BundleError):
    """A bundle that its device did not sign, or of nobody on the roster."""


class RepeatedKeyError(BundleError):
    """One key that stands in two places of a cohort."""


class UnknownBundleError(BundleError):
    """A plan that names a bundle of this device which it does not hold, or has used."""


class BadKeyError(SingleError):
    """Bytes that are no X25519 key of any use."""


class BoxError(SingleError):
    """A box of shares that does not open: for another device or plan, or changed."""


class DrawError(SingleError):
    """A nonce that is not the one its device committed itself to."""


class InvalidSharesError(SingleError):
    """A device's shares that do not fit its plan: another number of boxes, or boxes of another size."""


class DeliveryError(SingleError):
    """A list of members that a device cannot mask among."""


class SecondDeliveryError(DeliveryError):
    """Other members than were named before."""


class SurvivorError(SingleError):
    """A split of the members into alive and dead that a device does not stand by."""


class AliveAndDeadError(SurvivorError):
    """A device that is said to be alive and dead at once."""


class OtherMembersError(SurvivorError):
    """Alive and dead together are not exactly the members."""


class DeclaredDeadError(SurvivorError):
    """A split that calls the device itself dead."""


class FewSurvivorsError(SurvivorError):
    """Fewer alive than the plan's floor."""


class FewNeighboursError(SurvivorError):
    """Fewer of a device's neighbours alive than open a secret."""


class SecondConsentError(SurvivorError):
    """Another split than the one consented to."""


class UnmaskError(SingleError):
    """A request to open masks that a device refuses."""


class FewConsentsError(UnmaskError):
    """Fewer neighbours than the threshold signed these very sets."""


class OtherSurvivorsError(UnmaskError):
    """Masks are to be opened for other sets than the device consented to."""


class SecondUnmaskError(UnmaskError):
    """Masks on this base were opened before, in another round."""


class UnlistedSingleEventError(SingleError):
    """A word that has no place in the state a device or a round is in."""


class OutsideCohortError(SingleError):
    """A word from a device that is no member of the round."""


class ConsentSignatureError(SingleError):
    """A consent that does not sign the sets that were named."""


class SecondWordError(SingleError):
    """A device's second, different word where the first stands."""


class LostWordsError(SingleError):
    """What the coordinator kept of a round does not carry what it has decided."""


class MasksClosedError(SingleError):
    """Not enough true shares to open every mask: the sum stays hidden."""
