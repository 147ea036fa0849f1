"""The figure of the command: scores and calibration of the fits on the test rows."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..inference import Comparison, Fit
from ..inference.criticism import calibration
from ..inference.files import atomic_write
from ..inference.plots import plot_calibration, plot_compare
from ..inference.status import no_failure_warnings
from .data import Split

NUM_BINS, BIN_ROWS = 10, 10
"""The largest number of bins, and the number of rows that a bin should have."""


def draw(fits: Mapping[str, Fit], comparison: Comparison, test: Split, title: str, path: Path) -> Path:
    """Write the figure as a PNG and return its path."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    scores, frequencies = figure.subplots(1, 2, width_ratios=(3, 2))
    plot_compare(comparison, scores).set_title("elpd on test rows, minus that of the best", fontsize=10, loc="left")
    num_bins = max(1, min(NUM_BINS, len(test.y) // BIN_ROWS))
    is_whole = test.weights is not None and not np.any(test.weights % 1)
    weights = test.weights if is_whole else None
    with no_failure_warnings():  # the table has their statuses
        calibrations = {
            name: calibration(fit, test.x, test.y, weights=weights, num_bins=num_bins) for name, fit in fits.items()
        }
    plot_calibration(calibrations, frequencies)
    if test.weights is not None and not is_whole:
        frequencies.set_title("each row once: its weights are not whole numbers", fontsize=10, loc="left")
    figure.suptitle(f"{title}: one network, {len(fits)} answers", x=0.01, ha="left", fontweight="bold")
    return atomic_write(path, lambda file: figure.savefig(file, dpi=150))
