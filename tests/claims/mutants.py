"""Rules changed on purpose, one at a time, and the claims that must notice: ``python -m tests.claims.mutants``.

A mutant is a patch of the package and the sections of claims that are asked about it. It is killed if one of them
fails, or breaks off, at the default place. Every list here is read off the package, so that a new op, format, policy
or constraint brings its mutants along.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np

from refscale import functional, graph, layers, ops
from refscale.blocks import RECIPES
from refscale.claims import CLAIMS, Claim, verify
from refscale.claims import blocks as claims_of_blocks
from refscale.engine import Op, Rows, Sizes, Tape, Variable, fast, run
from refscale.engine import factors as engine_factors
from refscale.formats import FORMATS, Cast, cast
from refscale.layers import blocks as layer_blocks
from refscale.precision import POLICIES, Rounder
from refscale.scales import CONSTRAINTS, Scales, residuals, schemes
from refscale.scales import factors as scale_factors
from refscale.testing import Place
from tests.claims.found import AT, LONG

EXAMPLES = {type(e.op): (e.op, e.shapes) for e in ops.examples(Sizes(b=4, m=4, n=4, s=8))}
"""An op of each class, and the shapes of its inputs."""


Patch = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        kind: of rule.
        name: the changed part, and the change.
        sections: whose claims are asked.
        patched: the change, as a context.
    """

    kind: str
    name: str
    sections: tuple[int, ...]
    patched: Patch

    def claims(self) -> list[Claim]:
        """The requested claims, those named like the changed part first, those that take seconds last."""
        asked = [c for s in self.sections for c in CLAIMS.values() if c.section == s and not c.slow]
        return sorted(asked, key=lambda c: (c.id in {*AT, *LONG}, c.name not in self.name))

    def killer(self) -> str | None:
        """The id of the first claim that fails under the change; None if it survives."""
        with self.patched(), np.errstate(all="ignore"):
            for claim in self.claims():
                try:
                    results = list(verify([claim], [Place()]))
                except Exception:
                    return claim.id  # a change that breaks the claim's own code is noticed, too
                if any(r.verdict == "fails" for r in results):
                    return claim.id
        return None


# --- Factors ----------------------------------------------------------------------------------------------------------


def _changed(scales: Scales, place: int | None, factor: float) -> Scales:
    if place is None:
        return Scales(scales.alpha * factor, scales.beta)
    beta = (b * factor if b is not None and i == place else b for i, b in enumerate(scales.beta))
    return Scales(scales.alpha, tuple(beta))


def _scale_of(
    kind: type[Op], change: Callable[[Scales], Scales], statistic: str | None = None
) -> Callable[..., object]:
    right = kind.scale

    def wrong(self: Op, *shapes: tuple[int, ...], **options: str) -> Scales:
        scales = right(self, *shapes, **options)
        return change(scales) if statistic in (None, options.get("statistic", "std")) else scales

    return lambda: patch.object(kind, "scale", wrong)


def _places(kind: type[Op]) -> list[int | None]:
    op, shapes = EXAMPLES[kind]
    return [None, *(i for i, b in enumerate(op.scale(*shapes).beta) if b is not None)]


def factors() -> Iterator[Mutant]:
    """Every factor of every op, 3 % up and down; by RMS alone, where it has one of its own."""
    for kind, (op, _) in EXAMPLES.items():
        for place in _places(kind):
            where = "α" if place is None else f"β{place}"
            for factor in (0.97, 1.03):

                def change(s: Scales, place: int | None = place, factor: float = factor) -> Scales:
                    return _changed(s, place, factor)

                yield Mutant("factor", f"{op.name} {where} × {factor}", (3, 12), _scale_of(kind, change))
                if op.has_mean:
                    name = f"{op.name} {where} × {factor} by RMS"
                    yield Mutant("factor", name, (3,), _scale_of(kind, change, "rms"))


