"""Optimizers as pairs of pure functions, and learning-rate schedules.

>>> import numpy as np
>>> optimizer, schedule = adamw(weight_decay=0.1), linear(steps=10, warmup=2)
>>> parameters = {"w": np.ones(3, np.float32)}
>>> state = optimizer.init(parameters)
>>> parameters, state = optimizer.update({"w": parameters["w"]}, state, parameters, Rate(0.1, schedule(0)))
>>> parameters["w"]
array([0.945, 0.945, 0.945], dtype=float32)
"""

from refscale.optim.records import Group, Optimizer, Rate, State, at_regular_rates, groups, read_decay
from refscale.optim.rules import OPTIMIZERS, adam, adamw, get_optimizer, lamb, sgd
from refscale.optim.schedules import SCHEDULES, Schedule, constant, cosine, exponential, get_schedule, halving, linear

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Group",
    "Optimizer",
    "Rate",
    "Schedule",
    "State",
    "adam",
    "adamw",
    "at_regular_rates",
    "constant",
    "cosine",
    "exponential",
    "get_optimizer",
    "get_schedule",
    "groups",
    "halving",
    "lamb",
    "linear",
    "read_decay",
    "sgd",
]
