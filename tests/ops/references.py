"""Every op as a plain NumPy expression, written without looking at the op, with a bound on the rounding of both.

``REFERENCES[type](op, *arrays)`` gives (value, bound): the op must lie within ``bound`` of ``value``, element by
element, in float64. 0 means the same number. Bounds are first order: u per operation, times how far it moves the
result; a sum of n terms errs by n·u·Σ|terms| in any order (Higham 2002, section 4.2), an elementary function by 4u (2
ulp). They count the op's roundings and the reference's, which are about as many.
"""

import itertools
import math

import numpy as np

from refscale import ops

U = 2.0**-53


def exact(value):
    return value, 0.0


def relative(value, roundings):
    return value, roundings * U * np.abs(value)


def product(subscripts, x, y, terms, factor=1.0):
    magnitude = np.einsum(subscripts, np.abs(x), np.abs(y)) * factor
    return np.einsum(subscripts, x, y) * factor, 2 * (terms + 2) * U * magnitude


def weighted_add(op, *xs):
    terms = [w * x for w, x in zip(op.weights, xs, strict=True)]
    return sum(terms), 2 * (len(xs) + 1) * U * sum(map(np.abs, terms))


def silu_glu(op, x, gate):
    return relative(x * gate / (1 + np.exp(-gate)), 24)


def glu(op, x, gate):
    f = op.activation if isinstance(op.activation, ops.Elementwise) else ops.ACTIVATIONS[op.activation]
    value, bound = REFERENCES[type(f)](f, gate)
    return x * value, np.abs(x) * bound + 4 * U * np.abs(x * value)


def highway(op, h, candidate, update):
    gate = 1 / (1 + np.exp(-update - op.bias))
    return (1 - gate) * h + gate * candidate, 24 * U * (np.abs(h) + np.abs(candidate)) * (2 + np.abs(update))


def logistic(x):
    return 1 / (1 + np.exp(-x))


def lstm_state(op, c, gates):
    """By torch's order of the gates: i, f, g, o."""
    i, f, g, _ = np.split(gates, 4, -1)
    kept, new = logistic(f) * c, logistic(i) * np.tanh(g)
    return kept + new, 24 * U * (np.abs(kept) + np.abs(new))


def lstm_output(op, c, gates):
    return relative(np.tanh(c) * logistic(np.split(gates, 4, -1)[3]), 24)


def gru_state(op, h, gates, candidate, recurrent):
    """(1 − z)·n + z·h; the argument of tanh errs by a few roundings of its terms."""
    r, z = np.split(logistic(gates), 2, -1)
    n = np.tanh(candidate + r * recurrent)
    moved = 24 * U * (1 + np.abs(candidate) + np.abs(recurrent))
    return (1 - z) * n + z * h, moved + 24 * U * np.abs(h)


def rotary(op, x, cos, sin):
    """As complex numbers x_i + i·x_{i+d/2}, times cos + i·sin; interleaved pairs are sorted so, and back."""
    half = x.shape[-1] // 2
    if op.interleaved:
        order = [*range(0, 2 * half, 2), *range(1, 2 * half, 2)]
        y, bound = rotary(ops.Rotary(), x[..., order], cos, sin)
        return y[..., np.argsort(order)], bound[..., np.argsort(order)]
    y = (x[..., :half] + 1j * x[..., half:]) * (cos + 1j * sin)
    value = np.concatenate([y.real, y.imag], -1)
    return value, 8 * U * np.concatenate([np.abs(x[..., :half]) + np.abs(x[..., half:])] * 2, -1)


def relative_shift(op, x):
    y = np.zeros_like(x)
    for i, j in np.ndindex(x.shape[-2:]):
        if j <= i:
            y[..., i, j] = x[..., i, i - j]
    return exact(y)


def dropout(op, x, keep):
    return relative(np.where(keep, x / (1 - op.p), 0.0), 4)


def matmul(op, x, w):
    return product("...ij,...jk->...ik", x, w, x.shape[-1])


def scores(op, q, k):
    d = q.shape[-1]
    damping = {"1/sqrt(d)": 1 / math.sqrt(d), "1/d": 1 / d}.get(op.rule, op.rule)
    return product("...id,...jd->...ij", q, k, d + 2, damping)