def statistics() -> Iterator[Mutant]:
    """Standard deviation and RMS, exchanged."""
    other = {"std": "rms", "rms": "std"}
    for kind, (op, _) in EXAMPLES.items():
        if op.has_mean:
            right = kind.scale

            def wrong(self: Op, *shapes: tuple[int, ...], statistic: str = "std", right: object = right) -> Scales:
                return right(self, *shapes, statistic=other[statistic])  # type: ignore[operator]

            yield Mutant(
                "std for RMS", op.name, (3,), lambda kind=kind, wrong=wrong: patch.object(kind, "scale", wrong)
            )


# --- Backward passes --------------------------------------------------------------------------------------------------


def gradients() -> Iterator[Mutant]:
    """The gradient of every input of every op: its sign, 3 %, lost."""
    for kind, (op, _) in EXAMPLES.items():
        for place in _places(kind)[1:]:
            for what, factor in (("sign", -1.0), ("× 1.03", 1.03), ("lost", 0.0)):
                right = kind.backward

                def wrong(self, g, *kept, right=right, place=place, factor=factor):
                    return tuple(
                        np.asarray(factor * p) if i == place else p for i, p in enumerate(right(self, g, *kept))
                    )

                yield Mutant(
                    "vjp",
                    f"{op.name}, input {place}: {what}",
                    (2,),
                    lambda kind=kind, wrong=wrong: _readable(patch.object(kind, "backward", wrong)),
                )


@contextmanager
def _readable(change: AbstractContextManager[object]) -> Iterator[None]:
    """A change of readable forms, seen on the page, which every tape then runs."""
    with change, patch.dict(Tape.__init__.__kwdefaults__, fast=False):
        yield


def kernels() -> Iterator[Mutant]:
    """The same of every fast form; and its factors, forward and for each gradient: 3 %, lost."""
    for kind, (op, _) in EXAMPLES.items():
        if kind.fast_forward is None:
            continue
        for factor in (1.03, None):

            def wrong(self, alpha, *arrays, right=kind.fast_forward, factor=factor):
                return right(self, alpha * factor if factor else 1.0, *arrays)

            name = f"{op.name}, α {'lost' if factor is None else f'× {factor}'}"
            yield Mutant("kernel", name, (2, 3), lambda k=kind, w=wrong: patch.object(k, "fast_forward", w))
        for place in _places(kind)[1:]:
            for what, factor in (("sign", -1.0), ("× 1.03", 1.03), ("lost", 0.0)):

                def backward(self, betas, g, *kept, right=kind.fast_backward, place=place, factor=factor):
                    pieces = right(self, betas, g, *kept)
                    return tuple(_multiplied(p, factor) if i == place else p for i, p in enumerate(pieces))

                name = f"{op.name}, input {place}: {what}"
                yield Mutant("kernel", name, (2,), lambda k=kind, w=backward: patch.object(k, "fast_backward", w))


def _multiplied(piece: object, factor: float) -> object:
    if isinstance(piece, Rows):
        return Rows(piece.indices, piece.values * factor, piece.shape)
    return None if piece is None else np.asarray(factor * np.asarray(piece))


# --- Constraints ------------------------------------------------------------------------------------------------------


def _sites(module: ModuleType) -> Iterator[tuple[str, range]]:
    """Every call in a module's source that names constrained inputs: the applied op, and its lines."""
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and any(k.arg == "constrained" for k in node.keywords):
                op = ast.unparse(node.args[0]).partition("(")[0]
                yield f"{function.name}: {op}", range(node.lineno, (node.end_lineno or node.lineno) + 1)


