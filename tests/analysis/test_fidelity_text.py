"""Text about a trained network in narrow formats, from reports made by hand."""

from __future__ import annotations

import math

import pytest

from refscale.analysis.fidelity.report import CastLosses, Errors, FidelityReport, OperandStats, StorageStats
from refscale.analysis.fidelity.text import (
    conclusions,
    error_table,
    lowest_table,
    operand_table,
    quantity,
    storage_lines,
)

NOTHING = CastLosses(0, 0, 0)


def errors(scheme, policy, output, gradient, loss_scale=None, **changes):
    figures = {"output_cosine": 0.9, "gradient_cosine": 0.8, "loss": 1.25, "forward": NOTHING, "backward": NOTHING}
    return Errors(scheme, policy, loss_scale, output=output, gradient=gradient, **figures | changes)


def operand(name, snr, scaled_snr=20.0, *, scheme="regular", format="float8_e4m3fn", kind="weight", **changes):
    figures = {"elements": 8, "std": 2.0, "rms": 2.0, "amax": 8.0, "flushed": 0.0, "subnormal": 0.0, "clipped": 0.0}
    return OperandStats(scheme, name, kind, format, **figures | changes, snr=snr, scaled_snr=scaled_snr)


def report(policies=(), classes=(), operands=(), beyond=(), **changes):
    about = {"model": "made-up", "digest": "0" * 64, "objective": "masked LM", "batch": 2, "seq": 16, "seed": 0}
    about |= {"text": "built-in", "padding": 0.0, "schemes": ("regular", "unit"), "loss": 1.5, "focus": "fp8"}
    about |= {"best": {"float8_e4m3fn": 31.5, "float8_e5m2": 25.5}, "store": "float16"}
    about |= {"stored": {"regular": 40, "unit": 30}}
    rows = {"policies": policies, "classes": classes, "operands": operands, "beyond": beyond}
    return FidelityReport(**about | {name: tuple(value) for name, value in rows.items()} | changes)


def test_better_worse_and_as_good():
    """Within 5 % is as good; at most ten times what float32 loses counts as no change at all."""
    exact = [errors(s, "fp32", 1e-6, 2e-6) for s in ("regular", "unit")]
    narrow = [
        ("fp8", 0.2, 0.4, 0.1904, 0.421),  # outputs: 4.8 % less; gradients: 5.25 % more
        ("bf16", 1e-5, 2.01e-5, 1.99e-5, 1.9e-5),  # below 10 · 2e-6 the former does not count
        ("fp16", 0.1, 0.3, 0.0949, 0.314),  # 5.1 % less, 4.7 % more
    ]
    policies = [*exact]
    for name, *figures in narrow:
        regular_output, regular_gradient, unit_output, unit_gradient = figures
        policies.append(errors("regular", name, regular_output, regular_gradient))
        policies.append(errors("regular", name, regular_output, regular_gradient / 4, loss_scale=2.0**9))
        policies.append(errors("unit", name, unit_output, unit_gradient))
    classes = [errors("regular", "storage", 9.0, 9.0), errors("unit", "storage", 1.0, 1.0)]  # one of the policies
    text = " ".join(line.strip() for line in conclusions(report(policies, classes)))
    assert "fp8 changes the output by 0.2 under regular, 0.19 under unit;" in text
    assert "the gradients by 0.4 under regular, 0.1 under regular ×2^9, 0.421 under unit." in text
    assert "The loss is 1.5000 in float64; in fp8 1.2500 under regular, 1.2500 under unit." in text
    assert (
        "Beside regular, unit scaling errs less in 2 of 5 figures, as much (within 5 %) in 2, more in 1: "
        "fp8 (gradients) 0.421 against 0.4." in text
    )
    assert (
        "Beside regular with the loss scale, unit scaling errs less in 0 of 2 figures, as much (within 5 %) in 0, "
        "more in 2: fp8 (gradients) 0.421 against 0.1, fp16 (gradients) 0.314 against 0.075." in text
    )


def test_of_more_than_four_that_are_worse_the_worst_four_are_named():
    policies = [errors("regular", "fp32", 1e-9, 1e-9), errors("unit", "fp32", 1e-9, 1e-9)]
    for k in range(1, 6):
        policies += [errors("regular", f"p{k}", 0.1, 0.1), errors("unit", f"p{k}", 0.1, 0.1 * (1 + k))]
    text = " ".join(line.strip() for line in conclusions(report(policies, focus="p1")))
    named = ", ".join(f"p{k} (gradients) {0.1 * (1 + k):.3g} against 0.1" for k in (5, 4, 3, 2))
    assert f"as much (within 5 %) in 5, more in 5: {named} and 1 more." in text


