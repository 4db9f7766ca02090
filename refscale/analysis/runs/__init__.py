"""Training runs: scales over steps (``drift``), figures of runs (``plots``) and of sweeps (``sweeps``)."""

from refscale.analysis.runs.drift import Drift, Series, load_drifts, read_drift, render_drift, save_drifts
from refscale.analysis.runs.plots import plot_drift, plot_losses
from refscale.analysis.runs.sweeps import plot_against, plot_rates

__all__ = [
    "Drift",
    "Series",
    "load_drifts",
    "plot_against",
    "plot_drift",
    "plot_losses",
    "plot_rates",
    "read_drift",
    "render_drift",
    "save_drifts",
]
