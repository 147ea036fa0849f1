"""The result of a fit: draws over the weights, and what can be asked of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from xarray import DataTree

from .blocks import Seconds
from .checks import Layout, as_rows, check_labels, check_like
from .datatree import to_datatree
from .density import NumPyroModel, Rows, Structure, Weights
from .methods.method import Kind, Method, Outcome
from .predictive import Predictive, log_likelihood
from .status import Status


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A fitted model. A point estimate is a posterior of one draw, so every fit answers in the same way."""

    model: NumPyroModel
    """The model that was fitted."""
    method: Method
    """How it was fitted, with all settings."""
    structure: Structure
    layout: Layout
    outcome: Outcome
    seconds: Seconds
    """Wall time: `seconds.compile` and `seconds.run`."""

    @property
    def draws(self) -> Mapping[str, np.ndarray]:
        """Latent site -> draws, shaped (chain, draw, *shape of the site); (1, 1, ...) for a point."""
        return self.outcome.draws

    @property
    def kind(self) -> Kind:
        """What the draws are: a "point", draws from an "approximation", or a Markov "chain"."""
        return self.method.kind

    @property
    def status(self) -> Status:
        """Whether the fit can be relied on, with the reasons where not."""
        return self.outcome.status

    @property
    def stats(self) -> Mapping[str, np.ndarray]:
        """What was recorded: for points ``loss`` in nats, (restart, step); for chains the statistics of each draw."""
        return {**self.outcome.stats, **self.outcome.sample_stats}

    @property
    def log_evidence(self) -> float | None:
        """Log p(y | x) of the model in nats, the log marginal likelihood, as `Laplace` estimates it; else None.

        It is NaN where the prior is flat, under which there is none, or the fit has failed.
        """
        return self.outcome.log_evidence

    def predict(self, x: Any) -> Predictive:
        """The predictive distribution of y at rows of x, laid out as in the fit. Sees no y.

        Raises:
            TypeError, ValueError: when x is not such rows.
        """
        return Predictive(self.model, self.structure, self._mixture(), self._checked(x))

    def log_likelihood(self, x: Any, y: Any) -> np.ndarray:
        """Log p(y_i | x_i, w) of every draw and row in nats, (chain, draw, n).

        Beside x, the draws and the result it holds about 256 MiB (`predictive.WORKING_BYTES`).

        Raises:
            TypeError, ValueError: when x and y are not rows like those of the fit.
        """
        x = self._checked(x)
        y = check_labels(self.model, x, y)
        values = log_likelihood(self.model, self.structure, self._mixture(), x, jax.device_put(y))
        return values.reshape(*self._chains_and_draws, -1)

    def to_datatree(self, x: Any = None, y: Any = None) -> DataTree:
        """The fit as ArviZ reads it: posterior and sample_stats; with x and y also their log_likelihood and the data.

        The attributes hold kind, status, method and seconds.

        Raises:
            TypeError, ValueError: when only one of x and y is given, or they are not rows like those of the fit.
        """
        if (x is None) != (y is None):
            raise TypeError("to_datatree: expected x and y together, or neither.")
        pointwise = None if x is None else self.log_likelihood(x, y)
        return to_datatree(
            self.outcome,
            self.structure,
            self.layout.columns,
            attrs={
                "kind": self.kind,
                "status": self.status.level,
                "status_reasons": list(self.status.reasons),
                "method": repr(self.method),
                "seconds_compile": self.seconds.compile,
                "seconds_run": self.seconds.run,
            },
            pointwise=pointwise,
            x=None if x is None else as_rows("x", x),
            y=None if y is None else as_rows("y", y),
        )

    def __repr__(self) -> str:
        chains, draws = self._chains_and_draws
        counts = ((chains, "chain"), (draws, "draw"), (self.structure.num_weights, "weight"))
        many, each, weights = (f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts)
        return f"Fit by {type(self.method).__name__}: {self.kind}, {many} of {each}, {weights}, {self.status}"

    @property
    def _chains_and_draws(self) -> tuple[int, int]:
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    def _mixture(self) -> Weights:
        """The draws of all chains, one after the other, on the device."""
        count = math.prod(self._chains_and_draws)
        return {site: jax.device_put(value.reshape(count, *value.shape[2:])) for site, value in self.draws.items()}

    def _checked(self, x: Any) -> Rows:
        return jax.device_put(check_like(self.layout, x))
