"""Every scale of a model before it is run: σ of activations and gradients, from factors and shapes alone.

``predict`` walks a recorded graph with second moments (``scales.second_moments``) in place of values: forward through
every op, by its rule ``predict``, then backward, by ``predict_gradients``.  Like the factors, it depends on shapes and
attributes alone.  Unlike them, it includes the effect of constraints ((m/n)^±¼ for a projection), of non-linear
functions of inputs other than N(0, 1), and of correlated rows of a gradient, for whose sum b^-½ is too large.

What it assumes, and where that fails:

* weights are independent normal numbers of the given σ, biases 0, gains 1: true before the first step only;
* ids and labels are uniform and independent, masks let everything through: real text repeats words (Zipf), so that
  embedding gradients are larger, and rows more alike, than predicted;
* an incoming gradient is independent of the values it meets, and two uses of a tensor send back independent gradients:
  true of random weights that differ, not of one weight used twice, of a norm's gain before a readout, whose softmax
  knows what it multiplies, or of a key's bias, a shift that the softmax ignores;
* a rotation by place leaves it as it is how alike two tokens are, and scores by distance are looked at where a causal
  mask lets them be seen: over all places, zeros included, their σ is √½ of that;
* a state of a recurrence is independent of its candidate and gate, which it made: true but for the gradients of its
  weight;
* any two tokens of a sequence are as alike as any other two: where they fall into blocks (two segments, repeated
  words), values, keys and queries are alike in the same pairs, and the gradients of queries and keys are larger;
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
    """σ of a program's leaves at initialization, by name: matrices by the scheme, buffers by their RMS."""
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
    """Second moments of every tensor that a recorded graph computes, and of every gradient.

    Args:
        output: where the graph ends; a scalar loss, or anything else, whose gradient is then taken to be N(0, 1).  A
            program: the loss of its first batch, whose leaves have the initial σ.
        std: σ of the leaves, one for all or by name (1 for those not named); gains are 1 and biases 0 whatever it says.
            Default: 1, or a program's own.
        agreement: by name of an embedding's table, the chance that two tokens have the same id; 1 over its rows for
            those not named.
        scheme: of a program; a recorded graph has its own.

    Returns:
        Second moments by variable: ``prediction.values[t.variable].std``.  Where an op has no rule (conv2d, pooling,
        log, square root, exponential, log softmax), what depends on it is left out, and its name is listed.
    """
    if isinstance(output, Program):
        scheme = output.scheme or get_scheme(scheme)
        std = initial_stds(output, scheme) if std is None else std
        output = first_loss(output, Tape(scheme)).total
    std = 1.0 if std is None else std
    return predict_graph(output, std, agreement)
