"""From traced functions to a .tflite of builtin operators only, and the proof that it is one."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Conversion is done on the processor, and the same everywhere.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import re

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from shoal_coordinator.authoring.errors import ConversionError

_FIRST_NEWER_BUILTIN = 127
_NEEDED = re.compile(r"tf\.(\w+) ?(?:op is neither|\()|Flex ops: ([\w, ]+)|Custom ops: ([\w, ]+)")


def convert(module: Any, signatures: dict[str, Any], change: Callable[[Any], None] = lambda _: None) -> bytes:
    """Convert concrete functions of ``module`` by signature name, with builtin operators only.

    ``change`` is given the converter before it runs.

    Raises:
        ConversionError: an operator is no builtin one; or an input without an axis, which crashes the
            interpreter on aarch64.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        change(converter)
        try:
            model = bytes(converter.convert())
        except Exception as error:
            raise ConversionError(_said(str(error))) from error
    check_model(model, set(signatures))
    return model


def check_model(model: bytes, signatures: set[str]) -> None:
    """Raise ConversionError unless ``model`` has these signatures, builtin operators, and no 0-d input."""
    parsed = schema.Model.GetRootAs(model, 0)
    foreign = set(foreign_operators(model))
    if foreign:
        raise ConversionError(
            f"operators that devices lack, for they are not builtin: {', '.join(sorted(foreign))}. Make the "
            "layer of run.ops, or give its operation a gradient of builtin operators"
        )
    found = {}
    for index in range(parsed.SignatureDefsLength()):
        one = parsed.SignatureDefs(index)
        found[one.SignatureKey().decode()] = one
    if set(found) != signatures:
        raise ConversionError(f"signatures {sorted(found)}, wanted {sorted(signatures)}: report this")
    for name, one in found.items():
        graph = parsed.Subgraphs(one.SubgraphIndex())
        for place in range(one.InputsLength()):
            entry = one.Inputs(place)
            if graph.Tensors(entry.TensorIndex()).ShapeLength() == 0:
                raise ConversionError(
                    f"input {entry.Name().decode()} of {name} has no axis, which crashes the interpreter on "
                    "aarch64: give it shape (1,)"
                )


def foreign_operators(model: bytes) -> Iterator[str]:
    """Yield the names of the operators in ``model`` that are not builtin."""
    parsed = schema.Model.GetRootAs(model, 0)
    for index in range(parsed.OperatorCodesLength()):
        code = parsed.OperatorCodes(index)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if builtin == schema.BuiltinOperator.CUSTOM or code.CustomCode():
            yield (code.CustomCode() or b"custom").decode()


def _said(text: str) -> str:
    """Return the converter's complaint with what to do, without its pages of text."""
    names = sorted({name for found in _NEEDED.findall(text) for name in found if name})
    what = ", ".join(names) or text.strip().splitlines()[0][:300]
    return (
        f"the converter has no builtin operator for {what}: make the layer of run.ops, or give its "
        "operation a gradient of builtin operators"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TensorFlow's notes away; what matters comes as an error."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
