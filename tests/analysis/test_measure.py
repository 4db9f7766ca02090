"""Measured factors: deterministic functions, coverage of the interval, wrong rules, and errors by name."""

import json
import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.analysis.tables.measure import load_function, measure, parse_shapes, render_measured, save_measured
from refscale.cli import main
from refscale.engine import Tape, Tensor, apply
from refscale.errors import ArgumentError
from refscale.scales import Scales


def factors(f, *shapes, **options):
    return {(m.of, m.statistic): m for m in measure(f, shapes, **options)}


def test_what_does_not_vary_is_exact():
    """sign(x)·3: mean square 9 in every run, so that the factor is 1/3 and its error 0."""

    def f(x):
        return 3 * apply(ops.CustomElementwise(np.sign, np.ones_like), x)

    found = factors(f, (8, 5), repeat=4)[("output", "rms")]
    assert found.factor == pytest.approx(1 / 3, rel=1e-12)
    assert found.error <= 1e-12


def test_the_jackknife_by_hand():
    """Two runs of y = x, of RMS a and b: a factor (½(a² + b²))^-½; without one run 1/b or 1/a."""
    rng = np.random.default_rng(3)
    a, _, b, _ = np.sqrt(np.mean(rng.standard_normal((4, 2)) ** 2, -1))
    found = factors(ops.ScalarMultiply(1.0), (2,), repeat=2, seed=3)[("output", "rms")]
    assert found.factor == pytest.approx(((a * a + b * b) / 2) ** -0.5, rel=1e-12)
    mean = (1 / a + 1 / b) / 2
    expected = math.sqrt(0.5 * ((1 / a - mean) ** 2 + (1 / b - mean) ** 2))
    assert found.error == pytest.approx(expected, rel=1e-12)
    assert found.interval == (found.factor - 2 * found.error, found.factor + 2 * found.error)


def test_the_interval_covers_as_stated():
    """Of 120 seeds, 2 standard errors of 8 runs miss 8.6 % (t with 7 degrees of freedom), 10 in the mean.

    A binomial (120, 0.086) is outside [1, 26] with probability 5e-5; the seeds are fixed.
    """
    op = ops.ScalarMultiply(-2.0)
    missed = sum(not factors(op, (4, 4), repeat=8, seed=s)[("output", "rms")].agrees for s in range(120))
    assert 1 <= missed <= 26


RULES = [
    (ops.Matmul(), ((32, 24), (24, 16))),
    (ops.Sigmoid(), ((64, 64),)),
    (ops.Gelu(), ((64, 64),)),
    (ops.LstmOutput(), ((32, 24), (32, 96))),
    (ops.Bias(), ((32, 16), (16,))),
]


@pytest.mark.parametrize(("op", "shapes"), RULES, ids=str)
def test_right_rules_are_near(op, shapes):
    """Within three intervals, 6 standard errors; the seed is fixed, chance misses one in 1e6."""
    for (of, _), found in factors(op, *shapes).items():
        if (op, of) == (ops.Bias(), "output"):  # biases start at 0, here they are N(0, 1)
            assert found.agrees is False
        else:
            assert abs(found.rule - found.factor) <= 6 * found.error + 1e-12, of


@pytest.mark.parametrize("by", [0.97, 1.03])
def test_a_wrong_rule_is_outside(by):
    """3 % off where the interval is ±0.4 %: every factor that is wrong, and no other."""

    class Wrong(ops.Tanh):
        def scale(self, x, statistic="std"):
            right = super().scale(x)
            return Scales(right.alpha * by, right.beta)

    found = factors(Wrong(), (128, 128))
    assert [m.agrees for m in found.values()] == [False, False, True]
    assert "outside" in render_measured(found.values())


def test_a_function_of_several_ops_has_no_rule():
    found = factors(lambda x, w: F.gelu(x @ w), (32, 8), (8, 4), repeat=4)
    assert [m.of for m in found.values()] == ["output", "output", "gradient of x", "gradient of w"]
    assert {m.rule for m in found.values()} == {None}
    assert {m.agrees for m in found.values()} == {None}
    one = factors(F.gelu, (32, 8), repeat=4)  # a function that is one op has its rule, unconstrained
    assert one[("output", "std")].rule == ops.Gelu().scale((32, 8)).alpha
    swapped = factors(lambda x, w: apply(ops.Multiply(), w, x), (4, 4), (4, 4), repeat=2)
    assert {m.rule for m in swapped.values()} == {None}


