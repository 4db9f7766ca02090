"""Prediction of every scale of a model before it runs: σ of activations and gradients, from factors and shapes alone.

``predict`` computes second moments (``scales.second_moments``) instead of values on a recorded graph: forward through
every op, by its rule ``predict``, then backward, by ``predict_gradients``. Like the factors, they depend on shapes and
attributes alone. Unlike the factors, they include the effect of constraints ((m/n)^±¼ for a projection), of non-linear
functions of inputs other than N(0, 1), and of correlated rows of a gradient, for whose sum b^-½ is too large.

The assumptions, and the cases in which they fail:

* weights are independent normal numbers of the given σ, biases 0, gains 1: true before the first step only;
* ids and labels are uniform and independent, and masks admit everything: real text repeats words (Zipf), so that
  embedding gradients are larger, and rows more similar, than predicted;
* an incoming gradient is independent of the values that it is multiplied with, and the gradients of two uses of a
  tensor
  are independent: true for distinct random weights, but not for one weight used twice, for a norm's gain before a
  readout, whose softmax depends on that gain, or for a key's bias, a shift that the softmax ignores;
* a rotation by position does not change the correlation of two tokens, and scores by distance count only where a causal
  mask admits them: over all positions, zeros included, their σ is √½ of that;
* the state of a recurrence is independent of its candidate and gate, which it determines: true except for the gradients
  of its weight;
* all pairs of tokens of a sequence have the same correlation: if they form groups (two segments, repeated words),
  values, keys and queries are similar in the same pairs, and the gradients of queries and keys are larger;
* sums of many terms are normal: not for widths below about 8, nor for gradients behind a softmax.

Source: mean-field theory of signal propagation (Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017,
arXiv 1611.01232).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refscale.engine import Tape, Tensor
from refscale.prediction import Prediction, predict_graph
from refscale.programs import Program, first_loss
from refscale.scales import Scheme, get_scheme, unit


def initial_stds(program: Program, scheme: Scheme) -> dict[str, float]:
    """Return σ of a program's leaves at initialization, by name: matrices by the scheme, buffers by their RMS."""
    matrices = {name: spec for name, spec in program.specs.items() if len(spec.shape) > 1}
    std = {name: scheme.initial_std(program.initial_std(spec)) for name, spec in matrices.items()}
    return std | {name: float(np.sqrt(np.mean(np.square(x)))) for name, x in program.buffers.items()}


def predict(
    output: Tensor | Program,
    std: float | Mapping[str, float] | None = None,
    agreement: Mapping[str, float] | None = None,
    *,
    scheme: str | Scheme = unit,
) -> Prediction:
    """Predict the second moments of every tensor that a recorded graph computes, and of every gradient.

    Args:
        output: end of the graph: a scalar loss, or another tensor, whose gradient is then assumed to be N(0, 1). For a
            program, the loss of its first batch, whose leaves have the initial σ.
        std: σ of the leaves, one for all or by name (1 for missing names); gains are always 1 and biases 0. Default: 1,
            or a program's own.
        agreement: probability that two tokens have the same id, by name of an embedding's table; default: 1 over its
            rows.
        scheme: scheme of a program; a recorded graph has its own.

    Returns:
        Second moments by variable: ``prediction.values[t.variable].std``. If an op has no rule (conv2d, pooling, log,
        square root, exponential, log softmax), tensors that depend on it are left out, and its name is listed.
    """
    if isinstance(output, Program):
        scheme = output.scheme or get_scheme(scheme)
        std = initial_stds(output, scheme) if std is None else std
        output = first_loss(output, Tape(scheme)).total
    std = 1.0 if std is None else std
    return predict_graph(output, std, agreement)