def test_which_op_costs_most():
    classes = [
        *(errors("regular", name, x, 0.1) for name, x in (("matmul", 0.1), ("attention_mix", 0.3), ("operands", 0.9))),
        *(errors("unit", name, x, 0.1) for name, x in (("matmul", 0.2), ("attention_mix", 0.02), ("operands", 0.9))),
        errors("unit", "readout", 0.05, 0.1),
        errors("regular", "matmul", 5.0, 5.0, loss_scale=4.0),
    ]
    policies = [errors(s, p, 0.1, 0.1) for p in ("fp32", "fp8") for s in ("regular", "unit")]
    text = " ".join(line.strip() for line in conclusions(report(policies, classes, schemes=("unit", "regular"))))
    assert (
        "Of one op's casts alone, the largest errors of the output: under unit matmul (0.2, readout 0.05, "
        "attention_mix 0.02); under regular attention_mix (0.3, matmul 0.1)." in text
    )


OPERANDS = [
    operand("w0", 30.4),  # the bound is 31.5 − 1
    operand("w1", 30.5),
    operand("w2", 10.0, scaled_snr=30.5),
    operand("w3", 24.42, format="float8_e5m2", kind="activation gradient"),  # 0.08 below its own bound
    operand("w4", -math.inf, scaled_snr=30.4, clipped=1.0),
    operand("w5", 40.0),
]
UNIT = [operand(t.name, 33.0, scheme="unit", format=t.format, kind=t.kind, rms=0.5) for t in OPERANDS]


def test_operands_below_their_bound():
    policies = [errors(s, p, 0.1, 0.1) for p in ("fp32", "fp8") for s in ("regular", "unit")]
    found = report(policies, operands=[*OPERANDS, *UNIT])
    text = " ".join(line.strip() for line in conclusions(found))
    assert "4 of 6 operands are below the bound under regular; 1 of them would be above it if multiplied by" in text
    assert "0 of 6 operands are below the bound under unit; lowest is w0, 33.0 dB with amax/RMS 16" in text
    lines = [line.split() for line in operand_table(found)]
    assert lines[2] == ["weights", "E4M3", "30.5", "5", "3", "30.4", "-∞", "·", "33.0", "33.0"]
    assert lines[3] == ["activation", "gradients", "E5M2", "24.5", "1", "1", "24.4", "24.4", "·", "33.0", "33.0"]


def test_the_lowest_are_counted_from_their_bound():
    """24.4 dB in E5M2 is nearer to its bound than 30.4 dB in E4M3; each beside its value in the other scheme."""
    found = report(operands=[*OPERANDS, *UNIT])
    rows = [line.split() for line in lowest_table(found, "regular")][2:]
    assert [row[0] for row in rows] == ["w4", "w2", "w0", "∂", "w1", "w5"]
    assert rows[0] == ["w4", "-∞", "33.0", "30.4", "1.0", "-1.0", "4", "·", "·", "100"]
    assert rows[3][:5] == ["∂", "w3", "24.4", "33.0", "20.0"]
    many = report(operands=[operand(f"w{k}", 20.0 - k, scheme=s) for s in ("regular", "unit") for k in range(12)])
    assert [line.split()[0] for line in lowest_table(many, "unit")][2:] == [f"w{k}" for k in range(11, 3, -1)]


def test_storage_by_hand():
    """Flushed and clipped together count; 1 % is not more than 1 %."""
    beyond = [
        StorageStats("regular", "a", "weight", 1.0, 0.005, 0.006),
        StorageStats("regular", "b", "weight", 1.0, 0.01, 0.0),
        StorageStats("regular", "c", "activation gradient", 1.0, 0.25, 0.5),
        StorageStats("unit", "d", "activation", 1.0, 0.0, 0.02),
    ]
    schemes = ("regular", "unit", "u-mup")
    found = report(beyond=beyond, schemes=schemes, stored=dict(zip(schemes, (40, 30, 5), strict=True)))
    assert list(storage_lines(found)) == [
        "STORAGE in FP16: tensors with flushed or clipped elements",
        "regular: 3 of 40, 2 of them by more than 1 %",
        "  2 weights, 1 activation gradients",
        "  largest share: activation gradient c, 25 % flushed, 50 % clipped",
        "unit: 1 of 30, 1 of them by more than 1 %",
        "  1 activations",
        "  largest share: activation d, 2.0 % clipped",
        "u-mup: 0 of 5, 0 of them by more than 1 %",
    ]


def test_the_table_of_errors():
    """A loss scale changes nothing before the backward pass: these figures occur once."""
    forward, backward = CastLosses(100, 1_234, 999_499), CastLosses(50, 7, 2_500_000_000)
    rows = [
        errors("regular", "fp8", 0.125, 0.5, forward=forward, backward=backward),
        errors("regular", "fp8", 0.125, 0.25, loss_scale=2.0**12, forward=forward, backward=NOTHING),
    ]
    plain, scaled = [line.split() for line in error_table("POLICY", rows)[2:]]
    assert plain == ["fp8", "regular", "0.125", "0.90000", "0.5", "0.80000", "1.23k", "999k", "7", "2.5G"]
    assert scaled == ["regular", "×2^12", "0.25", "0.80000", "·", "·"]


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "·"),
        (999, "999"),
        (1000, "1k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (1_234_567, "1.23M"),
        (999_499_999, "999M"),
        (999_500_000, "1G"),
    ],
)
def test_quantity(n, text):
    assert quantity(n) == text
