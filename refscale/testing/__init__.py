"""Tools to test a claim about numbers: assertions, constructions and Hypothesis strategies.

The known property of the result decides the test. If its bits are known, compare bits. If the number of roundings is
known, count ulp. If only its distribution is known, state a false-alarm rate. The example below tests Unit Scaling's
rule for the matrix product: with the factor m^-½, unit-variance inputs give a unit-variance output.

    >>> import numpy as np
    >>> from refscale.testing import *
    >>> rng = np.random.default_rng(0)
    >>> def product(x, w):
    ...     return (x @ w) * x.shape[-1] ** -0.5

By construction, without sampling: columns of a Hadamard matrix times signs have an RMS of exactly √m.

    >>> x, w = hadamard(64)[:, :40], signs((40, 24), rng)
    >>> assert_exact_rms(product(x, w))
    >>> assert_exact_rms(product(x, w) * 1.001)  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
    ...
    AssertionError: the RMS is 1.001, expected 1.0: relative error 0.001,
    where 2 roundings to float64 explain 4.17e-15

By sampling, if no construction exists. Elements of a product share rows and columns, so they count as fewer samples
than there are elements, and a check without the power to find an error of 3 % is refused:

    >>> b, m, n = 250, 250, 250
    >>> y = product(rng.standard_normal((b, m)), rng.standard_normal((m, n)))
    >>> assert_unit_variance(y, n_eff=effective_samples_matmul(b, m, n))  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
    ...
    refscale.errors.ArgumentError: n_eff is 20805.6, too few to see an error of 0.03 in the standard deviation:
    expected at least 54891 at kurtosis 3, false alarm 1e-09, power 0.9999
    >>> y = product(signs((b, m), rng), signs((m, n), rng))  # signs: the sharing costs nothing
    >>> assert_unit_variance(y, n_eff=effective_samples_matmul(b, m, n, x_kurtosis=1, w_kurtosis=1))

The backward pass, by inner products in float64:

    >>> inputs = rng.standard_normal((5, 4)), rng.standard_normal((4, 3))
    >>> def backward(g):
    ...     x, w = inputs
    ...     return (g @ w.T) / 2, (x.T @ g) / 2
    >>> assert_vjp(product, backward, inputs, rng=rng) < 1e-9
    True

The assertions, and the information that each needs:

| assertion | equality | needed from the caller |
|---|---|---|
| `assert_same_bits` | dtype, shape and every bit | nothing |
| `assert_within_ulp` | distance on the ordered-integer line | a derived bound |
| `assert_within_standard_errors`, `assert_unit_variance` | distance in standard errors | a false-alarm rate, a power |
| `assert_exact_rms` | a known RMS, up to counted roundings | a proved construction |
| `assert_vjp` | inner products, against differences in float64 | a point without kinks |
| `assert_gradient_factor` | each gradient a constant times the true one | a program that can run twice |

The same claim over all shapes is a property: `refscale.testing.strategies` draws formats, shapes, arrays and graphs.
That module needs Hypothesis (`pip install refscale[test]`) and is not imported here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refscale.testing.constructions import (
        assert_exact_rms,
        correlated_rows,
        hadamard,
        quantile_grid,
        rms,
        signs,
        std,
    )
    from refscale.testing.equality import assert_same_bits, assert_within_ulp
    from refscale.testing.gradients import assert_gradient_factor
    from refscale.testing.places import Place
    from refscale.testing.variance import (
        assert_unit_variance,
        assert_within_standard_errors,
        effective_samples_matmul,
        false_alarm_of,
        required_samples,
        standard_error_of_std,
        z_of,
    )
    from refscale.testing.vjp import assert_vjp
else:
    # pytest loads ``plugin`` from this package at every start; importing NumPy then would be too early for a
    # ``conftest.py`` that sets threads or processor features for NumPy.
    from refscale.names import lazily

    __getattr__, __dir__ = lazily(
        __name__,
        {
            "constructions": (
                "assert_exact_rms",
                "correlated_rows",
                "hadamard",
                "quantile_grid",
                "rms",
                "signs",
                "std",
            ),
            "equality": ("assert_same_bits", "assert_within_ulp"),
            "gradients": ("assert_gradient_factor",),
            "places": ("Place",),
            "variance": (
                "assert_unit_variance",
                "assert_within_standard_errors",
                "effective_samples_matmul",
                "false_alarm_of",
                "required_samples",
                "standard_error_of_std",
                "z_of",
            ),
            "vjp": ("assert_vjp",),
        },
    )

__all__ = [
    "Place",
    "assert_exact_rms",
    "assert_gradient_factor",
    "assert_same_bits",
    "assert_unit_variance",
    "assert_vjp",
    "assert_within_standard_errors",
    "assert_within_ulp",
    "correlated_rows",
    "effective_samples_matmul",
    "false_alarm_of",
    "hadamard",
    "quantile_grid",
    "required_samples",
    "rms",
    "signs",
    "standard_error_of_std",
    "std",
    "z_of",
]
