"""Whether the parts of a task belong together; both sides ask, the author and whoever downloads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from shoal_codecs.wire.task_errors import InvalidTaskError

if TYPE_CHECKING:
    from shoal_codecs.wire.task import (
        Architecture,
        InputDescription,
        Parameter,
        ReferenceGradients,
        TargetDescription,
        TaskBundle,
        TrainingDefaults,
        Variant,
    )

MAX_DIMENSION = 1 << 26
MAX_SEED = 1 << 64
MAX_VARIANTS = 16
FLATBUFFER_IDENTIFIER = b"TFL3"
GRADIENT_FOLD = 4093
"""A prime, so that no row length hides an exchange of rows."""


def check_task(bundle: TaskBundle) -> None:
    """Raise InvalidTaskError where parts of ``bundle`` contradict each other."""
    check_parameters(bundle.parameters)
    check_flatbuffer(bundle.trainable, "the trainable model")
    _check_input(bundle.input)
    _check_target(bundle.target, bundle.labels)
    _check_defaults(bundle.defaults)
    _check_reference(bundle, bundle.parameters, bundle.reference)
    _check_private(bundle)
    _check_architecture(bundle.architecture)
    names = {one.name for one in bundle.parameters}
    if len(set(bundle.local)) != len(bundle.local) or not set(bundle.local) < names:
        raise InvalidTaskError("local names some, not all, of the parameters, each once: mend it")
    if len(set(bundle.abilities)) != len(bundle.abilities):
        raise InvalidTaskError("an ability is named twice: author the task again")
    _check_variants(bundle)


def check_parameters(parameters: tuple[Parameter, ...]) -> None:
    """Raise InvalidTaskError unless ``parameters`` describe one flat vector of sensible length."""
    names = {parameter.name for parameter in parameters}
    if not parameters or len(names) != len(parameters):
        raise InvalidTaskError("a task needs at least one parameter, each with a name of its own")
    if any(side < 1 for parameter in parameters for side in parameter.shape):
        raise InvalidTaskError("every side of a parameter is at least 1: author the task again")
    if any(not 0 <= parameter.initial_bound < math.inf for parameter in parameters):
        raise InvalidTaskError("initial_bound is a finite number of at least 0: author the task again")
    if not all(math.isfinite(parameter.initial_mean) for parameter in parameters):
        raise InvalidTaskError("initial_mean is a finite number: author the task again")
    if sum(parameter.size for parameter in parameters) > MAX_DIMENSION:
        raise InvalidTaskError(f"a task has at most {MAX_DIMENSION} weights: author a smaller one")


def check_flatbuffer(model: bytes, label: str) -> None:
    """Raise InvalidTaskError unless ``model`` begins like a LiteRT flatbuffer."""
    if len(model) < 8 or model[4:8] != FLATBUFFER_IDENTIFIER:
        raise InvalidTaskError(f"{label} is no .tflite file (TFL3): author the task again")


def _check_input(about: InputDescription) -> None:
    if any(side < 1 for side in about.shape) or not about.minimum < about.maximum:
        raise InvalidTaskError("the input needs positive sides and a minimum under its maximum: mend it")
    if not math.isfinite(about.minimum) or not math.isfinite(about.maximum):
        raise InvalidTaskError("the input's minimum and maximum are finite numbers: author the task again")


def _check_target(target: TargetDescription, labels: tuple[str, ...]) -> None:
    if target.kind == "label" and (len(labels) < 2 or target.shape):
        raise InvalidTaskError("a task of labels needs at least two, and a target without shape: mend it")
    if target.kind == "values" and (labels or any(side < 1 for side in target.shape)):
        raise InvalidTaskError("a task of values has no labels, and a target of positive sides: mend it")


def _check_defaults(preset: TrainingDefaults) -> None:
    if preset.epochs < 1 or preset.batch_size < 1 or not 0 < preset.learning_rate < math.inf:
        raise InvalidTaskError("epochs, batch_size and learning_rate must be above zero: mend the defaults")
    fits = 0 <= preset.mu < math.inf and 0 <= preset.clip_norm < math.inf and 0 <= preset.kept_share <= 1
    if not fits or preset.weight_cap < 0:
        raise InvalidTaskError(
            "mu, clip_norm and weight_cap are at least 0, kept_share is 0 to 1: mend the defaults"
        )


def _check_reference(
    bundle: TaskBundle, parameters: tuple[Parameter, ...], reference: ReferenceGradients
) -> None:
    for label in ("x", "y", "gradient"):
        getattr(reference, label).check(f"reference {label}")
    count = reference.y.shape[0] if reference.y.shape else 0
    fits = (
        count > 0
        and reference.y.shape == (count, *bundle.target.shape)
        and reference.y.dtype == ("int32" if bundle.target.kind == "label" else "float32")
        and reference.x.shape == (count, *bundle.input.shape)
        and reference.x.dtype == bundle.input.dtype
        and reference.gradient.shape == (sum(min(one.size, GRADIENT_FOLD) for one in parameters),)
        and reference.gradient.dtype == "int16"
        and len(reference.scales) == len(parameters)
        and all(0 < scale < math.inf for scale in reference.scales)
        and 0 <= reference.seed < MAX_SEED
    )
    if not fits:
        raise InvalidTaskError("the reference gradients are of another model: author the task again")


def _check_private(bundle: TaskBundle) -> None:
    private = bundle.private
    if private is None:
        return
    lengths = (private.clip, *private.norms)
    count = bundle.reference.y.shape[0]
    if len(private.norms) != count or not all(0 < one < math.inf for one in lengths):
        raise InvalidTaskError(
            "a private reference has a clip norm and a length for each example, all above zero: "
            "author the task again"
        )


def _check_architecture(architecture: Architecture | None) -> None:
    if architecture is None:
        return
    scaling = (architecture.mean, architecture.deviation)
    if not architecture.layers or not all(map(math.isfinite, scaling)) or scaling[1] <= 0:
        raise InvalidTaskError("an architecture has layers and a positive deviation: author the task again")


def _check_variants(bundle: TaskBundle) -> None:
    shares = [one.share for one in bundle.variants]
    if len(set(shares)) != len(shares) or not all(0 < share < 1 for share in shares):
        raise InvalidTaskError("each variant has a share of its own between 0 and 1: author the task again")
    if len(shares) > MAX_VARIANTS:
        raise InvalidTaskError(f"a task has at most {MAX_VARIANTS} variants: author fewer")
    for variant in bundle.variants:
        check_parameters(variant.parameters)
        check_flatbuffer(variant.trainable, f"the variant of share {variant.share:g}")
        if not _are_prefixes(bundle.parameters, variant):
            raise InvalidTaskError(
                f"the variant of share {variant.share:g} is no slice of the full model, parameter by "
                "parameter: author the task again"
            )
        _check_reference(bundle, variant.parameters, variant.reference)
        _check_architecture(variant.architecture)


def _are_prefixes(full: tuple[Parameter, ...], variant: Variant) -> bool:
    if [one.name for one in full] != [one.name for one in variant.parameters]:
        return False
    return all(
        len(mine.shape) == len(whole.shape)
        and all(side <= limit for side, limit in zip(mine.shape, whole.shape, strict=True))
        for whole, mine in zip(full, variant.parameters, strict=True)
    )
