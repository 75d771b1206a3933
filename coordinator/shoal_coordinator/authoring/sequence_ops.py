"""Recurrent layers as single operations: unrolled, with the gradient through time written out.

Gates lie along an axis of their own, so that a narrower model's weights are a prefix of the full one's.
States begin at zero. ``recurrent`` says what is computed.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


class PlainSequences:
    """TensorFlow's own differentiation through the unrolled steps."""

    def gru(self, x: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor, *, last: bool) -> Tensor:
        """See ``Ops``."""
        wide, deep, from_b, from_c = _flat(w), _flat(u), _flat(b), _flat(c)
        state, states = None, []
        for step in range(x.shape[1]):
            xz, xr, xn = tf.split(tf.matmul(x[:, step], wide) + from_b, 3, axis=1)
            # Before the first step the state is zero and its product nothing.
            product = tf.zeros_like(xz[:, :1]) if state is None else tf.matmul(state, deep)
            hz, hr, hn = tf.split(product + from_c, 3, axis=1)
            update, reset = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
            candidate = tf.tanh(xn + reset * hn)
            state = (1 - update) * candidate + (0 if state is None else update * state)
            states.append(state)
        return state if last else tf.stack(states, axis=1)

    def lstm(self, x: Tensor, w: Tensor, u: Tensor, b: Tensor, *, last: bool) -> Tensor:
        """See ``Ops``."""
        wide, deep, from_b = _flat(w), _flat(u), _flat(b)
        state, cell, states = None, None, []
        for step in range(x.shape[1]):
            gates = tf.matmul(x[:, step], wide) + from_b
            if state is not None:
                gates += tf.matmul(state, deep)
            entry, forget, leave, candidate = tf.split(gates, 4, axis=1)
            new = tf.sigmoid(entry) * tf.tanh(candidate)
            cell = new if cell is None else tf.sigmoid(forget) * cell + new
            state = tf.sigmoid(leave) * tf.tanh(cell)
            states.append(state)
        return state if last else tf.stack(states, axis=1)


