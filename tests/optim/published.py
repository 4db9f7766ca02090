"""The published algorithms, number by number in float64; and the problem that implementations are compared on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refscale.optim import Group, Rate

STEPS = 20


@dataclass(frozen=True)
class Problem:
    """Inputs of an optimizer; gradients do not depend on parameters, so errors do not accumulate."""

    parameters: dict
    gradients: list
    rates: list
    groups: dict

    def to(self, dtype):
        """The same numbers in another dtype."""
        parameters = {k: p.astype(dtype) for k, p in self.parameters.items()}
        gradients = [{k: g.astype(dtype) for k, g in step.items()} for step in self.gradients]
        return Problem(parameters, gradients, self.rates, self.groups)


def problem(seed=0, peak=0.01, schedule=lambda step: (1 + step % 5) / 5):
    """Shapes of 0 to 3 axes; gradients 0 at first, at times, or always; float32 numbers held in float64."""
    rng = np.random.default_rng(seed)
    groups = {
        "matrix": Group(),
        "bias": Group(lr_scale=2.0, decayed=False),
        "cube": Group(lr_scale=0.25),
        "scalar": Group(decayed=False),
        "frozen": Group(lr_scale=0.0),
        "unused": Group(),
        "zero": Group(),
    }
    shapes = {
        "matrix": (7, 5),
        "bias": (5,),
        "cube": (3, 2, 4),
        "scalar": (),
        "frozen": (3,),
        "unused": (4,),
        "zero": (6,),
    }

    def draw(shape):
        return np.asarray(rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    parameters = {k: draw(s) for k, s in shapes.items()}
    parameters["zero"] *= 0
    gradients = []
    for step in range(STEPS):
        g = {k: draw(s) for k, s in shapes.items()}
        g["matrix"][step % 7] = 0  # a row without gradient
        g["cube"] *= 2.0**-10
        g["bias"] *= step >= 3  # nothing at first
        g["unused"] *= 0
        gradients.append(g)
    rates = [Rate(peak, schedule(step)) for step in range(STEPS)]
    return Problem(parameters, gradients, rates, groups)


def run(optimizer, case):
    """Parameters after all steps."""
    p, state = case.parameters, optimizer.init(case.parameters)
    for g, rate in zip(case.gradients, case.rates, strict=True):
        p, state = optimizer.update(g, state, p, rate, case.groups)
    return p


def reference(algorithm, case, **hyper):
    """Parameters after all steps, by one of the functions below."""
    results = {}
    for key, p in case.parameters.items():
        steps = [g[key].reshape(-1).tolist() for g in case.gradients]
        values = algorithm(p.reshape(-1).tolist(), steps, case.rates, case.groups[key], **hyper)
        results[key] = np.array(values).reshape(p.shape)
    return results


def distance(got, want):
    """Largest |got − want| in units of the largest parameter."""
    largest = max(float(np.max(np.abs(p))) for p in want.values())
    return max(float(np.max(np.abs(got[k].astype(np.float64) - want[k]))) for k in want) / largest


# --- The algorithms ---------------------------------------------------------------------------------------------------


def sgd(p, gradients, rates, group, *, momentum=0.0, nesterov=False, weight_decay=0.0):
    """Documentation of torch.optim.SGD, with dampening 0."""
    p, buffer = list(p), [0.0] * len(p)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        lr = rate.peak * rate.multiplier * group.lr_scale
        for i in range(len(p)):
            d = g[i] + weight_decay * p[i] if group.decayed else g[i]
            if momentum != 0:
                buffer[i] = momentum * buffer[i] + d if t > 1 else d
                d = d + momentum * buffer[i] if nesterov else buffer[i]
            p[i] = p[i] - lr * d
    return p


def adam(p, gradients, rates, group, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    """Kingma & Ba, Algorithm 1, with the decay added to the gradient."""
    p, m, v = list(p), [0.0] * len(p), [0.0] * len(p)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        lr = rate.peak * rate.multiplier * group.lr_scale
        for i in range(len(p)):
            d = g[i] + weight_decay * p[i] if group.decayed else g[i]
            m[i] = b1 * m[i] + (1 - b1) * d
            v[i] = b2 * v[i] + (1 - b2) * d**2
            m_hat, v_hat = m[i] / (1 - b1**t), v[i] / (1 - b2**t)
            p[i] = p[i] - lr * m_hat / (math.sqrt(v_hat) + eps)
    return p


def adamw(p, gradients, rates, group, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, independent=False):
    """Loshchilov & Hutter, Algorithm 2; not independent: the decay is multiplied by the learning rate too."""
    p, m, v = list(p), [0.0] * len(p), [0.0] * len(p)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        lr = rate.peak * rate.multiplier * group.lr_scale
        shrink = (rate.multiplier if independent else lr) * weight_decay if group.decayed else 0.0
        for i in range(len(p)):
            m[i] = b1 * m[i] + (1 - b1) * g[i]
            v[i] = b2 * v[i] + (1 - b2) * g[i] ** 2
            m_hat, v_hat = m[i] / (1 - b1**t), v[i] / (1 - b2**t)
            p[i] = (1 - shrink) * p[i] - lr * m_hat / (math.sqrt(v_hat) + eps)
    return p


def lamb(p, gradients, rates, group, *, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01):
    """You et al., Algorithm 2; groups without decay take the step of Adam."""
    p, m, v = list(p), [0.0] * len(p), [0.0] * len(p)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        lr = rate.peak * rate.multiplier * group.lr_scale
        u = []
        for i in range(len(p)):
            m[i] = b1 * m[i] + (1 - b1) * g[i]
            v[i] = b2 * v[i] + (1 - b2) * g[i] ** 2
            r = (m[i] / (1 - b1**t)) / (math.sqrt(v[i] / (1 - b2**t)) + eps)
            u.append(r + weight_decay * p[i] if group.decayed else r)
        p_norm, u_norm = math.hypot(*p), math.hypot(*u)
        ratio = p_norm / u_norm if group.decayed and p_norm > 0 and u_norm > 0 else 1.0
        p = [x - lr * ratio * y for x, y in zip(p, u, strict=True)]
    return p


ALGORITHMS = {"sgd": sgd, "adam": adam, "adamw": adamw, "lamb": lamb}
