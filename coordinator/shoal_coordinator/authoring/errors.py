"""What can be wrong with a model description, and what keeps a model from becoming a task."""

from shoal_codecs.errors import ShoalError


class AuthoringError(ShoalError):
    """A task that cannot be authored as it is described."""


class MissingAuthoringExtraError(AuthoringError):
    """TensorFlow is not installed here."""


class ModelFileError(AuthoringError):
    """A model file that cannot be run, or that defines no task."""


class TaskWriteError(AuthoringError):
    """The task file cannot be written."""


class LayerSettingError(AuthoringError):
    """A layer with a setting that it does not know."""


class LayerShapeError(AuthoringError):
    """A layer that cannot take what the one before it gives."""


class UnsupportedLayerError(AuthoringError):
    """Something that is no layer of the kit, or a layer that cannot do what the task asks for."""


class DescriptionError(AuthoringError):
    """Parts of a task's description that contradict each other."""


class ConversionError(AuthoringError):
    """The converter found operators that are not LiteRT's builtin ones, or failed."""


class GradientMismatchError(AuthoringError):
    """The converted model computes other gradients than automatic differentiation does."""
