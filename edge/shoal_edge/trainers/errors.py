"""What can go wrong between a device's data, its trainer and the models it runs."""

from shoal_codecs.errors import ShoalError


class TrainingError(ShoalError):
    """The device cannot train or run a model with what it has."""


class MissingRuntimeError(TrainingError):
    """No LiteRT interpreter is installed."""


class UnusableModelError(TrainingError):
    """A .tflite file that is damaged, or that the installed interpreter cannot run."""


class NoArchitectureError(TrainingError):
    """A task that does not describe its layers, and a trainer that has to build them."""


class UnknownLayerError(TrainingError):
    """A task with a layer or an optimiser that this trainer does not know."""


class MissingSignatureError(UnusableModelError):
    """A .tflite file that cannot be trained: one of the five signatures is not in it."""


class NoPrivateTrainingError(TrainingError):
    """The plan asks for DP-SGD, and the task has no signature or no reference for it."""


class UnsupportedTrainingError(TrainingError):
    """The plan asks for FedProx or corrections, and the task was authored without."""


class TaskMismatchError(UnusableModelError):
    """A trainable model whose weights are not those its task describes."""


class SelfTestError(TrainingError):
    """The interpreter computes other gradients than the reference; training would be wrong."""


class WeightShapeError(TrainingError):
    """A weight vector of another length or type than the task's."""


class NonFiniteWeightsError(TrainingError):
    """Weights that hold NaN or infinity."""


class NonFiniteLossError(TrainingError):
    """A loss or probability of NaN or infinity; training diverged or the model is bad."""


class InvalidFitSettingsError(TrainingError):
    """Epochs, batch size or learning rate outside what makes sense."""


class FitMemoryError(TrainingError):
    """A fit needs more memory than there is, or than the device's settings let it allocate."""


class FitCancelledError(TrainingError):
    """The fit was asked to stop; its weights are unfinished and must not be sent."""


class DataError(TrainingError):
    """The device's data cannot be used."""


class UnreadableDataError(DataError):
    """No data file, or one that is no .npz archive of plain arrays."""


class MissingLabelsError(DataError):
    """A data file without one of its arrays, or with examples that have no label."""


class ExampleShapeError(DataError):
    """Examples of another shape than the task's."""


class ExampleTypeError(DataError):
    """Examples or labels of another dtype than the task's."""


class ExampleRangeError(DataError):
    """Example values outside the range the task declares."""


class LabelRangeError(DataError):
    """Labels that the task does not have."""


class TooFewExamplesError(DataError):
    """Fewer examples than training and a held-out part need."""
