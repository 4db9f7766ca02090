"""Precision policies: the casts of each policy, unrounded values, and no clipping at initialization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import models, ops
from refscale.blocks import RECIPES
from refscale.claims.claim import Figures, at_most, between, claim, none_wrong, same
from refscale.claims.measure import uniform_batch
from refscale.claims.models import ffn_model, small_bert
from refscale.engine import Array, Tape, Tensor, Variable, apply, backward
from refscale.exact import matmul
from refscale.formats import Cast, Overflow, Rounding
from refscale.models import bert
from refscale.precision import POLICIES, Precision, get_precision
from refscale.scales import Call, Regular, Scales, regular, unit
from refscale.testing.places import Place

IEEE: tuple[Rounding, Overflow] = ("nearest_even", "nonsaturate")
FP8: tuple[Rounding, Overflow] = ("nearest_even", "saturate")
FP16, BF16 = Cast("float16", *IEEE), Cast("bfloat16", *IEEE)
OCP = Cast("float8_e4m3fn", *FP8), Cast("float8_e5m2", *FP8)
FP4 = Cast("float4_e2m1fn", *FP8)
FNUZ = Cast("float8_e4m3fnuz", *FP8), Cast("float8_e5m2fnuz", *FP8)
AT_RANDOM = Cast("float16", "stochastic", "nonsaturate")
EXPECTED: dict[str, tuple[Cast | None, Cast | None, Cast | None, Cast | None]] = {
    "fp32": (None, None, None, None),
    "fp16": (FP16, None, None, None),
    "bf16": (BF16, None, None, None),
    "fp8": (FP16, *OCP, None),
    "fp8-fnuz": (FP16, *FNUZ, None),
    "fp16-sr": (FP16, None, None, AT_RANDOM),
    "fp8-sr": (FP16, *OCP, AT_RANDOM),
    "fp8-hidden": (BF16, *OCP, None),
    "fp4": (BF16, FP4, FP4, None),
}
"""Storage format, operand format of contractions, format of the gradient they receive, and weights between steps.

The paper's FP16 runs are ``fp16-sr``; its FP8 runs stored weights as that does, with the formats of ``fp8-fnuz`` (Table
A.1, a). FP8 in hidden layers alone: µnit Scaling (arXiv 2502.05967).
"""


@dataclass(frozen=True)
class Fixed(Regular):
    """A scheme with given factors: one forward and one for each of two inputs."""

    factors: tuple[float, float, float] = (0.7, 0.6, 0.9)

    def scales(self, call: Call) -> Scales:
        """Return the given factors."""
        return Scales(self.factors[0], self.factors[1 : 1 + len(call.shapes)])


def _cast(cast: Cast | None, x: Array) -> Array:
    return x if cast is None else cast(x)


Product = Callable[[Array, Array, Cast | None, float], Array]


def _in_carrier(a: Array, b: Array, store: Cast | None, factor: float) -> Array:
    """Return store(factor · (a @ b)), in NumPy's float32."""
    return _cast(store, (a @ b) * np.float32(factor))


def _exactly(a: Array, b: Array, store: Cast | None, factor: float) -> Array:
    """Return the exact product, rounded once."""
    return matmul(a, b, store or Cast("float32", *IEEE), factor)


ARITHMETIC: dict[str, tuple[str | None, tuple[float, float, float], Product]] = {
    "carrier": (None, (0.5, 4.0, 0.25), _in_carrier),
    "exact": ("exact", (0.7, 0.6, 0.9), _exactly),
}
"""Arithmetic of products, the factors, and the expected product.

In float32 the factor is applied at the cheapest place, which changes no bit for powers of two; other factors reveal a
missing or extra rounding in exact arithmetic.
"""


def _same(a: Array | None, b: Array) -> bool:
    return a is not None and np.array_equal(a, b.astype(np.float32))


@claim("paper, Table 2 (FP16 and FP8), Table A.1; refscale.precision.policy", "bmn")
def claim_9_01_which_cast_where(place: Place) -> Figures:
    """A matmul rounds its operands and its output after α; backward, its incoming gradient and each gradient after β.

    y = store(α·(operand(x)·operand(w))), dx = store(β_x·(gradient(g)·operand(w)ᵀ)), dw likewise. All bits are equal,
    from leaves that are stored first, in exact arithmetic for any factors and in float32 for powers of two. The number
    of casts is exact, too.
    """
    rng = place.rng()
    p = place.at_most(b=64, m=64, n=64)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((p.b, p.m), (p.m, p.n)))
    g = rng.standard_normal((p.b, p.n)).astype(np.float32)
    for name, (store, operand, gradient, _) in EXPECTED.items():
        xs, ws, gs = _cast(store, x), _cast(store, w), _cast(store, g)
        xo, wo, go = _cast(operand, xs), _cast(operand, ws), _cast(gradient, gs)
        for way, (accumulate, factors, product) in ARITHMETIC.items():
            alpha, for_x, for_w = factors
            tape = Tape(Fixed(factors=factors), get_precision(name, accumulate=accumulate))
            a, b = tape.tensor(x), tape.tensor(w)
            y = apply(ops.Matmul(), a, b)
            backward(y, g)
            yield none_wrong(f"{name}, {way}: leaves", not (_same(a.value, xs) and _same(b.value, ws)))
            yield none_wrong(f"{name}, {way}: y", not _same(y.value, product(xo, wo, store, alpha)))
            yield none_wrong(f"{name}, {way}: dx", not _same(a.grad, product(go, wo.T, store, for_x)))
            yield none_wrong(f"{name}, {way}: dw", not _same(b.grad, product(xo.T, go, store, for_w)))
            stored, narrow, received = (int(c is not None) for c in (store, operand, gradient))
            yield same(f"{name}, {way}: casts", len(tape.casts), 6 * stored + 2 * narrow + received)


