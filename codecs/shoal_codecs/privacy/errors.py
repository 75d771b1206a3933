"""Every fault of privacy accounting."""

from shoal_codecs.errors import ShoalError


class PrivacyError(ShoalError):
    """Noise, budgets or charges that cannot be what they claim to be."""


class PrivacyNumberError(PrivacyError):
    """A number outside what its formula holds for."""


class UnprivatePlanError(PrivacyError):
    """A charge was asked for of a plan without noise: its price has no bound."""


class BudgetUnreachableError(PrivacyError):
    """No noise that is worth adding keeps the budget."""


class BudgetExceededError(PrivacyError):
    """More rounds than the budget holds."""


class FleetTooSmallError(PrivacyError):
    """So few devices that the noise a budget needs leaves nothing to learn."""


class NoiseSizeError(PrivacyError):
    """Noise that is too small or too large to be drawn."""

    def __init__(self, text: str, *, too_small: bool = False) -> None:
        super().__init__(text)
        self.too_small = too_small


class PrivateCodecError(PrivacyError):
    """A codec whose choice of coordinates would tell what noise is meant to hide."""


class CoarseScaleError(PrivacyError):
    """Levels so coarse that rounding moves the sum further than updates do."""
