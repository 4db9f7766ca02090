"""Models, written once: the scheme of the tape makes them regular or unit-scaled.

``get_config`` returns a configuration by name; ``initial_parameters`` and ``parameters_on`` take any configuration. A
family of models is a package with ``CONFIGS``, ``specs`` and ``initial_std``; ``family`` returns that of a
configuration.

    >>> from refscale.models import get_config
    >>> get_config("charlm-attention:norm=post,tau=fixed(0.5),layers=2").layers
    2
"""

from refscale.models.named import (
    FAMILIES,
    NAMES,
    Config,
    family,
    get_config,
    initial_parameters,
    parameters_on,
    with_rules,
)

__all__ = ["FAMILIES", "NAMES", "Config", "family", "get_config", "initial_parameters", "parameters_on", "with_rules"]
