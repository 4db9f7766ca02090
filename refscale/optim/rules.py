"""SGD, Adam, AdamW and LAMB: each a formula on blocks of (g, p, *moments), with g the gradient and p the parameter.

Throughout, t = 1, 2, … counts updates, lr = peak · multiplier · lr_scale is the parameter's learning rate, λ the weight
decay (0 where its group is not decayed), and a prime marks a new value. Hyperparameters are Python floats, so float32
stays float32.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refscale.errors import ArgumentError
from refscale.optim.records import Group, Optimizer, Rate
from refscale.optim.update import Array, Step, elementwise, optimizer, walk
from refscale.spellings import read_number, read_options, split_name

Blocks = tuple[Array, ...]


def sgd(momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """Make SGD (stochastic gradient descent), with optional momentum.

    d = g + λ·p;  m' = μ·m + d;  p' = p − lr·m', or with ``nesterov`` p − lr·(d + μ·m').

    Args:
        momentum: μ in [0, 1); 0: no moment is stored. There is no dampening.
        nesterov: use Nesterov momentum; needs μ > 0.
        weight_decay: λ ≥ 0; coupled: added to the gradient.

    Raises:
        ArgumentError: a value is out of range.

    Source: Sutskever et al., ICML 2013; in the form of torch.optim.SGD.
    """
    mu = _below_one("sgd", "momentum", momentum)
    weight_decay = _not_negative("sgd", "weight_decay", weight_decay)
    if nesterov and mu == 0:
        raise ArgumentError(f"sgd(momentum={momentum}, nesterov=True): expected momentum > 0 with nesterov")

    def rule(t: int, rate: Rate, group: Group) -> Step:
        lr, decay = rate.of(group), group.decay(weight_decay) * group.decay_scale

        def plain(g: Array, p: Array) -> Blocks:
            d = g + decay * p if decay else g
            return (p - lr * d,)

        def heavy(g: Array, p: Array, m: Array) -> Blocks:
            d = g + decay * p if decay else g
            m = mu * m + d
            return p - lr * (d + mu * m if nesterov else m), m

        return elementwise(heavy if mu else plain)

    return optimizer("sgd", ("m",) if mu else (), rule)


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0) -> Optimizer:
    """Make Adam; its weight decay is coupled, that is, added to the gradient.

    d = g + λ·p;  (m', v', u) = ``_moments`` of d;  p' = p − lr·u.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: number added to √v̂, positive and finite, also in the dtype of the parameters.
        weight_decay: λ, at least 0.

    Raises:
        ArgumentError: a value is out of range.

    Source: Kingma & Ba, arXiv 1412.6980, Algorithm 1; the decay as in torch.optim.Adam.
    """
    b1, b2, eps, weight_decay = _hyper("adam", b1, b2, eps, weight_decay)

    def rule(t: int, rate: Rate, group: Group) -> Step:
        lr, decay = rate.of(group), group.decay(weight_decay)

        def kernel(g: Array, p: Array, m: Array, v: Array) -> Blocks:
            m, v, u = _moments(g + decay * p if decay else g, m, v, b1, b2, eps, t)
            u *= lr
            return p - u, m, v

        return elementwise(kernel)

    return optimizer("adam", ("m", "v"), rule, eps)


def adamw(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    independent: bool = False,
    eps_hat: bool = False,
) -> Optimizer:
    """Make AdamW: Adam with decoupled weight decay.

    (m', v', u) = ``_moments`` of g;  p' = p·(1 − δ) − lr·u, with δ = lr·λ, or with ``independent`` δ = multiplier·λ.

    It is computed as p − (lr·u + δ·p): in float32 the spacing of 1 − δ is 2^-24, so that rounding it would change a δ
    of 1e-6 by up to 3%, and a δ below 3e-8 to 0.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: number added to √v̂, positive and finite, also in the dtype of the parameters.
        weight_decay: λ, at least 0.
        independent: multiply the decay by the schedule only, not by the peak rate and ``lr_scale``; λ is then the
            fraction removed per step, typically about 1e-4.
        eps_hat: add eps to √v', before the bias of v' is corrected: u = m̂ / (√v̂ + eps/√(1 − b2^t)).

    Raises:
        ArgumentError: a value is out of range.

    Source: Loshchilov & Hutter, arXiv 1711.05101, Algorithm 2, is the independent form; torch.optim.AdamW the default
    one. Wortsman et al., arXiv 2309.14322, and u-μP, arXiv 2407.17465, recommend the independent form.
    ``eps_hat``: Kingma & Ba, section 2 (ε̂), and the authors' code, scmm/layers.py.
    """
    b1, b2, eps, weight_decay = _hyper("adamw", b1, b2, eps, weight_decay)

    def rule(t: int, rate: Rate, group: Group) -> Step:
        lr = rate.of(group)
        added = eps * (1 - b2**t) ** -0.5 if eps_hat else eps
        decay = (rate.multiplier if independent else lr * group.decay_scale) * group.decay(weight_decay)

        def kernel(g: Array, p: Array, m: Array, v: Array) -> Blocks:
            m, v, u = _moments(g, m, v, b1, b2, added, t)
            u *= lr
            if decay:
                u += decay * p
            return p - u, m, v

        return elementwise(kernel)

    return optimizer("adamw", ("m", "v"), rule, eps)


def lamb(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, weight_decay: float = 0.01) -> Optimizer:
    """Make LAMB: the step of AdamW, scaled to the norm of the parameter.

    (m', v', r) = ``_moments`` of g;  u = r + λ·p;  p' = p − lr·(‖p‖/‖u‖)·u.

    The trust ratio ‖p‖/‖u‖ is that of a whole parameter; it is 1 if either norm is 0, or the group is not decayed.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: number added to √v̂, positive and finite, also in the dtype of the parameters.
        weight_decay: λ, at least 0.

    Raises:
        ArgumentError: a value is out of range.

    Source: You et al., arXiv 1904.00962, Algorithm 2, with φ the identity; the ratio of groups without decay is 1, as
    in the authors' optimizer for BERT.
    """
    b1, b2, eps, weight_decay = _hyper("lamb", b1, b2, eps, weight_decay)

    def rule(t: int, rate: Rate, group: Group) -> Step:
        lr, decay = rate.of(group), group.decay(weight_decay)

        def direction(g: Array, p: Array, m: Array, v: Array) -> Blocks:
            m, v, u = _moments(g, m, v, b1, b2, eps, t)
            if decay:
                u += decay * p
            return u, m, v

        def step(g: Array, p: Array, m: Array, v: Array) -> Blocks:
            u, m, v = walk(direction, 3, g, p, m, v)
            length = lr * trust_ratio(p, u) if group.decayed else lr
            (p,) = walk(lambda p, u: (p - length * u,), 1, p, u)
            return p, m, v

        return step

    return optimizer("lamb", ("m", "v"), rule, eps)


# --- Common parts -----------------------------------------------------------------------------------------------------


def _moments(g: Array, m: Array, v: Array, b1: float, b2: float, eps: float, t: int) -> Blocks:
    """Moments and direction of Adam: (m', v', u).

    m' = b1·m + (1 − b1)·g;  v' = b2·v + (1 − b2)·g²;  u = m̂ / (√v̂ + eps), m̂ = m'/(1 − b1^t), v̂ = v'/(1 − b2^t).

    Args:
        g: gradient; all arrays are flat blocks of one size.
        m: first moment.
        v: second moment.
        b1: decay of the first.
        b2: decay of the second.
        eps: outside the root.
        t: number of this update, from 1.

    g² overflows above the root of the dtype's largest value (float32: 1.8e19), which raises. v' underflows below
    |g| = 8e-22 in float32; u is then m̂/eps, which is right to 1e-13 at an eps of 1e-8.
    """
    m = b1 * m
    m += (1 - b1) * g
    v = b2 * v
    square = g * g
    square *= 1 - b2
    v += square
    root = np.sqrt(v)
    root *= (1 - b2**t) ** -0.5
    root += eps
    u = m / root
    u *= 1 / (1 - b1**t)
    return m, v, u


def norm(x: Array) -> float:
    """Compute √Σx² in float64: NumPy's pairwise sums of 16384 elements, added exactly, for any blocks and threads.

    The squares of float32 values are exact in float64. float64 values are first multiplied by a power of two, exactly,
    so that the largest is below 1.
    """
    flat, unit = x.reshape(-1), 1.0
    if flat.dtype == np.float64:
        unit = math.ldexp(1.0, min(-math.frexp(float(np.abs(flat).max(initial=0.0)))[1], 1023))
        flat = flat * unit
    parts = (flat[start : start + 16384].astype(np.float64) for start in range(0, flat.size, 16384))
    return math.sqrt(math.fsum(float(np.sum(part * part)) for part in parts)) / unit


def trust_ratio(p: Array, u: Array) -> float:
    """Compute ‖p‖/‖u‖, or 1 if either norm is 0."""
    length, step = norm(p), norm(u)
    return length / step if length > 0 and step > 0 else 1.0


def _hyper(call: str, b1: float, b2: float, eps: float, weight_decay: float) -> tuple[float, float, float, float]:
    """Hyperparameters of Adam and its kin, checked, as Python floats."""
    if not 0 < eps < math.inf:
        raise ArgumentError(f"{call}(eps={eps}): expected 0 < eps < ∞")
    return (
        _below_one(call, "b1", b1),
        _below_one(call, "b2", b2),
        float(eps),
        _not_negative(call, "weight_decay", weight_decay),
    )


def _below_one(call: str, name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ArgumentError(f"{call}({name}={value}): expected 0 ≤ {name} < 1")
    return float(value)


def _not_negative(call: str, name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ArgumentError(f"{call}({name}={value}): expected 0 ≤ {name} < ∞")
    return float(value)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw, "lamb": lamb}


def get_optimizer(text: str | Optimizer, **hyper: Any) -> Optimizer:
    """Return an optimizer by name, ``adamw``, or with options, ``adamw:b2=0.95,independent``, ``sgd:momentum=0.9``.

    An optimizer is returned unchanged.

    Args:
        text: a name in ``OPTIMIZERS``, and, after a colon, hyperparameters, separated by commas; the name of a boolean
            sets it to True.
        hyper: hyperparameters by name; those in ``text`` take precedence.

    Raises:
        ArgumentError: the name or a hyperparameter is unknown, or a value is not a number or out of range.
    """
    if isinstance(text, Optimizer) and not hyper:
        return text
    name, rest = split_name(text) if isinstance(text, str) else ("", None)
    if name not in OPTIMIZERS:
        raise ArgumentError(f"get_optimizer({text!r}): expected one of {', '.join(OPTIMIZERS)}")
    make = OPTIMIZERS[name]
    known = inspect.signature(make).parameters
    for key, value in hyper.items():
        if key not in known:
            raise ArgumentError(f"get_optimizer({text!r}, {key}={value!r}): expected some of {', '.join(known)}")
    for option in read_options(rest, f"get_optimizer({text!r})", f"some of {_options(known)}"):
        key, value = option.field, option.value
        if key not in known or isinstance(known[key].default, bool) == (value is not None):
            raise ArgumentError(f"get_optimizer({text!r}): {option.text!r}, expected some of {_options(known)}")
        try:
            hyper[key] = True if value is None else read_number(value)
        except ValueError as error:
            raise ArgumentError(f"get_optimizer({text!r}): {option.text!r}, expected a number") from error
    return make(**hyper)


def _options(known: Mapping[str, inspect.Parameter]) -> str:
    return ", ".join(key if isinstance(p.default, bool) else f"{key}=NUMBER" for key, p in known.items())