def test_a_mean_is_removed_by_standard_deviation_only():
    found = factors(F.sigmoid, (64, 64))
    assert found[("output", "std")].factor == pytest.approx(4.801, rel=0.01)
    assert found[("output", "rms")].factor == pytest.approx(1.846, rel=0.01)


def test_seeds():
    same, other = (factors(ops.Tanh(), (8, 8), repeat=2, seed=s) for s in (0, 1))
    assert factors(ops.Tanh(), (8, 8), repeat=2) == same
    assert same != other


def test_shapes():
    assert parse_shapes("256x64, 64x32,7") == ((256, 64), (64, 32), (7,))
    for text in ("", "3x", "axb", "3x0", "3,,4", "-1"):
        with pytest.raises(ArgumentError) as error:
            parse_shapes(text)
        assert str(error.value) == f"parse_shapes({text!r}): expected shapes of the inputs such as '256x64,64x32'"


def raises(x):
    raise KeyError("w")


FAILURES = {
    "measure(raises): raised KeyError: 'w'": raises,
    "measure(<lambda>): returned ndarray, expected a Tensor": lambda x: x.value,
    "measure(<lambda>): the output does not depend on the inputs": lambda x: Tape().tensor(1.0, requires_grad=False),
    "measure(<lambda>): a value or gradient is not finite": lambda x: (
        F.elementwise(x, np.exp, np.exp, constraint="none")
        / 1e-30
        * F.elementwise(1e30 * x, np.exp, np.exp, constraint="none")
    ),
    "measure(<lambda>): the output is constant everywhere": lambda x: 0.5 + F.relu(x * 0.25 - 1000),
    "measure(masked_softmax): mask cannot be a N(0, 1) array; measure a function that passes it": ops.MaskedSoftmax(),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("message", FAILURES)
def test_errors(message):
    with pytest.raises(ArgumentError) as error:
        measure(FAILURES[message], ((4, 4),))
    assert str(error.value) == message


def test_more_errors():
    with pytest.raises(ArgumentError, match=r"^measure\(<lambda>\): the output does not depend on input 1$"):
        measure(lambda x, y: F.gelu(x), ((4,), (4,)))
    for repeat in (1, 2.5, True):
        with pytest.raises(ArgumentError) as error:
            measure(ops.Tanh(), ((4,),), repeat=repeat)
        assert str(error.value) == f"measure(tanh, repeat={repeat!r}): expected an integer ≥ 2"
    with pytest.raises(ArgumentError, match=r"^function 'refscale.ops:OPS': is mappingproxy, expected a function of"):
        load_function("refscale.ops:OPS")
    with pytest.raises(ArgumentError, match=r"^function 'refscale.ops:Sum2': refscale.ops has no Sum2$"):
        load_function("refscale.ops:Sum2")
    with pytest.raises(ArgumentError, match=r"^function 'refscale.ops:WeightedAdd': WeightedAdd\(\) raised "):
        load_function("refscale.ops:WeightedAdd")


def test_the_command(capsys, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def f(x, w):\n    return x @ w\n")
    out = tmp_path / "found.json"
    command = ["ops", "--measure", f"{mine}:f", "--shape", "16x8,8x4", "--repeat", "4", "--seed", "2"]
    assert main([*command, "--json", str(out)]) == 0
    text = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["shapes"] == [[16, 8], [8, 4]]
    assert [row["of"] for row in found["factors"]] == ["output", "output", "gradient of x", "gradient of w"]
    assert found["factors"][0]["rule"] == 8**-0.5
    expected = measure(load_function(f"{mine}:f"), ((16, 8), (8, 4)), repeat=4, seed=2)
    assert render_measured(expected) in text
    save_measured(tmp_path / "again.json", f"{mine}:f", ((16, 8), (8, 4)), expected)
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes()
    assert main(["ops", "--json", str(out)]) == 2
    assert "ops: --json without --measure, expected both" in capsys.readouterr().err
    assert main(["ops", "--measure", f"{mine}:g", "--shape", "4"]) == 2
    assert "mine.py has no g" in capsys.readouterr().err
    assert isinstance(Tape().tensor(1.0), Tensor)
