"""A program that was brought from PyTorch, as a PyTorch module with the factors of a scheme in place.

The module runs the same rules as ``TorchProgram``, with torch's functions in place of refscale's ops.  Each call is
the page of the engine in torch: cast the operands, compute, times α, cast the output; in the backward pass cast the
gradient, differentiate, times β, cast.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np

from refscale import ops
from refscale.adapt import Adapted
from refscale.bridge.edges import Edges
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.functions import function_of
from refscale.bridge.program import Original, TorchProgram, evaluate, shapes_in_words, shapes_of
from refscale.engine import Op
from refscale.errors import ArgumentError, ProgramError
from refscale.precision import Precision, get_precision
from refscale.scales import Call, Scales, Scheme, get_scheme, regular

__all__ = ["to_torch", "values_under"]


class _Traced:
    """A torch tensor that depends on parameters; constants are plain tensors."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.shape)
        self.ndim = len(self.shape)


class _Found(NamedTuple):
    """A call's op, and the scheme's op and factors for it."""

    asked: Op
    op: Op
    scales: Scales


def to_torch(
    program: TorchProgram,
    scheme: str | Scheme | Adapted = "regular",
    precision: str | Precision = "fp32",
    *,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    """A ``torch.nn.Module`` that computes a program under a scheme.

    Parameters and buffers have the names of the original module, and so has the state dict.  Running statistics of
    batch norms are updated in train mode and used in eval mode, as torch does.  Other buffers that the module writes to
    are kept in train mode, and in eval mode if the module was imported in it.  A module that was imported in eval mode
    computes the same steps in train mode; of one imported in train mode, ``eval()`` is refused if torch's eval mode
    differs in more than dropout and batch norms.  Inputs of other shapes than the
    example's are exported anew, once for each, and computed by the same rules; a plan holds for every size of a batch.
    ``module.loss(output, target)`` is
    the program's loss with its factors; ``module.parameter_groups(lr)`` are the groups of an optimizer with the
    scheme's learning rates.  ``module.record(recorder)`` writes the calls of the following steps to a trace that
    ``refscale conform --trace`` judges.

    Args:
        program: a program from ``from_torch``.
        scheme: a scheme, such as ``graph.plan(program)``; or ``adapt.adapt(program)``: the module with its own values,
            each parameter divided by its σ, and the same loss.  Its outputs are the same with the loss "cross_entropy",
            and a constant multiple of the original's with "projection".
        precision: casts of the calls, simulated in float32 on the CPU; rounding to nearest, without blocks.
        parameters: values by name, such as a state dict, for an adapted program those of the original; without a
            buffer, its value at the import; None: the program's initial ones.
        seed: the seed of the initial parameters.

    Returns:
        The module, in train mode.

    Raises:
        ProgramError: an op of the program has no torch function; or it was an ONNX model.
        ArgumentError: the policy computes exactly or in blocks, transforms operands, or differs by place.
    """
    policy = get_precision(precision)
    if program.original is not None and not isinstance(program.original, Original):
        raise ProgramError(f"to_torch: {program.name} is an ONNX model, expected a program from from_torch")
    values, scheme = values_under(program, scheme, parameters, seed)
    if policy.accumulate is not None or policy.blocks is not None or policy.rules or policy.hadamard:
        raise ArgumentError(
            f"to_torch(precision={policy.name!r}): expected a policy without blocks, accumulators, rules and transforms"
        )
    return _module_class()(program, scheme, policy, values)


def values_under(
    program: TorchProgram, scheme: str | Scheme | Adapted, parameters: Mapping[str, Any] | None, seed: int
) -> tuple[Mapping[str, Any], Scheme]:
    """The parameters of a program under a scheme, and the scheme; with the arguments of ``to_torch``."""
    if isinstance(scheme, Adapted):
        own = program.initial_parameters(regular, np.random.default_rng(seed)) if parameters is None else parameters
        own = {name: np.asarray(x) for name, x in own.items()}
        return {**own, **scheme.unit({name: own[name] for name in program.specs})}, scheme.scheme
    scheme = get_scheme(scheme)
    if parameters is None:
        parameters = program.initial_parameters(scheme, np.random.default_rng(seed))
    return parameters, scheme


class TorchEvaluation(Evaluation):
    """One evaluation in torch.

    Args:
        scheme, edges: the scheme and the casts of the module.
        training: whether it is in train mode.
        found: ops and factors of the calls of an earlier evaluation at these shapes; empty: found and added here.
        recorder: the recorder of a trace.
        calls: number of calls before.
    """

    def __init__(
        self,
        scheme: Scheme,
        edges: Edges,
        training: bool,
        found: list[_Found],
        recorder: Any = None,
        calls: int = 0,
    ) -> None:
        super().__init__(None)
        self.scheme, self.edges, self.training, self.recorder = scheme, edges, training, recorder
        self.calls, self._first, self._found = calls, calls, found

    def _scaled(self, op: Op, shapes: tuple[tuple[int, ...], ...]) -> tuple[Op, Scales]:
        """The scheme's op and factors of the next call: those found before, unless an attribute depends on the data."""
        i = self.calls - self._first
        if i < len(self._found) and self._found[i].asked == op:
            return self._found[i].op, self._found[i].scales
        asked = Call(op, shapes, index=self.calls)
        found = _Found(op, cast(Op, self.scheme.op(asked)), self.scheme.scales(asked))
        self._found[i : i + 1] = [found]
        return found.op, found.scales

    @property
    def noisy(self) -> bool:
        """Whether dropout is on: in train mode."""
        return self.training

    @property
    def frozen(self) -> bool:
        """Whether batch norms of constants use their running statistics: in eval mode."""
        return not self.training

    def depends(self, x: object) -> bool:
        """Return whether a value depends on parameters."""
        return isinstance(x, _Traced)

    def detached(self, x: Any) -> Any:
        """The value of a tensor, as a constant."""
        return x.tensor.detach() if isinstance(x, _Traced) else x

    def filled(self, shape: tuple[int, ...], value: float | bool, like: Any) -> Any:
        """A constant tensor of one value."""
        import torch

        t = like.tensor if isinstance(like, _Traced) else like
        return torch.full(shape, value, dtype=torch.bool if isinstance(value, bool) else t.dtype, device=t.device)

    def is_mask(self, x: Any) -> bool:
        """Return whether a constant is boolean."""
        import torch

        return bool(x.dtype == torch.bool)

    def kept(self, x: Any, p: float) -> Any:
        """The factor keep/(1 − p) of each element of x from torch's generator, or 1 in eval mode."""
        import torch

        if not self.training:
            return self.filled(x.shape, 1.0, x)
        return (torch.rand(x.shape, device=x.tensor.device) >= p).to(x.tensor.dtype) / (1 - p)

    def batch_norm(
        self,
        x: Any,
        gain: Any,
        bias: Any,
        statistics: tuple[Any, Any] | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Any:
        """A batch norm with the batch's statistics in train mode, which update the running ones; else with these.

        Running statistics have the scale of the original module, whose x is s times that of an adapted one.
        """
        if not training or statistics is None:
            return super().batch_norm(x, gain, bias, statistics, training, momentum, eps)
        op = ops.BatchNorm(eps)
        scaled, _ = self._scaled(op, tuple(tuple(t.shape) for t in (x, gain, bias)))
        s = (eps / cast(ops.BatchNorm, scaled).eps) ** 0.5 if eps else 1.0
        mean, variance = statistics
        if self.training:
            _update(mean, variance, self.detached(x), momentum, s)
            return self.apply(op, x, gain, bias)
        return self._apply(op, x, gain, bias, frozen=(mean / s, variance / s**2))

    def _permuted(self, x: Any, order: tuple[int, ...]) -> Any:
        return x.permute(order)

    def _key(self, x: Any) -> Any:
        return x

    def apply(self, op: Op, *inputs: Any) -> Any:
        """The output of a call, with the scheme's factors and the policy's casts."""
        return self._apply(op, *inputs)

    def _apply(self, op: Op, *inputs: Any, frozen: tuple[Any, Any] | None = None) -> Any:
        """``apply``; with running statistics a batch norm computes as a frozen one, with the factors of its own."""
        tensors = [x.tensor if isinstance(x, _Traced) else self.edges.constant(x) for x in inputs]
        shapes = tuple(tuple(t.shape) for t in tensors)
        op, scales = self._scaled(op, shapes)
        self.calls += 1
        if frozen is not None:
            op, tensors = ops.FrozenBatchNorm(cast(ops.BatchNorm, op).eps), [*tensors, *frozen]
            scales = Scales(scales.alpha, (*scales.beta, None, None))
            inputs = (*inputs, *frozen)
        if self.recorder is None:
            return _Traced(self._computed(op, scales, tensors))
        where = f"{op.name} #{self.calls - 1}"
        with self.recorder.call(where, op, alpha=scales.alpha, beta=scales.beta, count=len(inputs)) as call:
            used = call.inputs(*tensors)
            used = list(used) if isinstance(used, tuple) else [used]
            return _Traced(call.output(self._computed(op, scales, used)))

    def _computed(self, op: Op, scales: Any, tensors: list[Any]) -> Any:
        edges, call = self.edges, self.calls - 1
        ready = []
        for i, (t, beta) in enumerate(zip(tensors, scales.beta, strict=True)):
            shape = tuple(t.shape)
            if i in op.constants:
                ready.append(t)
            else:
                ready.append(
                    edges.edge(t, edges.operand(op, shape, call, i), edges.stored(shape, False, "gradient", beta))
                )
        y = function_of(op)(op, *ready)
        shape = tuple(y.shape)
        return edges.edge(y, edges.stored(shape, op.reports, "output", scales.alpha), edges.incoming(op, shape, call))


def _update(mean: Any, variance: Any, x: Any, momentum: float, s: float) -> None:
    """Move running statistics towards those of s·x (…, channels), the unbiased variance, as torch does."""
    import torch

    with torch.no_grad():
        rows = x.reshape(-1, x.shape[-1])
        mean += momentum * (s * rows.mean(0) - mean)
        variance += momentum * (s**2 * rows.var(0) - variance)


@cache
def _module_class() -> Any:
    """The class of the modules, made when torch is first needed."""
    import torch
    from torch.utils import _pytree as pytree

    class ScaledModule(torch.nn.Module):  # type: ignore[misc]
        """A program under a scheme; see ``to_torch``."""

        def __init__(self, program: TorchProgram, scheme: Scheme, policy: Precision, values: Mapping[str, Any]) -> None:
            super().__init__()
            self.program, self.scheme = program, scheme
            self.edges = Edges(policy)
            self._found: dict[Any, list[_Found]] = {}  # factors, by shapes
            self.recorder: Any = None
            self.names = list(program.specs)
            for name in self.names:
                parameter = torch.nn.Parameter(torch.tensor(np.asarray(values[name])))
                _owner(self, name).register_parameter(name.rpartition(".")[2], parameter)
            original = cast(Original | None, program.original)
            for alias, name in original.ties.items() if original else ():
                _owner(self, alias).register_parameter(alias.rpartition(".")[2], self.get_parameter(name))
            for name, (value, persistent) in original.buffers.items() if original else ():
                own = torch.tensor(np.asarray(values[name])) if name in values else value.clone()
                _owner(self, name).register_buffer(name.rpartition(".")[2], own, persistent=persistent)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            """The output of the program; the calls continue in ``loss``."""
            inputs = pytree.tree_leaves((args, kwargs))
            exported = self.program.at(inputs)
            found = self._found.setdefault(shapes_of(inputs), [])
            run = TorchEvaluation(self.scheme, self.edges, self.training, found, self.recorder)
            given, device = {}, next(self.parameters()).device
            for node, name in exported.parameters.items():
                t = self.get_parameter(name)
                given[node] = _Traced(self.edges.edge(t, self.edges.stored(tuple(t.shape), False, "leaf"), None))
            for node, value in exported.constants.items():
                buffer = exported.buffers.get(node)
                given[node] = value.to(device) if buffer is None else self.get_buffer(buffer)

            original = cast(Original | None, self.program.original)
            keeps = self.training or not (original and original.training)

            def keep(node: str, x: Any) -> None:
                """Keep the last value of a written buffer, such as a number of batches."""
                if keeps and (name := exported.buffers.get(node)):
                    self.get_buffer(name).copy_(x)

            try:
                y = evaluate(exported, given, inputs, run, keep=keep)
            except ProgramError as error:
                shapes, expected = shapes_of(inputs), self.program.shapes
                if shapes == expected:
                    raise
                where = f"inputs {shapes_in_words(shapes)}, imported with {shapes_in_words(expected)}"
                raise ProgramError(f"{self.program.name}: {where}: {error}") from error
            self._calls = run.calls
            return y.tensor

        def train(self, mode: bool = True) -> Any:
            """Set the mode.

            Raises:
                ProgramError: eval mode, in which the original computes other steps, see ``check_eval_mode``.
            """
            if not mode:
                self.program.check_eval_mode()
            return super().train(mode)

        def loss(self, output: Any, target: Any) -> Any:
            """The program's loss of an output; under a plan its factors continue those of the module."""
            found = self._found.setdefault((self._calls, *shapes_of((output, target))), [])
            run = TorchEvaluation(self.scheme, self.edges, self.training, found, self.recorder, self._calls)
            return self.program.outcome(run, _Traced(output), target).tensor

        def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
            """A group for each parameter, with the scheme's learning rate; for any optimizer of torch."""
            groups = []
            for name in self.names:
                spec = self.program.specs[name]
                rate = lr * self.scheme.lr_scale(spec.role, spec.shape, spec.depth)
                groups.append({"params": [self.get_parameter(name)], "lr": rate, "name": name})
            return groups

        def record(self, recorder: Any) -> None:
            """Write the calls of the following steps with a ``golden.trace.Recorder``; None: no more."""
            self.recorder = recorder

    return ScaledModule


def _owner(module: Any, name: str) -> Any:
    """The submodule of a dotted name, made where it does not exist."""
    import torch

    for part in name.split(".")[:-1]:
        if part not in module._modules:
            module.add_module(part, torch.nn.Module())
        module = module._modules[part]
    return module
