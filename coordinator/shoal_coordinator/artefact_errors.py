"""What can keep a model from becoming a deployable file."""

from shoal_codecs.errors import ShoalError


class ArtefactError(ShoalError):
    """No deployable file can be made from what was given."""


class InvalidTemplateError(ArtefactError):
    """A template file that is damaged or of another task."""


class WeightLengthError(ArtefactError):
    """A weight vector of another length than the task's."""


class NonFiniteWeightsError(ArtefactError):
    """Weights that hold NaN or infinity."""


class MissingCalibrationError(ArtefactError):
    """No calibration examples, or examples the model cannot take."""


class StaleScalesError(ArtefactError):
    """Activation ranges measured with other weights than those to be quantised."""


class UnsupportedGraphError(ArtefactError):
    """An ``infer`` signature that no deployable file can be made of."""


class UndeployableTaskError(ArtefactError):
    """A task whose artefacts answer otherwise than its own model."""
