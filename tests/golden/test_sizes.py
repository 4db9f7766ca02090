"""Generated vectors: which sizes, the same for a seed, exact, and what only they reveal."""

import hashlib

import numpy as np
import pytest

from refscale.blocks import BLOCK_FORMATS
from refscale.cli import main
from refscale.errors import ArgumentError
from refscale.exact import FUNCTIONS, get_accumulator
from refscale.golden import sizes
from refscale.golden.kit import Claims, judge
from tests.golden.wrong import RIGHT
from tests.golden.wrong_contents import without_strides

SAMPLE = sizes.sample()


def wrong(method, function):
    return type("Wrong", (type(RIGHT),), {method: function})()


def failures(backend, vectors=SAMPLE):
    return {v.id for v in vectors if judge(backend, v).verdict == "fail"}


def test_each_edge_is_once_in_each_place():
    for seed, round in ((0, 0), (7, 2)):
        found = sizes.shapes_of(seed, round)
        for place in range(3):
            edges = sorted(shape[place] for shape in found[: len(sizes.EDGES)])
            assert tuple(edges) == sizes.EDGES
        assert tuple(k for _, _, k in found[len(sizes.EDGES) :]) == sizes.LONG
    assert sizes.EDGES == (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
    assert max(sizes.LONG) > 1024


def test_a_seed_decides_everything_and_nothing_else_does():
    def key(v):
        return v.id, v.attributes, [x.sha256 for arrays in (v.inputs, v.outputs) for x in arrays.values()]

    few = [(17, 3, 33)]
    first, again = ([key(v) for v in sizes.generate(3, 2, few)] for _ in range(2))
    assert first == again
    other = [key(v) for v in sizes.generate(4, 2, few)]
    assert all(a[2] != b[2] for a, b in zip(first, other, strict=True))
    second = [key(v) for v in sizes.generate(3, 1, few, first=1)]
    assert second == first[10:]
    assert [key(v)[0] for v in sizes.generate(3, 1, few, lambda id: "/cast/" in id)] == [first[2][0]]


def test_the_sample_has_every_source_output_and_block_format():
    sources = {x.format for v in SAMPLE for x in v.inputs.values()}
    assert sources >= {"float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"}
    outputs = {v.attributes["format"] for v in SAMPLE if v.op == "matmul"}
    assert outputs >= {"float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"}
    elements = {v.attributes["format"] for v in SAMPLE if v.op == "block_quantize"}
    assert elements == {cast.element.name for cast in BLOCK_FORMATS.values()}
    ops = {"matmul", "scaled_matmul", "block_matmul", "cast", "block_quantize", "block_dequantize", "op", "unary"}
    assert {v.op for v in SAMPLE} == ops
    assert {v.attributes["name"] for v in SAMPLE if v.op == "op"} == {op.name for op, _ in sizes._OPS}
    assert {v.attributes["function"] for v in SAMPLE if v.op == "unary"} == set(FUNCTIONS)
    assert {v.inputs["x"].format for v in SAMPLE if v.op == "unary"} == {"float32", "bfloat16", "float16"}
    assert sum("c" in v.inputs for v in SAMPLE) == len(sizes.EDGES) + len(sizes.LONG)
    assert any("batch" in v.flags for v in SAMPLE)
    assert len({v.id for v in SAMPLE}) == len(SAMPLE) == 10 * (len(sizes.EDGES) + len(sizes.LONG)) + 4


def test_an_expected_product_is_the_product():
    vector = next(v for v in sizes.generate(0, 1, [(5, 4, 3)]) if v.op == "matmul")
    a, b = (vector.inputs[n].values.astype(np.float64) for n in "ab")
    y = vector.outputs["y"].values
    np.testing.assert_allclose(y, a @ b * vector.attributes["factor"], rtol=2.0**-7, atol=1e-3)


def test_the_right_backend_fails_nowhere():
    assert {judge(RIGHT, v).verdict for v in SAMPLE} == {"same bits"}


def test_tiny_sums_by_hand():
    """The real number, rounded to float32: 2^-149 − 2^-150 is a tie, to even 0; with smaller e the nearer is m."""
    vector = next(sizes.tiny_sums())
    y = np.ldexp(vector.outputs["y"].values.astype(np.float64), 149)
    assert y[0, 0] == 0
    assert y[1, 0] == 2
    assert y[2, 0] == 4
    assert (y[:, 1:] == [[1], [2], [5]]).all()


class Tiny(type(RIGHT)):
    """bfloat16 and float32 sums by one accumulator, under the claim of another."""

    def __init__(self, claim, model):
        super().__init__()
        self.claims, self.model = Claims(accumulate=claim), get_accumulator(model)

    def matmul(self, a, b, **_):
        return self.model.matmul(a, b)


FLOORS = {name: f"truncated:25:16{name}" for name in ("", ":floor=-133", ":floor=-132", ":floor=-133:emin=-126")}


@pytest.mark.parametrize("claim", FLOORS)
@pytest.mark.parametrize("model", FLOORS)
def test_a_wrong_alignment_floor_fails(claim, model):
    """The exponents of subnormal operands do not matter here: no operand is subnormal."""
    failed = failures(Tiny(FLOORS[claim], FLOORS[model]), list(sizes.tiny_sums()))
    assert bool(failed) is (claim.partition(":emin")[0] != model.partition(":emin")[0])


def test_the_streams_of_the_first_kinds_do_not_depend_on_later_ones():
    """Results of seed 0 at 3 × 5 × 7, as before the later kinds were there."""
    found = list(sizes.generate(0, 1, [(3, 5, 7)]))
    assert [v.id.split("/")[1] for v in found][:5] == ["product", "block-product", "cast", "conversion", "values"]
    digests = [hashlib.sha256("".join(x.sha256 for x in v.outputs.values()).encode()).hexdigest()[:8] for v in found]
    assert digests[:5] == ["f55475c4", "408e8bb2", "864b0f47", "8a9c681b", "eb37d932"]


def start_value_of_the_first_matrix(self, a, b, c=None, **v):
    return RIGHT.matmul(a, b, c if c is None or c.ndim == 2 else np.broadcast_to(c[(0,) * (c.ndim - 2)], c.shape), **v)


def scaled_rows_of_whole_tiles(self, a, b, a_scale, b_scale, **v):
    y = np.array(RIGHT.scaled_matmul(a, b, a_scale, b_scale, **v))
    y[a.shape[0] // 64 * 64 if a.shape[0] > 64 else a.shape[0] :] = 0
    return y


def blocks_of_whole_tiles(self, a, b, **v):
    y = np.array(RIGHT.block_matmul(a, b, **v))
    y[..., :, 128 if b.shape[-1] > 128 else b.shape[-1] :] = 0
    return y


def rows_of_one_warp(self, *, name, **v):
    """Softmax over at most 32 columns, zero beyond."""
    outputs = RIGHT.op(name=name, **v)
    if name == "softmax":
        outputs["y"] = np.array(outputs["y"])
        outputs["y"][..., 32:] = 0
    return outputs


def a_norm_over_at_most_128(self, *, name, **v):
    if name in ("layer_norm", "rms_norm") and v["x"].shape[-1] > 128:
        v["x"] = np.where(np.arange(v["x"].shape[-1]) < 128, v["x"], 0)
    return RIGHT.op(name=name, **v)


def functions_without_their_tail(self, x, **v):
    y = np.array(RIGHT.unary(x, **v))
    y.reshape(-1)[y.size // 4 * 4 :] = 0
    return y


def columns_of_the_first_tile(self, a, b, **v):
    y = np.array(RIGHT.matmul(a, b, **v))
    y[..., 128:] = 0
    return y


def terms_of_whole_tiles(self, a, b, **v):
    k = max(1, a.shape[-1] // 1024 * 1024) if a.shape[-1] > 1024 else a.shape[-1]
    return RIGHT.matmul(a[..., :k], b[..., :k, :], **v)


def the_first_matrix(self, a, b, **v):
    y = np.array(RIGHT.matmul(a, b, **v))
    y[...] = y[(0,) * (y.ndim - 2)]
    return y


def a_tail_of_255(self, x, **v):
    y = np.array(RIGHT.cast(x, **v))
    y.reshape(-1)[y.size // 256 * 256 :] = 0
    return y


@pytest.mark.parametrize(
    ("method", "function"),
    [
        ("matmul", columns_of_the_first_tile),
        ("matmul", terms_of_whole_tiles),
        ("matmul", the_first_matrix),
        ("cast", a_tail_of_255),
        ("matmul", start_value_of_the_first_matrix),
        ("scaled_matmul", scaled_rows_of_whole_tiles),
        ("block_matmul", blocks_of_whole_tiles),
        ("op", rows_of_one_warp),
        ("op", a_norm_over_at_most_128),
        ("unary", functions_without_their_tail),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_backend_that_is_wrong_at_sizes_fails(method, function):
    assert failures(wrong(method, function))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((-1,), "seed is -1"),
        ((2**32,), "seed is 4294967296"),
        ((0, 1, [(0, 1, 1)]), r"shape \(0, 1, 1\)"),
        ((0, 1, [(1, 1)]), r"shape \(1, 1\)"),
        ((0, 1, [(2**20, 2**12, 2)]), "a product of at most"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, text):
    with pytest.raises(ArgumentError, match=text):
        list(sizes.generate(*arguments))


def test_a_budget_ends_and_goes_through_rounds():
    few = [(1, 1, 1)]
    seen = []
    for v in sizes.until(1e9, 0, few, lambda id: "/cast/" in id):
        seen.append(v.id)
        if len(seen) == 3:
            break
    assert [id.rpartition("/")[2] for id in seen] == ["0.0", "1.0", "2.0"]
    assert list(sizes.until(-1.0, 0, few, lambda id: True)) == []
    assert list(sizes.until(1e9, 0, few, lambda id: False)) == []


def test_what_is_apart_in_memory_is_read_with_its_strides():
    from refscale.golden.kit.verdicts import apart

    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    y = apart(x)
    assert y.tolist() == x.tolist()
    assert not y.flags.c_contiguous
    assert without_strides(y).tolist() != x.tolist()


class Narrow(type(RIGHT)):
    """Thirty-two columns of a product, and no more."""

    def matmul(self, a, b, **v):
        y = np.array(super().matmul(a, b, **v))
        y[..., 32:] = 0
        return y


def test_the_command_runs_sizes(capsys):
    here = f"{__file__}:Narrow"
    assert main(["conform", here, "--shapes", "3,32,5", "--seed", "3"]) == 0
    assert "generated by seed 3; the vectors of the set were not run" in capsys.readouterr().out
    assert main(["conform", here, "--shapes", "3,33,5"]) == 1
    assert "sizes/product/3x33x5/seed-0" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["conform", here, "--shapes", "3,33"])
    assert "--shapes: invalid shape value: '3,33'" in capsys.readouterr().err
