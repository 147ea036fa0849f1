"""The result of a fit: draws over the weights, and what can be asked of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from xarray import DataTree

from .blocks import Seconds
from .checks import Layout, as_rows, check_labels, check_like
from .datatree import to_datatree
from .density import Density
from .method import Kind, Method, Outcome
from .predictive import Predictive, log_likelihood
from .rows import Rows, Weights
from .saved import Parts, read, write
from .sites import NumPyroModel
from .status import Status, warn_if_failed
from .structure import Structure


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A fitted model. A point estimate is a posterior of one draw, so every fit answers in the same way."""

    density: Density
    """The density that was fitted."""
    method: Method
    """How it was fitted, with all settings."""
    layout: Layout
    """What the rows of x look like."""
    outcome: Outcome
    """What the method found."""
    seconds: Seconds
    """Wall time: `seconds.compile` and `seconds.run`."""

    @property
    def model(self) -> NumPyroModel:
        """The model that was fitted."""
        return self.density.model

    @property
    def structure(self) -> Structure:
        """What the model is made of."""
        return self.density.structure

    @property
    def draws(self) -> Mapping[str, np.ndarray]:
        """Latent site -> draws, shaped (chain, draw, *shape of the site); (1, 1, ...) for a point.

        The sites are in the order in which the model samples them.
        """
        return {site: self.outcome.draws[site] for site in self.structure.latents}

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

        Warns:
            FailedFitWarning: when the fit has failed.
            UndefinedPredictionWarning: when what is then asked of the distribution is NaN in some rows.
        """
        warn_if_failed(self.status)
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
            attrs=self._attrs(),
            pointwise=pointwise,
            x=None if x is None else as_rows("x", x),
            y=None if y is None else as_rows("y", y),
        )

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the fit to one file, from which `load` makes it again, with the same predictions to the bit.

        The file is NetCDF, which ArviZ reads as well (``arviz.from_netcdf``). It holds draws, statistics, status and
        the layout of x, no rows of the data and no code: the model is given again at loading. It is written under a
        temporary name and renamed when it is whole.

        Args:
            path: the file, such as ``"fit.nc"``; one that is there is replaced.

        Returns:
            The path.

        Raises:
            TypeError: when x is a pytree of other containers than dicts, tuples and lists.
        """
        parts = Parts(self.density, self.method, self.layout, self.outcome, self.seconds)
        return write(path, parts, self._attrs())

    @classmethod
    def load(cls, path: str | PathLike[str], model: NumPyroModel) -> "Fit":
        """The fit that `save` wrote.

        Its method can be read, but not run again, as settings may hold functions.

        Args:
            path: the file.
            model: the model that was fitted. Its sites are held against those of the file, and its densities at the
                first draw against those of then: another model is refused, and so is one that has changed.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when the file is damaged, cut short, no fit or of a later release, or the model another one.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from flatprior.inference import MAP, Fit, fit
            >>> from flatprior.models import MLP, Model, Normal, gaussian
            >>> x, model = np.linspace(-1, 1, 20)[:, None], Model(MLP(), Normal(0.1), gaussian(1.0))
            >>> line = fit(model, MAP(), x, 3 * x[:, 0], key=0)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     again = Fit.load(line.save(f"{folder}/line.nc"), model)
            >>> print(again, (again.predict(x).mean == line.predict(x).mean).all())
            Fit by MAP: point, 1 chain of 1 draw, 2 weights, ok True
        """
        parts = read(path, model)
        return cls(parts.density, parts.method, parts.layout, parts.outcome, parts.seconds)

    def _attrs(self) -> dict[str, Any]:
        """What is said of the fit in files and trees."""
        return {
            "kind": self.kind,
            "status": self.status.level,
            "status_reasons": list(map(str, self.status.reasons)),
            "method": repr(self.method),
            "seconds_compile": self.seconds.compile,
            "seconds_run": self.seconds.run,
        }

    def __repr__(self) -> str:
        chains, draws = self._chains_and_draws
        counts = ((chains, "chain"), (draws, "draw"), (self.structure.num_weights, "weight"))
        many, each, weights = (f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts)
        return f"Fit by {self.method.name}: {self.kind}, {many} of {each}, {weights}, {self.status}"

    @property
    def _chains_and_draws(self) -> tuple[int, int]:
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    def _mixture(self) -> Weights:
        """The draws of all chains, one after the other, on the device; of a site that is held, one."""
        count = math.prod(self._chains_and_draws)
        draws = {site: value.reshape(count, *value.shape[2:]) for site, value in self.draws.items()}
        moving = [site for site, value in draws.items() if (value[:2] != value[0]).any() or (value != value[0]).any()]
        return {s: jax.device_put(v if s in moving or not moving else v[:1]) for s, v in draws.items()}

    def _checked(self, x: Any) -> Rows:
        return jax.device_put(check_like(self.layout, x))


def check_fit(caller: str, fit: Any) -> None:
    """Raise unless this is a fit.

    Args:
        caller: the name of the function that takes it, for the message.
        fit: anything.

    Raises:
        TypeError: when it is not a `Fit`.
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"{caller}: expected a fit; got {fit!r}.")