class BuiltinSequences:
    """Gradients made of LiteRT's builtin operators."""

    def gru(self, x: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor, *, last: bool) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def gru(x: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor) -> Any:
            return _gru(x, w, u, b, c, last=last)

        return gru(x, w, u, b, c)

    def lstm(self, x: Tensor, w: Tensor, u: Tensor, b: Tensor, *, last: bool) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def lstm(x: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Any:
            return _lstm(x, w, u, b, last=last)

        return lstm(x, w, u, b)


def _flat(weights: Tensor) -> Tensor:
    """Join the last two axes, gates and units."""
    return tf.reshape(weights, (*weights.shape[:-2], weights.shape[-2] * weights.shape[-1]))


def _turned(weights: Tensor) -> Tensor:
    """Transpose ``weights`` (a, b) once, in a way that the converter does not fold into the products.

    It would make FULLY_CONNECTED of them, which packs weights that are no constants anew each time it runs
    and takes three times as long as BATCH_MATMUL.
    """
    rows, columns = weights.shape
    turned = tf.transpose(tf.reshape(weights, (1, rows, columns)), (0, 2, 1))
    return tf.reshape(turned, (columns, rows))


def _projected(x: Tensor, wide: Tensor, b: Tensor) -> list[Tensor]:
    """Return what each step gets from its input, T of (n, gates), by one product for all steps."""
    steps, features = x.shape[1:]
    rows = tf.matmul(tf.reshape(x, (-1, features)), wide) + b
    return list(tf.unstack(tf.reshape(rows, (-1, steps, wide.shape[1])), num=steps, axis=1))


def _gate(joined: Tensor, number: int, units: int) -> Tensor:
    return joined[:, number * units : (number + 1) * units]


class _Backwards:
    """What walking back through time collects: errors of the gates by step, T - 1 first."""

    def __init__(self, dy: Tensor, steps: int, *, last: bool) -> None:
        self._outside: list[Tensor] = [] if last else tf.unstack(dy, num=steps, axis=1)
        self.first = dy if last else self._outside[-1]

    def joined(self, inside: Tensor, step: int) -> Tensor:
        """Add to the error that reaches the state of ``step`` from later ones what its output adds."""
        return inside + self._outside[step] if self._outside else inside


def _weights_of(x: Tensor, w: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (n, T, i), w (i, gates, units) and b of ``errors`` (n, T, gates x units)."""
    steps, features = x.shape[1:]
    rows = tf.reshape(errors, (-1, errors.shape[-1]))
    dx = tf.reshape(tf.matmul(rows, _turned(_flat(w))), (-1, steps, features))
    dw = tf.matmul(tf.reshape(x, (-1, features)), rows, transpose_a=True)
    db = tf.reduce_sum(rows, axis=0)
    return dx, tf.reshape(dw, w.shape), tf.reshape(db, w.shape[1:])


def _recurrent_of(states: list[Tensor], errors: list[Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of u (h, gates, units) and of what is added beside it.

    ``states`` are those after each step, ``errors`` of the gates by step; the first step has no state before.
    """
    before = tf.reshape(tf.stack(states[:-1], axis=1), (-1, u.shape[0]))
    later = tf.reshape(tf.stack(errors[1:], axis=1), (-1, errors[0].shape[1]))
    du = tf.matmul(before, later, transpose_a=True)
    dc = tf.reduce_sum(later, axis=0) + tf.reduce_sum(errors[0], axis=0)
    return tf.reshape(du, u.shape), tf.reshape(dc, u.shape[1:])


def _gru(x: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor, *, last: bool) -> Any:
    steps, units = x.shape[1], u.shape[0]
    deep, from_c = _flat(u), _flat(c)
    inputs = _projected(x, _flat(w), _flat(b))
    states: list[Tensor] = []
    kept = []
    for given in inputs:
        if states:
            inner = tf.matmul(states[-1], deep) + from_c
            both = tf.sigmoid(given[:, : 2 * units] + inner[:, : 2 * units])
            pulled = _gate(inner, 2, units)
        else:
            both = tf.sigmoid(given[:, : 2 * units] + from_c[: 2 * units])
            pulled = from_c[2 * units :]
        update, reset = _gate(both, 0, units), _gate(both, 1, units)
        candidate = tf.tanh(_gate(given, 2, units) + reset * pulled)
        kept.append((update, reset, pulled, candidate))
        if states:
            states.append(candidate + update * (states[-1] - candidate))
        else:
            states.append(candidate - update * candidate)

    def gradient(dy: Tensor) -> Any:
        back = _Backwards(dy, steps, last=last)
        turned = _turned(deep)
        dh = back.first
        outer, inner = [], []
        for step in reversed(range(steps)):
            update, reset, pulled, candidate = kept[step]
            fresh = 1.0 - update
            of_candidate = dh * fresh * (1.0 - candidate * candidate)
            gap = states[step - 1] - candidate if step else -candidate
            of_update = dh * gap * update * fresh
            of_pulled = of_candidate * reset
            of_reset = of_pulled * pulled * (1.0 - reset)
            outer.append(tf.concat([of_update, of_reset, of_candidate], axis=1))
            inner.append(tf.concat([of_update, of_reset, of_pulled], axis=1))
            if step:
                dh = back.joined(dh * update + tf.matmul(inner[-1], turned), step - 1)
        dx, dw, db = _weights_of(x, w, tf.stack(outer[::-1], axis=1))
        du, dc = _recurrent_of(states, inner[::-1], u)
        return dx, dw, du, db, dc

    return (states[-1] if last else tf.stack(states, axis=1)), gradient


def _lstm(x: Tensor, w: Tensor, u: Tensor, b: Tensor, *, last: bool) -> Any:
    steps, units = x.shape[1], u.shape[0]
    deep = _flat(u)
    inputs = _projected(x, _flat(w), _flat(b))
    states: list[Tensor] = []
    cells: list[Tensor] = []
    kept = []
    for given in inputs:
        gates = given + tf.matmul(states[-1], deep) if states else given
        three = tf.sigmoid(gates[:, : 3 * units])
        entry, forget, leave = (_gate(three, number, units) for number in range(3))
        candidate = tf.tanh(_gate(gates, 3, units))
        new = entry * candidate
        cells.append(forget * cells[-1] + new if cells else new)
        squashed = tf.tanh(cells[-1])
        kept.append((entry, forget, leave, candidate, squashed))
        states.append(leave * squashed)

    def gradient(dy: Tensor) -> Any:
        back = _Backwards(dy, steps, last=last)
        turned = _turned(deep)
        dh, dc = back.first, None
        errors = []
        for step in reversed(range(steps)):
            entry, forget, leave, candidate, squashed = kept[step]
            through = dh * leave * (1.0 - squashed * squashed)
            dc = through if dc is None else dc + through
            of_entry = dc * candidate * entry * (1.0 - entry)
            of_forget = dc * cells[step - 1] * forget * (1.0 - forget) if step else tf.zeros_like(dc)
            of_leave = dh * squashed * leave * (1.0 - leave)
            of_candidate = dc * entry * (1.0 - candidate * candidate)
            errors.append(tf.concat([of_entry, of_forget, of_leave, of_candidate], axis=1))
            if step:
                dc = dc * forget
                dh = back.joined(tf.matmul(errors[-1], turned), step - 1)
        dx, dw, db = _weights_of(x, w, tf.stack(errors[::-1], axis=1))
        du, _ = _recurrent_of(states, errors[::-1], u)
        return dx, dw, du, db

    return (states[-1] if last else tf.stack(states, axis=1)), gradient
