"""The assertions on one page: three equalities, never mixed, and a gradient check.

| verb | equality | the caller owes |
|---|---|---|
| `assert_same_bits` | dtype, shape and every bit | nothing |
| `assert_within_ulp` | distance on the ordered-integer line | the bound, derived |
| `assert_within_standard_errors`, `assert_unit_variance` | distance in standard errors | a false-alarm rate, a power |
| `assert_exact_rms` | a known RMS, up to counted roundings | the construction, proved |
| `assert_vjp` | inner products, against differences in float64 | a point without kinks |
"""

from refscale.testing.constructions import assert_exact_rms
from refscale.testing.equality import assert_same_bits, assert_within_ulp
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

__all__ = [
    "assert_exact_rms",
    "assert_same_bits",
    "assert_unit_variance",
    "assert_vjp",
    "assert_within_standard_errors",
    "assert_within_ulp",
    "effective_samples_matmul",
    "false_alarm_of",
    "required_samples",
    "standard_error_of_std",
    "z_of",
]