def convolution(op, x, weight):
    """One output at a time."""
    axes = x.ndim - 2
    stride, dilation, padding = ((v,) if axes == 1 else v for v in (op.stride, op.dilation, op.padding))
    before, after = zip(*((p, p) if isinstance(p, int) else p for p in padding), strict=True)
    kernel, space = weight.shape[:axes], x.shape[1:-1]
    outputs = [
        (space[a] + before[a] + after[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in range(axes)
    ]
    y = np.zeros((len(x), *outputs, weight.shape[-1]))
    magnitude = np.zeros_like(y)
    c_in, c_out = x.shape[-1] // op.groups, weight.shape[-1] // op.groups
    for o in itertools.product(*map(range, outputs)):
        for k in itertools.product(*map(range, kernel)):
            at = tuple(o[a] * stride[a] + k[a] * dilation[a] - before[a] for a in range(axes))
            if not all(0 <= i < n for i, n in zip(at, space, strict=True)):
                continue
            for group in range(op.groups):
                seen = x[(slice(None), *at)][:, group * c_in : (group + 1) * c_in]
                into = (slice(None), *o, slice(group * c_out, (group + 1) * c_out))
                y[into] += seen @ weight[k][:, group * c_out : (group + 1) * c_out]
                magnitude[into] += np.abs(seen) @ np.abs(weight[k][:, group * c_out : (group + 1) * c_out])
    return y, 2 * (math.prod(kernel) * c_in + 2) * U * magnitude


def _each(value, axes):
    return (value,) * axes if isinstance(value, int) else value


def _windows(op, x):
    """Place of each window in y, and the elements of x in it: (batch, elements, channels)."""
    axes = x.ndim - 2
    kernel, dilation = _each(op.kernel, axes), _each(op.dilation, axes)
    stride, padding = _each(op.stride or kernel, axes), _each(op.padding or 0, axes)
    before, after = zip(*((p, p) if isinstance(p, int) else p for p in padding), strict=True)
    space = x.shape[1:-1]
    outputs = [
        (space[a] + before[a] + after[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in range(axes)
    ]
    for o in itertools.product(*map(range, outputs)):
        lines = [
            [i for i in (o[a] * stride[a] + k * dilation[a] - before[a] for k in range(kernel[a])) if 0 <= i < space[a]]
            for a in range(axes)
        ]
        seen = np.stack([x[(slice(None), *at)] for at in itertools.product(*lines)], 1)
        yield outputs, (slice(None), *o), seen, math.prod(kernel)


def max_pool(op, x):
    found = list(_windows(op, x))
    y = np.zeros((len(x), *found[0][0], x.shape[-1]))
    for _, place, seen, _ in found:
        y[place] = seen.max(1)
    return exact(y)


def avg_pool(op, x):
    """The mean of x and zeros around it, or of the elements of x alone, one window at a time."""
    found = list(_windows(op, x))
    y, magnitude = np.zeros((2, len(x), *found[0][0], x.shape[-1]))
    for _, place, seen, kernel in found:
        n = kernel if op.count_include_pad else seen.shape[1]
        y[place], magnitude[place] = seen.sum(1) / n, np.abs(seen).sum(1) / n
    return y, 2 * (found[0][3] + 2) * U * magnitude


def conv_transpose(op, x, weight):
    """One element of x and of the kernel at a time."""
    axes = x.ndim - 2
    stride, dilation, more = (_each(v, axes) for v in (op.stride, op.dilation, op.output_padding))
    before, after = zip(*((p, p) if isinstance(p, int) else p for p in _each(op.padding, axes)), strict=True)
    kernel, space = weight.shape[:axes], x.shape[1:-1]
    out = [
        (space[a] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1 - before[a] - after[a] + more[a]
        for a in range(axes)
    ]
    y, magnitude = np.zeros((2, len(x), *out, weight.shape[-1]))
    c_in, c_out = x.shape[-1] // op.groups, weight.shape[-1] // op.groups
    for i in itertools.product(*map(range, space)):
        for k in itertools.product(*map(range, kernel)):
            at = tuple(i[a] * stride[a] + k[a] * dilation[a] - before[a] for a in range(axes))
            if not all(0 <= j < n for j, n in zip(at, out, strict=True)):
                continue
            for group in range(op.groups):
                seen = x[(slice(None), *i)][:, group * c_in : (group + 1) * c_in]
                columns = slice(group * c_out, (group + 1) * c_out)
                y[(slice(None), *at, columns)] += seen @ weight[k][:, columns]
                magnitude[(slice(None), *at, columns)] += np.abs(seen) @ np.abs(weight[k][:, columns])
    return y, 2 * (math.prod(kernel) * c_in + 2) * U * magnitude


def pad(op, x):
    """An element at a time: a place beyond the ends is a number, the nearest, or mirrored."""
    y = np.full([n + sum(w) for n, w in zip(x.shape, op.widths, strict=True)], op.value)
    for place in np.ndindex(*y.shape):
        at = [i - before for i, (before, _) in zip(place, op.widths, strict=True)]
        if op.mode == "reflect":
            at = [n - 1 - abs(n - 1 - abs(i)) for i, n in zip(at, x.shape, strict=True)]
        elif op.mode == "replicate":
            at = [min(max(i, 0), n - 1) for i, n in zip(at, x.shape, strict=True)]
        if all(0 <= i < n for i, n in zip(at, x.shape, strict=True)):
            y[place] = x[tuple(at)]
    return exact(y)


def nearest_resize(op, x):
    factors = _each(op.factor, x.ndim - 2)
    return exact(np.kron(x, np.ones((1, *factors, 1))))


def linear_resize(op, x):
    """Each place is Σ over elements of max(0, 1 − distance): 4 roundings a place and axis, and those of the place."""
    axes, magnitude = x.ndim - 2, np.abs(x)
    for axis, (n, size) in enumerate(zip(x.shape[1:-1], _each(op.size, axes), strict=True), 1):
        if op.align_corners:
            at = np.linspace(0, n - 1, size)
        else:
            at = np.clip([(2 * o + 1) * n / (2 * size) - 0.5 for o in range(size)], 0, n - 1)
        weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))
        x, magnitude = (np.moveaxis(np.moveaxis(v, axis, -1) @ weights.T, -1, axis) for v in (x, magnitude))
    farthest = max(x.shape[1:-1], default=1) * 2**axes
    return x, (4 * axes * U + farthest * 2.0**-52) * np.max(magnitude, initial=0)


def gelu(op, x):
    if op.form == "erf":
        # The rounding of x/√2 (2u) moves erfc by x²·2u, relatively.
        phi = np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2, otypes=[float])(x)
        return x * phi, (20 + 2 * x**2) * U * np.abs(x * phi)
    # 1 + tanh z = 2/(1 + e^-2z), and the rounding of z moves e^-2z by |2z|·4u, relatively.
    z = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x / (1 + np.exp(-2 * z)), (24 + 16 * np.abs(z)) * U * np.abs(x / (1 + np.exp(-2 * z)))


def hard_swish(op, x):
    """A parabola between 0 and x."""
    return np.select([x <= -3, x >= 3], [0.0, x], x**2 / 6 + x / 2), 6 * U * (x**2 + np.abs(x))


def tanh(op, x):
    e = np.expm1(2 * x)
    return relative(e / (e + 2), 16)


def soft_cap(op, x):
    """cap·(1 − 2/(1 + e^2z)); the rounding of z moves tanh z by no more than that of z itself."""
    y, bound = tanh(op, x / op.cap)
    return op.cap * y, op.cap * (bound + 8 * U * np.abs(y))


def softmax(op, x):
    e = np.exp(x)
    y = e / e.sum(-1, keepdims=True)
    return y, (2 * x.shape[-1] + 24 + 2 * np.ptp(x, axis=-1, keepdims=True)) * U * y


def masked_softmax(op, x, mask):
    mask = np.broadcast_to(mask, x.shape)
    s, t = x.shape[-2:]
    y = np.zeros_like(x)
    for row in np.ndindex(*x.shape[:-1]):
        place = row[-1] + t - s
        seen = [j for j in range(t) if mask[(*row, j)] and (not op.causal or j <= place)]
        seen = [j for j in seen if op.window is None or abs(place - j) < op.window]
        if seen:
            e = np.exp(x[row][seen])
            y[(*row, seen)] = e / e.sum()
    return y, (2 * t + 24 + 2 * np.ptp(x)) * U * y


def log_softmax(op, x):
    total = np.log(np.exp(x).sum(-1, keepdims=True))
    return x - total, (2 * x.shape[-1] + 24) * U * (1 + np.abs(x).max() + np.abs(total))


def layer_norm(op, x, gain, bias):
    n = x.shape[-1]
    sigma = np.sqrt(x.var(-1, keepdims=True) + op.eps)
    normal = (x - x.mean(-1, keepdims=True)) / sigma
    # The mean errs by n·u·max|x|; over σ, that moves the quotient, and 1 + its square moves σ itself.
    moved = 2 * (3 * n + 12) * U * (1 + np.abs(x).max(-1, keepdims=True) / sigma) * (1 + normal**2)
    return normal * gain + bias, moved * np.abs(gain) + 4 * U * (np.abs(normal * gain) + np.abs(bias))


def batch_norm(op, x, gain, bias):
    """A layer norm of each channel's column."""
    columns = x.reshape(-1, x.shape[-1]).T
    y, bound = layer_norm(op, columns, np.ones(columns.shape[-1]), np.zeros(columns.shape[-1]))
    y, bound = y.T.reshape(x.shape), bound.T.reshape(x.shape)
    return y * gain + bias, bound * np.abs(gain) + 4 * U * (np.abs(y * gain) + np.abs(bias))


def frozen_batch_norm(op, x, gain, bias, mean, variance):
    slope = gain / (variance + op.eps) ** 0.5
    return x * slope + (bias - mean * slope), 16 * U * ((np.abs(x) + np.abs(mean)) * np.abs(slope) + np.abs(bias))


def group_norm(op, x, gain, bias):
    """A sample and a group after another."""
    y, bound = np.zeros((2, *x.shape))
    width = x.shape[-1] // op.groups
    for sample in range(len(x)):
        for group in range(op.groups):
            at = (sample, ..., slice(group * width, (group + 1) * width))
            flat = x[at].reshape(1, -1)
            for into, part in zip(
                (y, bound), layer_norm(op, flat, np.ones(flat.size), np.zeros(flat.size)), strict=True
            ):
                into[at] = part.reshape(x[at].shape)
    return y * gain + bias, bound * np.abs(gain) + 4 * U * (np.abs(y * gain) + np.abs(bias))


def rms_norm(op, x, gain):
    return relative(x / np.sqrt((x**2).mean(-1, keepdims=True) + op.eps) * gain, 2 * x.shape[-1] + 16)


def _flat(x, axes):
    axes = range(x.ndim) if axes is None else [a % x.ndim for a in axes]
    kept = [a for a in range(x.ndim) if a not in axes]
    return x.transpose(*kept, *axes).reshape(*(x.shape[a] for a in kept), -1)


def _kept(op, x, *ys):
    """In the shape of a reduction that keeps its axes, if it does."""
    axes = range(x.ndim) if op.axes is None else [a % x.ndim for a in op.axes]
    shape = [1 if a in axes else n for a, n in enumerate(x.shape)]
    return tuple(y.reshape(shape) for y in ys) if op.keepdims else ys


def total(op, x):
    flat = _flat(x, op.axes)
    return _kept(op, x, flat @ np.ones(flat.shape[-1]), 2 * flat.shape[-1] * U * np.abs(flat).sum(-1))


def mean(op, x):
    flat = _flat(x, op.axes)
    n = flat.shape[-1]
    return _kept(op, x, flat @ np.full(n, 1 / n), 2 * (n + 2) * U * np.abs(flat).mean(-1))


def gather(op, x, positions):
    y = np.zeros((*positions.shape, x.shape[-1]))
    for place in np.ndindex(*positions.shape):
        y[place] = x[(*place[:-1], positions[place])]
    return exact(y)


def embedding(op, table, ids):
    return exact(np.array([table[i] for i in ids.ravel()]).reshape(*ids.shape, table.shape[1]))


def cross_entropy(op, logits, targets):
    rows = [row for row in np.ndindex(*targets.shape) if targets[row] != op.ignore_index]
    losses = [np.log(np.exp(logits[row]).sum()) - logits[(*row, targets[row])] for row in rows]
    bound = (2 * logits.shape[-1] + 2 * len(rows) + 24) * U * (1 + 2 * np.abs(logits).max()) * len(rows)
    if op.reduction == "none":
        y = np.zeros(targets.shape)
        for row, loss in zip(rows, losses, strict=True):
            y[row] = loss
        return y, bound
    share = len(rows) if op.reduction == "mean" else 1
    return np.asarray(sum(losses) / share), bound / share


def reduced(op, losses, bound, divisor=None):
    """Losses by their reduction; bounds of a sum count the additions."""
    if op.reduction == "none":
        return losses, bound
    share = (divisor or losses.size) if op.reduction == "mean" else 1
    return np.asarray(losses.sum() / share), (np.sum(bound) + 2 * losses.size * U * np.abs(losses).sum()) / share


def soft_target_cross_entropy(op, logits, targets):
    surprise = np.log(np.exp(logits).sum(-1, keepdims=True)) - logits
    size = np.abs(logits).max() + np.abs(surprise)
    bound = (4 * logits.shape[-1] + 24) * U * (targets * (1 + size)).sum(-1)
    return reduced(op, (targets * surprise).sum(-1), bound, op.divisor)


def binary_cross_entropy(op, logits, positive, negative):
    losses = positive * np.log(1 + np.exp(-logits)) + negative * np.log(1 + np.exp(logits))
    return reduced(op, losses, 24 * U * (positive + negative) * (1 + np.abs(logits)))


def clipped(op, x, target, corner, slope):
    d = np.abs(x - target)
    losses = np.array([v * v / 2 * slope / corner if v <= corner else slope * (v - corner / 2) for v in d.ravel()])
    losses = losses.reshape(d.shape)
    return reduced(op, losses, 12 * U * slope * (d + corner))


def thresholded_softplus(op, x):
    return relative(np.where(op.beta * x > op.threshold, x, np.logaddexp(0, op.beta * x) / op.beta), 24)


def masked_log_softmax(op, x, mask):
    mask = np.broadcast_to(mask, x.shape)
    s, t = x.shape[-2:]
    y = np.zeros_like(x)
    for row in np.ndindex(*x.shape[:-1]):
        seen = [j for j in range(t) if mask[(*row, j)] and (not op.causal or j <= row[-1] + t - s)]
        if seen:
            y[(*row, seen)] = x[row][seen] - np.log(np.exp(x[row][seen]).sum())
    return y, (2 * t + 24) * U * (1 + 2 * np.abs(x).max() + np.abs(y))


def mse_loss(op, x, target):
    value = np.mean(x**2 - 2 * x * target + target**2)
    return value, 2 * (x.size + 6) * U * np.mean((np.abs(x) + np.abs(target)) ** 2)


def concat(op, *xs):
    joined = [np.moveaxis(x, op.axis, 0) for x in xs]
    return exact(np.moveaxis(np.array([row for x in joined for row in x]), 0, op.axis))


REFERENCES = {
    ops.Add: lambda op, x, y: exact(x + y),
    ops.Subtract: lambda op, x, y: exact(x - y),
    ops.WeightedAdd: weighted_add,
    ops.Bias: lambda op, x, bias: exact(x + bias),
    ops.Multiply: lambda op, x, y: exact(x * y),
    ops.ScalarMultiply: lambda op, x: exact(x * op.factor),
    ops.ScalarDivide: lambda op, x: relative(x * (1 / op.divisor), 4),
    ops.Maximum: lambda op, x, y: exact(np.where(x < y, y, x)),
    ops.Minimum: lambda op, x, y: exact(np.where(x < y, x, y)),
    ops.SiluGlu: silu_glu,
    ops.Glu: glu,
    ops.Highway: highway,
    ops.LstmState: lstm_state,
    ops.LstmOutput: lstm_output,
    ops.GruState: gru_state,
    ops.Rotary: rotary,
    ops.RelativeShift: relative_shift,
    ops.Scaled: lambda op, x: exact(x),
    ops.Fork: lambda op, x: exact(x),
    ops.Dropout: dropout,
    ops.Matmul: matmul,
    ops.AttentionScores: scores,
    ops.AttentionMix: matmul,
    ops.Readout: matmul,
    ops.Conv1d: convolution,
    ops.Conv2d: convolution,
    ops.Conv3d: convolution,
    ops.ConvTranspose: conv_transpose,
    ops.MaxPool: max_pool,
    ops.AvgPool: avg_pool,
    ops.Relu: lambda op, x: exact((x + np.abs(x)) / 2),
    ops.LeakyRelu: lambda op, x: exact(np.maximum(x, op.slope * x)),
    ops.Gelu: gelu,
    ops.Silu: lambda op, x: relative(x / (1 + np.exp(-x)), 20),
    ops.Swish: lambda op, x: relative(x / (1 + np.exp(-op.beta * x)), 24 + 4 * np.abs(op.beta * x)),
    ops.Tanh: tanh,
    ops.SoftCap: soft_cap,
    ops.Sigmoid: lambda op, x: relative(1 / (1 + np.exp(-x)), 16),
    ops.Softplus: lambda op, x: relative(np.logaddexp(0, x), 20),
    ops.ThresholdedSoftplus: thresholded_softplus,
    ops.Abs: lambda op, x: exact(x * ((x > 0) * 2.0 - 1)),
    ops.Square: lambda op, x: exact(x**2),
    ops.Clip: lambda op, x: exact(np.where(x < op.low, op.low, np.where(x > op.high, op.high, x))),
    ops.HardSigmoid: lambda op, x: (np.clip(x / 6 + 0.5, 0, 1), 6 * U),
    ops.HardSwish: hard_swish,
    ops.Exp: lambda op, x: relative(np.exp2(x / math.log(2)), 12 + 4 * np.abs(x)),
    ops.Log: lambda op, x: (np.log2(x) * math.log(2), 12 * U * np.abs(np.log(x))),
    ops.Sqrt: lambda op, x: relative(x**0.5, 4),
    ops.Softmax: softmax,
    ops.MaskedSoftmax: masked_softmax,
    ops.LogSoftmax: log_softmax,
    ops.MaskedLogSoftmax: masked_log_softmax,
    ops.LayerNorm: layer_norm,
    ops.RmsNorm: rms_norm,
    ops.BatchNorm: batch_norm,
    ops.FrozenBatchNorm: frozen_batch_norm,
    ops.GroupNorm: group_norm,
    ops.Sum: total,
    ops.Mean: mean,
    ops.Reshape: lambda op, x: exact(np.array(x.ravel().tolist()).reshape(op.shape)),
    ops.Transpose: lambda op, x: exact(np.einsum(x, list(range(x.ndim)), list(op.axes))),
    ops.Slice: lambda op, x: exact(np.take(x, range(op.start, op.stop), op.axis)),
    ops.Concat: concat,
    ops.Expand: lambda op, x: exact(x + np.zeros(op.shape)),
    ops.Where: lambda op, mask, x, y: exact(x * mask + y * ~mask),
    ops.Gather: gather,
    ops.Pad: pad,
    ops.NearestResize: nearest_resize,
    ops.LinearResize: linear_resize,
    ops.Embedding: embedding,
    ops.SoftmaxCrossEntropy: cross_entropy,
    ops.SoftTargetCrossEntropy: soft_target_cross_entropy,
    ops.BinaryCrossEntropy: binary_cross_entropy,
    ops.MseLoss: mse_loss,
    ops.HuberLoss: lambda op, x, target: clipped(op, x, target, op.delta, op.delta),
    ops.SmoothL1Loss: lambda op, x, target: clipped(op, x, target, op.beta, 1.0),
    ops.LossSum: lambda op, *xs: (np.asarray(math.fsum(xs)), 2 * len(xs) * U * sum(map(np.abs, xs))),
}


def assert_close_to_reference(op, arrays, y):
    """Assert that y equals the plain expression, within its bound."""
    value, bound = REFERENCES[type(op)](op, *arrays)
    assert y.shape == np.shape(value), f"{op}: shape {y.shape}, expected {np.shape(value)}"
    error = np.abs(y - value)
    assert np.all(error <= bound), f"{op}: off by {np.max(error)}, expected at most {bound}"