ABSORBED = (
    "_convolution: op",
    "max_pool: op",
    "avg_pool: op",
    "pad: ops.Pad",
    "interpolate: ops.NearestResize",
    "interpolate: ops.LinearResize",
    "where: ops.Where",
    "glu: op",
    "maximum: ops.Maximum",
    "minimum: ops.Minimum",
    "log_softmax: ops.MaskedLogSoftmax",
    "log_softmax: ops.LogSoftmax",
    "layer_norm: ops.LayerNorm",
    "rms_norm: ops.RmsNorm",
    "batch_norm: ops.BatchNorm",
    "batch_norm: ops.FrozenBatchNorm",
    "group_norm: ops.GroupNorm",
    "convolution: block.activation",
)
"""Constraints of calls whose edges no loop of the claims' models needs: each is the only path of a residual branch,
whose fork ``backward`` settles to the same c, or of no model at all. Dropping them breaks no claim."""


def _pages(package: ModuleType) -> list[Any]:
    """The modules of a package that apply ops."""
    return [page for page in vars(package).values() if isinstance(page, ModuleType) and hasattr(page, "apply")]


def constraints() -> Iterator[Mutant]:
    """Each constraint dropped where it is asked for; each mean off by 3 %; none at all."""
    for module in [*_pages(functional), layer_blocks]:
        right = module.apply
        for name, lines in dict(_sites(module)).items():
            if name in ABSORBED:
                continue

            def wrong(*args, lines=lines, right=right, **options):
                if sys._getframe(1).f_lineno in lines:
                    options = {k: v for k, v in options.items() if k not in ("constrained", "constraint")}
                return right(*args, **options)

            yield Mutant(
                "constraint",
                f"{name}, dropped",
                (4, 5, 6, 8),
                lambda module=module, wrong=wrong: patch.object(module, "apply", wrong),
            )
    for name, mean in CONSTRAINTS.items():
        if name != "none":
            yield Mutant(
                "constraint",
                f"{name} × 1.03",
                (4, 5),
                lambda name=name, mean=mean: _everywhere(mean, lambda *factors: mean(*factors) * 1.03, name),
            )
    nothing = lambda scales, inputs, constraint: scales  # noqa: E731
    yield Mutant("constraint", "none kept", (4,), lambda: _everywhere(schemes.constrain, nothing, "constrain"))


@contextmanager
def _everywhere(right: object, wrong: object, name: str) -> Iterator[None]:
    """Replace a function in every module of the package that holds it by name, and in the tables of constraints."""
    with ExitStack() as stack:
        for module in [m for n, m in sys.modules.items() if n.startswith("refscale") and m is not None]:
            if vars(module).get(name) is right:
                stack.enter_context(patch.object(module, name, wrong))
        if name in CONSTRAINTS:
            stack.enter_context(patch.dict(CONSTRAINTS, {name: wrong}))  # type: ignore[dict-item]
        yield


# --- Formats and casts ------------------------------------------------------------------------------------------------


def roundings() -> Iterator[Mutant]:
    """Ties to even replaced, format by format."""
    right = cast._quantize
    for name in FORMATS:
        for other in ("nearest_away", "toward_zero"):

            def wrong(x, format, rounding, *rest, name=name, other=other):
                here = format.name == name and rounding == "nearest_even"
                return right(x, format, other if here else rounding, *rest)

            if FORMATS[name].mantissa_bits == 0 and other == "nearest_away":
                continue  # without a mantissa bit no value is even: the larger, either way
            yield Mutant(
                "rounding", f"{name}: {other}", (1,), lambda wrong=wrong: patch.object(cast, "_quantize", wrong)
            )
    for was, other in (("up", "down"), ("down", "up"), ("nearest_away", "nearest_even"), ("toward_zero", "up")):

        def swapped(x, format, rounding, *rest, was=was, other=other):
            return right(x, format, other if rounding == was else rounding, *rest)

        yield Mutant(
            "rounding", f"{was} as {other}", (1,), lambda wrong=swapped: patch.object(cast, "_quantize", wrong)
        )
    for was, other in (("saturate", "nonsaturate"), ("nonsaturate", "saturate")):

        def overflowing(x, format, rounding, overflow, *rest, was=was, other=other):
            return right(x, format, rounding, other if overflow == was else overflow, *rest)

        yield Mutant("rounding", f"{was} as {other}", (1,), _quantize_as(overflowing))

    def twice(x, *rest):
        x = np.asarray(x)
        with np.errstate(all="ignore"):
            return right(x.astype(np.float32) if x.dtype == np.float64 else x, *rest)

    yield Mutant("rounding", "float64 through float32", (1,), _quantize_as(twice))