@claim("refscale.precision.policy: every output, every gradient, every sum of gradients", "bm")
def claim_9_02_everything_is_stored(place: Place) -> Figures:
    """Every value and gradient on a tape is representable in the storage format, including sums of gradients.

    This is true of whole models as of single ops: only losses are unrounded between ops.
    """
    for name in ("fp16", "bf16", "fp8", "fp8-fnuz"):
        store = EXPECTED[name][0]
        assert store is not None
        wrong: Counter[str] = Counter()
        seen: Counter[str] = Counter()

        def probe(
            way: str,
            variable: Variable,
            x: Array,
            store: Cast = store,
            wrong: Counter[str] = wrong,
            seen: Counter[str] = seen,
        ) -> None:
            if not (variable.node and variable.node.op.reports):
                seen[way] += 1
                wrong[way] += not _same(x, store(x))

        config = small_bert(layers=1)
        tape = Tape(unit, get_precision(name), probe=probe)
        parameters = models.initial_parameters(config, unit, place.rng())
        batch = uniform_batch(config, place.rng(), 4, 8, 2)
        backward(bert.pretraining_loss(models.parameters_on(tape, parameters, config), batch, config).total)
        for way in ("forward", "backward"):
            yield none_wrong(f"{name}: of {seen[way]} tensors not stored, {way}", wrong[way])
        tape = Tape(Fixed(), get_precision(name))
        leaf = tape.tensor(place.rng().standard_normal((place.b, place.m)))
        parts = [apply(ops.Relu(), leaf) for _ in range(3)]
        total = apply(ops.Add(), apply(ops.Add(), parts[0], parts[1]), parts[2])
        backward(total, place.rng().standard_normal(total.shape), check=False)  # stored values, true gradients or not
        yield none_wrong(f"{name}: a sum of gradients not stored", not _same(leaf.grad, store(np.asarray(leaf.grad))))


@claim("refscale.precision.policy: the value of a loss is a report")
def claim_9_03_losses_are_not_rounded(place: Place) -> Figures:
    """A loss and its initial gradient are not rounded: a loss scale of 2^16, beyond FP16, is possible."""
    rng = place.rng()
    logits, targets = rng.standard_normal((64, 8)), rng.integers(0, 8, 64)
    losses, gradients = [], []
    for name, seed in (("fp16", 1.0), ("fp16", 2.0**16)):
        tape = Tape(regular, get_precision(name))
        leaf = tape.tensor(logits)
        loss = F.cross_entropy(leaf, targets)
        backward(loss, seed)
        losses.append(float(loss.value))
        gradients.append(np.asarray(leaf.grad))
    yield none_wrong("the loss was rounded to FP16", losses[0] == float(np.float16(losses[0])))
    wide = gradients[1] / 2.0**16
    yield none_wrong("a scaled gradient is not finite", not np.isfinite(wide).all())
    apart, most = float(np.max(np.abs(wide - gradients[0]))), 2.0**-11 * float(np.abs(wide).max())
    yield at_most("the largest difference of scaled and plain gradients", apart, most)


@claim("arXiv 2502.05967: FP8 in hidden linear layers")
def claim_9_04_hidden_layers_only(place: Place) -> Figures:
    """``fp8-hidden`` casts only the operands of matmuls: attention products and readouts stay in BF16."""
    config = small_bert(layers=1)
    tape = Tape(unit, get_precision("fp8-hidden"))
    parameters = models.initial_parameters(config, unit, place.rng())
    losses = bert.pretraining_loss(
        models.parameters_on(tape, parameters, config), uniform_batch(config, place.rng(), 2, 8, 2), config
    )
    matmuls = sum(isinstance(n.op, ops.Matmul) for n in tape.nodes)
    yield same("operands cast", sum(r.place == "operand" for r in tape.casts), 2 * matmuls)
    backward(losses.total)
    yield same("gradients cast", sum(r.place == "operand_gradient" for r in tape.casts), matmuls)


