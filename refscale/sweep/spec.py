"""The definition of a sweep, as data.

A spec in TOML:

    title = "Norms and residual rules of the character models"
    seeds = 3                                    # runs of every cell at its best learning rate
    diverged_above = 6.5                         # a run that ends with a higher loss counts as diverged

    [base]                                       # fields of TrainConfig that all runs share
    steps = 200

    [grid]                                       # every combination of these
    model = ["charlm-attention", "charlm-conv"]
    "model.norm" = ["pre", "post"]               # fields of the model
    optimizer = ["adamw", "sgd:momentum=0.9"]

    [[skip]]                                     # except combinations that match one of these
    model = "charlm-conv"
    "model.norm" = "post"

    [[variants]]                                 # ways to run each of them; the others are compared with the first
    name = "regular FP32"
    scheme = "regular"

    [[variants]]
    name = "unit FP8"
    scheme = "unit"
    precision = "fp8"

    [rate]
    search = "walk"                              # or "bracket", "grid"
    step = 1
    threshold = 0.05
    seeds = 1                                    # repetitions of a search; their median counts
    of = {precision = "fp32", scaling = "none"}  # cells that differ only here share the rate found with these

    [[rate.start]]                               # the first that matches a cell; "exponents" for the search "grid"
    scheme = "regular"
    at = -11
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from refscale.errors import ArgumentError, DataError
from refscale.files import read_toml
from refscale.scales import base_name
from refscale.sweep.search import Bracket, Grid, Search, Walk
from refscale.train import TrainConfig

Settings = dict[str, Any]
"""Values by name: fields of a ``TrainConfig``, and "model.FIELD" for those of its model."""

SHIPPED: Mapping[str, Traversable] = {
    file.name.removesuffix(".toml"): file for file in (resources.files("refscale.sweep") / "specs").iterdir()
}
"""Built-in specs, by name."""

_SEARCHES = ("walk", "bracket", "grid")
_LONGEST = 120


@dataclass(frozen=True)
class Cell:
    """One setting in one variant.

    Attributes:
        point: values of the grid.
        variant: name of the variant.
        settings: settings of point and variant.
        seeds: number of runs at its best rate.
    """

    point: Settings
    variant: str
    settings: Settings
    seeds: int


@dataclass(frozen=True)
class SweepSpec:
    """A sweep; the module's docstring explains its parts.

    Attributes:
        title: title on one line.
        base: common fields of all runs.
        grid: values by name; every combination is a point.
        variants: settings by name; a variant's "seeds" replace those of the spec.
        skip: conditions; a point that matches all settings of one is left out.
        seeds: number of runs of a cell at its best rate.
        search, start: name of the search, and its starts by condition; ``step``, ``threshold``: parameters of a walk.
        rate_seeds: number of repetitions in a search.
        rate_of: settings of a search.
        diverged_above: loss above which an ended run counts as diverged, even if every number was finite.
        plot: "scatter" (each variant against the first) or "rates" (loss by learning rate).
    """

    title: str
    base: Settings = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    variants: Mapping[str, Settings] = field(default_factory=dict)
    skip: tuple[Settings, ...] = ()
    seeds: int = 1
    search: str = "bracket"
    start: tuple[Settings, ...] = ()
    step: float = 1.0
    threshold: float = 0.05
    rate_seeds: int = 1
    rate_of: Settings = field(default_factory=dict)
    diverged_above: float = math.inf
    plot: str = "scatter"

    def __post_init__(self) -> None:
        known = {f.name for f in fields(TrainConfig)} - {"lr", "seed"}
        named = [*self.base, *self.grid, *self.rate_of, *(k for v in self.variants.values() for k in v if k != "seeds")]
        for name in named:
            if name not in known and not name.startswith("model."):
                raise self._error(f"{name!r} is not a setting", f"one of {', '.join(sorted(known))}, or model.FIELD")
        if not self.variants or not all(self.grid.values()):
            raise self._error("nothing to run", "at least one variant, and a value for each name of the grid")
        if self.search not in _SEARCHES:
            raise self._error(f"search {self.search!r}", f"one of {', '.join(_SEARCHES)}")
        if self.seeds < 1 or self.rate_seeds < 1:
            raise self._error(f"seeds {self.seeds} and {self.rate_seeds}", "at least 1")
        if not isinstance(self.diverged_above, int | float):
            raise self._error(f"diverged_above {self.diverged_above!r}", "a loss")
        if self.plot not in ("scatter", "rates"):
            raise self._error(f"plot {self.plot!r}", "'scatter' or 'rates'")

    def _error(self, what: str, expected: str) -> ArgumentError:
        return ArgumentError(f"sweep {self.title!r}: {what}, expected {expected}")

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, point by point, in each variant."""
        for values in itertools.product(*self.grid.values()):
            point = dict(zip(self.grid, values, strict=True))
            if any(_fits(point, skipped) for skipped in self.skip):
                continue
            for name, variant in self.variants.items():
                settings = self._complete(point | {k: v for k, v in variant.items() if k != "seeds"})
                yield Cell(point, name, settings, min(self.seeds, variant.get("seeds", self.seeds)))

    def _complete(self, settings: Settings) -> Settings:
        """Return settings with a value for every name that the spec varies, so that equal runs have equal settings."""
        names = dict.fromkeys([*self.grid, *(k for v in self.variants.values() for k in v), *self.rate_of])
        others = vars(TrainConfig()) | self.base
        return {k: settings.get(k, others.get(k)) for k in names if k in settings or k in others}

    def config(self, settings: Settings, log2_lr: float, seed: int, traced: bool = False) -> TrainConfig:
        """Return the run of some settings; if ``traced``, with a record of every tensor's scale at ten steps."""
        merged = self.base | settings
        parts = [f"{k.removeprefix('model.')}={_text(v)}" for k, v in merged.items() if k.startswith("model.")]
        plain = {k: v for k, v in merged.items() if not k.startswith("model.")}
        if parts:
            name = plain.get("model", TrainConfig().model)
            plain["model"] = f"{name}{',' if ':' in name else ':'}{','.join(parts)}"
        try:
            config = TrainConfig(**plain, lr=2.0**log2_lr, seed=seed)
        except TypeError as error:
            raise self._error(str(error), "values that TrainConfig takes") from error
        if not traced:
            return config
        return TrainConfig(**vars(config) | {"scales_every": max(1, config.steps // 10)})

    def rate_settings(self, settings: Settings) -> Settings:
        """Return the settings under which the learning rate of a cell is searched."""
        return self._complete(settings | self.rate_of)

    def search_of(self, settings: Settings) -> Search:
        """Return the search rule for some settings; raise ArgumentError if no start matches."""
        start = next((s for s in self.start if _fits(settings, _conditions(s))), None)
        if self.search == "bracket" and start is None:
            scheme = base_name(settings.get("scheme", TrainConfig().scheme))
            return Bracket(self.config(settings, 0.0, 0).kind.log2_lr[scheme])
        if start is None:
            raise self._error(f"no start fits {settings}", "one in [[rate.start]]")
        try:
            if self.search == "grid":
                return Grid(tuple(float(e) for e in start["exponents"]))
            at = float(start["at"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._error(f"start {start}", "numbers 'at', or 'exponents' of a grid") from error
        return Walk(at, self.step, self.threshold) if self.search == "walk" else Bracket(at)


def _conditions(start: Settings) -> Settings:
    return {k: v for k, v in start.items() if k not in ("at", "exponents")}


def _fits(settings: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    return all(settings.get(name) == value for name, value in conditions.items())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_id(settings: Settings, log2_lr: float, seed: int) -> str:
    """Return the name of a run and of its directory, from its values, rate and seed."""
    values = "_".join(map(_text, settings.values()))
    name = re.sub(r"[^A-Za-z0-9.=+-]+", "_", values.replace("^", "").replace(":", "-")).strip("_")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}_{sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]}"
    return f"{name}_lr{log2_lr:g}_seed{seed}"


def load_spec(path: str | Path) -> SweepSpec:
    """Read a spec.

    Args:
        path: path of a TOML file, or the name of a built-in spec ("charlm", without .toml).

    Raises:
        DataError: the file does not exist, is not TOML, or has unknown parts.
        ArgumentError: a setting is invalid.
    """
    call = f"load_spec({str(path)!r})"
    try:
        content = read_toml(SHIPPED.get(str(path), Path(path)), call)
    except FileNotFoundError as error:
        raise DataError(f"{call}: no such file, expected a path, or one of {', '.join(sorted(SHIPPED))}") from error
    try:
        return _from_toml(content)
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise DataError(f"{call}: {type(error).__name__} {error}, see the head of refscale.sweep.spec") from error


def _from_toml(content: dict[str, Any]) -> SweepSpec:
    rate = content.pop("rate", {})
    variants = content.pop("variants")
    known = {"title", "base", "grid", "skip", "seeds", "diverged_above", "plot"}
    wrong = sorted(content.keys() - known)
    wrong += sorted(rate.keys() - {"search", "start", "step", "threshold", "seeds", "of"})
    if wrong:
        raise KeyError(f"{wrong[0]!r} is not known")
    grid = {name: tuple(values) for name, values in content.pop("grid", {}).items()}
    return SweepSpec(
        **content | {"skip": tuple(content.get("skip", ()))},
        grid=grid,
        variants={v["name"]: {k: x for k, x in v.items() if k != "name"} for v in variants},
        search=rate.get("search", "bracket"),
        start=tuple(rate.get("start", ())),
        step=float(rate.get("step", 1.0)),
        threshold=float(rate.get("threshold", 0.05)),
        rate_seeds=int(rate.get("seeds", 1)),
        rate_of=dict(rate.get("of", {})),
    )