def _quantize_as(wrong: Callable[..., object]) -> Patch:
    return lambda: patch.object(cast, "_quantize", wrong)


def limits() -> Iterator[Mutant]:
    """Every format's largest value one step lower or higher, its smallest twice as large or half."""
    for name, f in FORMATS.items():
        step = float(f.spacing(f.max)) if f.mantissa_bits else f.max / 2
        for what, field, value in (
            ("max lower", "max", f.max - step),
            ("max higher", "max", f.max + step),
            ("min higher", "emin", f.emin + 1),
            ("min lower", "emin", f.emin - 1),
        ):
            yield Mutant("limit", f"{name}: {what}", (1,), lambda f=f, c={field: value}: patch.dict(f.__dict__, c))


def _recipes(name, policy) -> Iterator[Mutant]:
    """A block-scaled policy: each role converted as another is, or by another rule; the stored format."""
    recipe = policy.blocks
    for role in ("activation", "weight", "gradient"):
        cast = getattr(recipe, role)
        changes = {"block": (cast.block[0] // 2, *cast.block[1:]), "nonfinite": "saturate", "rounding": "toward_zero"}
        if cast.rule != "amax":
            changes["rule"] = "ceil"
        else:
            changes["arithmetic"] = "exact"
        for field, value in changes.items():
            wrong = replace(recipe, **{role: replace(cast, **{field: value})})
            changed = {name: replace(policy, blocks=wrong)}
            yield Mutant(
                "cast", f"{name}: {role}: {field}", (13,), lambda c=changed, w=wrong: _recipe_instead(name, c, w)
            )
    for field, value in (("hadamard", 8 if recipe.hadamard else 16),):
        wrong = replace(recipe, **{field: value})
        changed = {name: replace(policy, blocks=wrong)}
        yield Mutant("cast", f"{name}: {field}", (13,), lambda c=changed, w=wrong: _recipe_instead(name, c, w))
    changed = {name: replace(policy, store=None)}
    yield Mutant("cast", f"{name}: store removed", (13,), lambda c=changed: patch.dict(POLICIES, c))


@contextmanager
def _recipe_instead(name, policies, recipe) -> Iterator[None]:
    """Another recipe, wherever it is looked up."""
    known = {**RECIPES, name: recipe}
    with patch.dict(POLICIES, policies), patch.object(claims_of_blocks, "RECIPES", known):
        yield


def casts() -> Iterator[Mutant]:
    """Every cast of every policy removed, or added; every place where the engine casts."""
    for name, policy in POLICIES.items():
        if policy.blocks is not None:
            yield from _recipes(name, policy)
            continue
        for field in ("store", "operand", "operand_gradient", "weights"):
            has = getattr(policy, field) is not None
            other = None if has else Cast("float16", "nearest_even", "nonsaturate")
            if name == "fp32" and field == "weights":
                continue
            changed = {name: replace(policy, **{field: other})}
            what = f"{name}: {field} {'removed' if has else 'added'}"
            yield Mutant("cast", what, (9,), lambda c=changed: patch.dict(POLICIES, c))
    right = Rounder.cast
    for place in ("leaf", "output", "operand", "operand_gradient", "gradient"):

        def unrounded(self, cast, x, label, where, *rest, place=place, **options):
            return right(self, None if where == place else cast, x, label, where, *rest, **options)

        yield Mutant("cast", f"engine: {place}", (9,), lambda wrong=unrounded: patch.object(Rounder, "cast", wrong))
    yield Mutant("cast", "engine: losses rounded", (9,), lambda: patch.object(Variable, "__init__", _not_a_report))


_variable = Variable.__init__


def _not_a_report(self: Variable, *args: Any) -> None:
    _variable(self, *args)
    self.reports = False


# --- Everything else --------------------------------------------------------------------------------------------------


def rules() -> Iterator[Mutant]:
    """Residual rules, initialization, learning rates, and the use of factors in the engine and the graph."""
    for kind, rule in (("running_mean", residuals.running_mean), ("equal_parts", residuals.equal_parts)):

        def off(*args, rule=rule):
            found = rule(*args)
            return found * 1.03 if isinstance(found, float) else (found[0], found[1] * 1.03)

        yield Mutant("rule", f"{kind} × 1.03", (6,), lambda rule=rule, off=off, k=kind: _everywhere(rule, off, k))
    for name in ("fixed", "ratio"):
        make = getattr(residuals, name)

        def swapped(tau, make=make):
            return lambda layer: make(tau)(layer)[::-1]

        yield Mutant("rule", f"{name}: weights swapped", (6,), lambda m=make, s=swapped, n=name: _everywhere(m, s, n))
    for scheme in (schemes.Regular, schemes.Unit, schemes.Munit):
        for method in ("initial_std", "lr_scale"):
            right = scheme.__dict__[method]

            def more(self, *args, right=right):
                return right(self, *args) * 1.03

            what = f"{scheme.__name__}.{method} × 1.03"
            yield Mutant("rule", what, (7,), lambda s=scheme, m=method, w=more: patch.object(s, m, w))
    right_rate = schemes.UMup.lr_scale
    more_rate = lambda self, *args: right_rate(self, *args) * 1.03  # noqa: E731
    yield Mutant("rule", "UMup.lr_scale × 1.03", (7,), lambda: patch.object(schemes.UMup, "lr_scale", more_rate))
    zero_gain = layers.initialize
    wrong_start = lambda *args, **kw: {n: x + (x.ndim == 1) for n, x in zero_gain(*args, **kw).items()}  # noqa: E731
    yield Mutant("rule", "biases start at 1", (7,), lambda: patch.object(layers, "initialize", wrong_start))
    whole = functional.residual
    start_free = lambda fn, x, *args, **kw: whole(lambda h: fn(x), x, *args, **kw)  # noqa: E731
    yield Mutant("rule", "a branch that pays nothing", (6,), lambda: _everywhere(whole, start_free, "residual"))
    yield from executors()
    right = engine_factors.Edge.ratio
    inverted = property(lambda edge: 1 / right.fget(edge))
    yield Mutant("graph", "ratio inverted", (5, 6), lambda: patch.object(engine_factors.Edge, "ratio", inverted))
    yield Mutant("graph", "disagreement let through", (5,), lambda: patch.object(scale_factors, "TOLERANCE", math.inf))
    yield Mutant("graph", "no fork settles", (5,), lambda: patch.object(ops.Fork, "settles", False))
    found = graph.cut_edges
    fewer = lambda output: set(list(found(output))[1:])  # noqa: E731
    yield Mutant("graph", "a cut-edge missed", (5,), lambda: _everywhere(found, fewer, "cut_edges"))


PAGE = (
    (run.apply, "alpha * rounder.wide(y)", "rounder.wide(y)"),
    (run.apply, "alpha * rounder.wide(y)", "alpha * alpha * rounder.wide(y)"),
    (run.apply, "rounder.operand(op, t.value, t.variable, node.index, i)", "t.value"),
    (run.apply, 'rounder.store(y, node.output, "output")', "rounder.carrier(y)"),
    (run.walk, "beta * rounder.wide(pieces[i])", "rounder.wide(pieces[i])"),
    (run.walk, "beta * rounder.wide(pieces[i])", "beta * beta * rounder.wide(pieces[i])"),
    (run.walk, 'rounder.store(piece, variable, "gradient")', "rounder.carrier(piece)"),
    (run.walk, "rounder.incoming(node.op, g, node.output, node.index)", "g"),
    (run.walk, "rounder.sum(gradients[variable], piece, variable)", "piece"),
    (run.walk, "rounder.sum(gradients[variable], piece, variable)", "gradients[variable] + piece"),
)
"""Lines of the page, and their replacements."""

FAST = (
    (fast.forward, "_array(alpha * rounder.wide(y)), True", "_array(y), False"),
    (fast.forward, 'rounder.store(y, node.output, "output", y if own else None)', "y"),
    (fast._times, "return np.multiply(x, factor, out=x) if own else _array(x * factor)", "return x"),
    (fast._times, "return np.multiply(x, factor, out=x) if own else _array(x * factor)", "return x * factor**2"),
    (fast._stored, 'store(g, variable, "gradient", g if own else None)', "g"),
    (fast._send_back, "rounder.incoming(op, g, node.output, node.index)", "g"),
    (fast._Pending.add, "self.sum(*self.gradients[variable], g, own, variable)", "g"),
    (fast._Pending.sum, 'self.rounder.store(total, variable, "gradient", total)', "total"),
)
"""The same of the fast executor."""


def executors() -> Iterator[Mutant]:
    """Factors lost and squared, casts left out, gradients overwritten, in either executor."""
    for where, changes in (("page", PAGE), ("fast", FAST)):
        for function, old, new in changes:
            patched = lambda f=function, o=old, n=new: _rewritten(f, o, n)  # noqa: E731
            how = patched if where == "fast" else lambda p=patched: _readable(p())
            yield Mutant("engine", f"{where}, {function.__name__}: {old} → {new}", (2, 3, 9), how)


@contextmanager
def _rewritten(function: Any, old: str, new: str) -> Iterator[None]:
    """A function with one piece of its source replaced, wherever it is held."""
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise AssertionError(f"{function.__name__}: {old!r} occurs {source.count(old)} times, expected once")
    changed = dict(function.__globals__)
    exec(compile(source.replace(old, new), function.__name__, "exec", dont_inherit=True, flags=FUTURE), changed)
    right, function.__code__ = function.__code__, changed[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = right


FUTURE = __future__.annotations.compiler_flag


@contextmanager
def nothing() -> Iterator[None]:
    """The change that is none."""
    yield


KINDS: tuple[Callable[[], Iterator[Mutant]], ...] = (
    factors,
    statistics,
    gradients,
    kernels,
    constraints,
    roundings,
    limits,
    casts,
    rules,
)


def all_mutants() -> list[Mutant]:
    """Every one, kind by kind."""
    return [mutant for kind in KINDS for mutant in kind()]


def survivors(mutants: Sequence[Mutant], report: Callable[[str], None] | None = None) -> list[Mutant]:
    """Those that no claim notices."""
    alive = []
    for mutant in mutants:
        killer = mutant.killer()
        if killer is None:
            alive.append(mutant)
        if report:
            report(f"{mutant.kind}: {mutant.name}: {f'killed by {killer}' if killer else 'SURVIVES'}")
    return alive


def main() -> int:
    """Run all, print killed/total by kind; 1 if any survives."""
    mutants = all_mutants()
    verbose = "-v" in sys.argv
    alive = survivors(mutants, print if verbose else None)
    total, lived = Counter(m.kind for m in mutants), Counter(m.kind for m in alive)
    for kind, count in total.items():
        print(f"{kind:14}{count - lived[kind]:>5} of {count:>3} killed")
    for mutant in alive:
        print(f"survives: {mutant.kind}: {mutant.name}")
    print(f"{len(mutants) - len(alive)} of {len(mutants)} mutants killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