@claim("paper, Table 1: nothing to tune; refscale.engine.CastRecord", "bmn")
def claim_9_05_nothing_is_clipped(place: Place) -> Figures:
    """At initialization under unit scaling no cast clips an element, in FP16, BF16 or FP8, of FFN or BERT.

    Few elements are flushed to zero: less than 1 in 200 in FP16, 1 in 50 in FP8.
    """
    p = place.at_most(b=256, m=256, n=512)
    for name in ("fp16", "bf16", "fp8", "fp8-fnuz"):
        precision = get_precision(name)
        tape = Tape(unit, precision, count_casts=True)
        rng = place.rng()
        y = ffn_model(p.b, p.m, p.n)(tape, rng)
        backward(y, rng.standard_normal(y.shape))
        yield none_wrong(f"FFN in {name}: clipped", sum(r.clipped or 0 for r in tape.casts))
        clipped, flushed, elements = _bert_losses(precision, True, place)
        yield none_wrong(f"BERT in {name}: clipped", clipped)
        most = 0.02 if name.startswith("fp8") else 0.005
        yield at_most(f"BERT in {name}: share flushed", flushed / elements, most)


@claim("ours; refscale report bert-tiny --precision fp8")
def claim_9_06_what_unscaled_fp8_loses(place: Place) -> Figures:
    """Without scaling, FP8 flushes more than a tenth of the gradients that matmuls receive; unit scaling below 2 %."""
    for scaled in (False, True):
        precision = get_precision("fp8")
        _, flushed, elements = _bert_losses(precision, scaled, place, "operand_gradient")
        share = flushed / elements
        yield at_most("unit: share flushed", share, 0.02) if scaled else between("regular: share", share, 0.1, 1.0)


def _bert_losses(precision: Precision, scaled: bool, place: Place, where: str = "") -> tuple[int, int, int]:
    """Return the numbers of clipped, flushed and all elements of the casts of a BERT step."""
    scheme = unit if scaled else regular
    config = small_bert()
    tape = Tape(scheme, precision, count_casts=True)
    parameters = models.initial_parameters(config, scheme, place.rng())
    batch = uniform_batch(config, place.rng(), 8, 16, 3)
    backward(bert.pretraining_loss(models.parameters_on(tape, parameters, config), batch, config).total)
    records = [r for r in tape.casts if not where or r.place == where]
    return (
        sum(r.clipped or 0 for r in records),
        sum(r.flushed or 0 for r in records),
        sum(r.elements for r in records),
    )


@claim("authors' code, scmm/layers.py: weights stored in FP16; run_sweep.py: stochastic_rounding")
def claim_9_07_weights_between_steps(place: Place) -> Figures:
    """Policies with narrow weights round them once after each step, stochastically; other policies do not.

    So an update of a quarter of an ulp takes effect one time in four, where rounding to nearest always loses it.
    """
    start = np.ones(4096, np.float32)
    moved = start + np.float32(2.0**-12)  # a quarter of FP16's spacing at 1
    for name in ("fp32", "fp16", "fp8", "fp8-hidden"):
        kept = POLICIES[name].store_weights({"w": moved})["w"]
        yield none_wrong(f"{name}: weights rounded", not np.array_equal(kept, moved))
    for name in ("fp16-sr", "fp8-sr"):
        rounded = POLICIES[name].store_weights({"w": moved}, place.rng())["w"]
        steps = (rounded - 1) / 2.0**-10
        yield none_wrong(f"{name}: weights that are not neighbors", np.count_nonzero((steps != 0) & (steps != 1)))
        # 4096 independent trials: the standard error is √(3/16/4096) = 0.0068, seven of which are 2.6e-12.
        yield between(f"{name}: share rounded up", float(steps.mean()), 0.25 - 7 * 0.00677, 0.25 + 7 * 0.00677)


@claim("straight-through; paper, definition of a scaled op")
def claim_9_08_factors_do_not_see_precision(place: Place) -> Figures:
    """The casts of every policy are the stated ones, and its factors are the same: rounding changes no constant.

    Claim 13.6 states the casts of block-scaled policies.
    """
    config = small_bert(layers=1)
    tapes: list[list[Scales]] = []
    for name in POLICIES:
        tape = Tape(unit, get_precision(name), rng=place.rng())
        p = models.parameters_on(tape, models.initial_parameters(config, unit, place.rng()), config)
        bert.pretraining_loss(p, uniform_batch(config, place.rng(), 2, 8, 2), config)
        tapes.append([n.scales for n in tape.nodes])
    yield none_wrong("policies with other factors", sum(scales != tapes[0] for scales in tapes))
    for name, expected in EXPECTED.items():
        policy = POLICIES[name]
        casts = (policy.store, policy.operand, policy.operand_gradient, policy.weights)
        yield none_wrong(f"{name}: other casts", casts != expected)
    yield none_wrong("policies without a stated entry", len(POLICIES.keys() ^ EXPECTED.keys() ^ RECIPES.keys()))
    bare = replace(POLICIES["fp8"], operand=None)
    tape = Tape(unit, bare)
    x: Tensor = tape.tensor(np.ones((2, 2)))
    apply(ops.Matmul(), x, x)
    yield none_wrong("a cast that the policy does not name", any(r.place == "operand" for r in tape.casts))
