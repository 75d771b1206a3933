"""What DP-SGD on a device promises one *example*: another statement than the device's, never added to it.

Abadi et al. 2016, without their sampling: a device shuffles its examples and cuts them into batches, so that
each is in exactly one batch of an epoch. The unit is one example whose contribution is set to zero; it moves
that batch's sum of clipped gradients by the clip norm at most, and noise of ``example_noise`` times the clip
norm hides it. The other batches of the epoch do not see it, whatever they make of what was released before
(parallel composition), so that an epoch costs one Gaussian release. Nothing is taken off for chance:
shuffling is no Poisson sampling, and the amplification formulas for that do not hold here.
"""

from shoal_codecs.privacy.accountant import ORDERS, gaussian_rdp
from shoal_codecs.privacy.charge import Charge
from shoal_codecs.privacy.errors import UnprivatePlanError
from shoal_codecs.wire.plan import TrainingPlan

EXAMPLE_DELTA = 1e-5
"""With which a device says what one round cost an example; a device with more than 10,000 wants less."""


def example_charge(training: TrainingPlan) -> Charge:
    """Return what one round costs one example of a device, in whichever batches it lies.

    Raises:
        UnprivatePlanError: the plan asks for no noise on examples.
        PrivacyNumberError: numbers that no formula holds for.
    """
    if not training.example_noise:
        raise UnprivatePlanError(
            "the plan trains without noise on examples: set example_clip and example_noise"
        )
    return Charge(tuple(training.epochs * gaussian_rdp(training.example_noise, order) for order in ORDERS))
