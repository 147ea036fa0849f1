"""The result of a fit: draws of the weights, and predictions from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .arrays import as_rows, in_default_precision
from .checks import check_labelled, check_labels, check_like
from .chunks import mixture_of
from .datatree import attributes_of, to_datatree
from .density import Density
from .deterministic import deterministic_draws
from .digests import digest_of_rows
from .joined import joined
from .labels import as_weights, labelled, observations, with_gaps
from .lookups import check_indices
from .method import Kind
from .pointwise import log_likelihood
from .predictive import Predictive
from .rows import Data, Rows, Weights, copied
from .saved import Parts, read, write
from .seen import Seen, digest_of_weights
from .several import observing
from .sites import NumPyroModel
from .status import Status, warn_if_failed
from .structure import Structure
from .tangent import tangent

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    from xarray import DataTree


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Parts):
    """A fitted model. A point estimate is a posterior of one draw, so all fits have the same interface."""

    def __getitem__(self, site: str) -> "Fit":
        """Return the fit as one of the model of one observed site alone, where the model has several.

        Its draws and its status are those of the fit, which has seen all sites; its y, its predictions and its scores
        are those of this site, and it has no evidence of its own. So every function of a fit can be asked about it:
        ``calibration(fit["a"], x, y["a"])``.

        Raises:
            KeyError: when there is no such observed site.
        """
        self.structure.check_site(site)
        if len(self.structure.responses) == 1:
            return self
        seen, outcome = self.seen.get(site, Seen()), replace(self.outcome, log_evidence=None)
        return replace(self, density=self.density.of_site(site), outcome=outcome, **vars(seen), seen={})

    @property
    def model(self) -> NumPyroModel:
        """The model that was fitted."""
        return self.density.model

    @property
    def structure(self) -> Structure:
        """The sites and the response of the model."""
        return self.density.structure

    @property
    def draws(self) -> Mapping[str, np.ndarray]:
        """The draws by latent site, shaped (chain, draw, *shape of the site); (1, 1, ...) for a point.

        The sites are in the order in which the model samples them, in the type in which they are kept; see `fit`.
        """
        return {site: self.outcome.draws[site] for site in self.structure.latents}

    @property
    def kind(self) -> Kind:
        """The kind of draws: a "point", draws from an "approximation", a Markov "chain", or draws from the "prior"."""
        return self.method.kind

    @property
    def leaves_out(self) -> str:
        """What the draws leave out of the posterior however well the method ran, in one sentence; or nothing."""
        return self.method.leaves_out

    @property
    def status(self) -> Status:
        """The reliability of the fit, with reasons unless it is ok; of an approximation also what it leaves out."""
        status = self.outcome.status
        return replace(status, leaves_out=self.leaves_out) if self.kind == "approximation" else status

    @property
    def stats(self) -> Mapping[str, np.ndarray]:
        """Recorded statistics: for points ``loss`` in nats, (restart, step); for chains the statistics of each draw."""
        return {**self.outcome.stats, **self.outcome.sample_stats}

    @property
    def log_evidence(self) -> float | None:
        """Log p(y | x) of the model in nats, the log marginal likelihood, as `Laplace` estimates it; else None.

        It is NaN where the fit has failed, or the prior is flat, so that no evidence exists.
        """
        return self.outcome.log_evidence

    def predict(self, x: Any, *, out: str | PathLike[str] | None = None) -> Predictive:
        """Return the predictive distribution of y at rows of x, which have the layout of the fit. No y is used.

        It is the mixture over draws of p(y | x, w), by the model, or, as `Laplace` does for networks, by the model
        linearised at the mode; `outcome.linearized_at` is the mode then.

        Args:
            x: n rows.
            out: a folder. What depends on x alone (`Predictive.mean`, ``probs``, ``quantile``, ...) is then written to
                it as ``mean.npy`` and so on, rows first, when it is asked for, and is a memory map.

        Raises:
            TypeError, ValueError: when x has another layout.

        Warns:
            FailedFitWarning: when the fit has failed.
            UndefinedPredictionWarning: when a summary of the distribution is NaN in some rows.
        """
        warn_if_failed(self.status)
        found = self.predictive(self._mixture(), self._checked(x))
        return found if out is None else replace(found, out=Path(out))

    def predictive(self, draws: Weights, x: Rows) -> Predictive:
        """Return the mixture over given draws of p(y | x, w), by the model or the linearised model, unchecked."""
        return Predictive(self._predicting, draws, x, self._linearized_at)

    def log_likelihood(self, x: Any, y: Any, *, weights: Any = None) -> np.ndarray:
        """Return what each row adds to the log likelihood in nats, for every draw, (chain, draw, n).

        It is log p(y_i | x_i, w), times the weight of the row where it has one, and 0 in rows without y; of several
        observed sites the sum. This uses about 256 MiB (`chunks.WORKING_BYTES`) beside x, the draws and the result.

        Args:
            x: n rows.
            y: n rows; NaN and masked values were not observed.
            weights: the weight of each row, (n,); see `fit`.

        Raises:
            TypeError, ValueError: when x or y has another layout than in the fit.
        """
        data = check_labels(self.model, self._checked(x), y)
        row_weights = None if weights is None else as_weights(weights, data.num_rows)
        data = replace(data, at=self._linearized_at, weights=row_weights).on_device()
        values = log_likelihood(self._predicting, self._mixture(), data)
        return values.reshape(*self._chains_and_draws, -1)

    def was_fitted_to(self, x: Any, y: Any, weights: Any = None) -> bool | None:
        """Return whether these are the rows of the fit, in their order; None where that is not known.

        Rows are compared by a digest, which takes the time of a sum; some of them among others are not recognised. Rows
        that a fit leaves out, without y or of weight 0, are left out here as well; weights are not compared otherwise.

        Raises:
            TypeError, ValueError: when x has another layout than in the fit, or x or y are no rows.
        """
        if self.rows is None:
            return None
        x, y, _ = labelled(check_like(self.layout, x), y, weights).scored
        return digest_of_rows(x, y) == self.rows

    def to_datatree(self, x: Any = None, y: Any = None, *, key: Any = None) -> "DataTree":
        """Return the fit for ArviZ: posterior (for `Prior`, prior) and sample_stats, and more where x is given.

        Sites of `numpyro.deterministic` are among the draws, unless they depend on x. The attributes are kind, status,
        method and seconds. Draws that are kept in a narrow type (see `fit`) are widened, which copies them.

        Args:
            x: n rows, which the tree then contains.
            y: n rows, for the groups observed_data and log_likelihood.
            key: a typed JAX key or an integer seed, for the group posterior_predictive (for `Prior`, prior_predictive):
                one y drawn at every row of x for each draw of the weights.

        Raises:
            TypeError, ValueError: when x is missing, or given without y and key, or has another layout than in the fit.
        """
        if (x is None) != (y is None and key is None):
            raise TypeError("to_datatree: expected x together with y, key or both, or none of them.")
        pointwise = None if y is None else self._by_site(lambda fit, rows: fit.log_likelihood(x, rows), y)
        predicted = None if key is None else self._component_samples(x, key)
        computed = deterministic_draws(self.density, self.layout, self.draws)
        return to_datatree(
            replace(self.outcome, draws={**self.draws, **computed}),
            self.structure,
            self.layout.columns,
            attrs=attributes_of(self),
            pointwise=pointwise,
            predicted=predicted,
            x=None if x is None else as_rows("x", x),
            y=None if y is None else in_default_precision("y", with_gaps(*observations("y", y))),
        )

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the fit to a file, from which `load` restores it, with the same predictions to the bit.

        The file is NetCDF, which ArviZ reads as well (``arviz.from_netcdf``). It contains draws, statistics, status and
        the layout of x, but no rows of the data and no code: `load` takes the model as an argument. It is written under
        a temporary name and renamed when complete.

        Args:
            path: the file, such as ``"fit.nc"``; an existing one is replaced.

        Returns:
            The path.

        Raises:
            TypeError: when x is a pytree with containers other than dicts, tuples and lists; or when this is the part
                of a fit that concerns one of several observed sites.
        """
        if isinstance(self.model, observing):
            raise TypeError(
                f"save: expected a fit of all observed sites; got its part of {self.model.site!r}. Save the whole, and "
                f"take [{self.model.site!r}] of what Fit.load returns."
            )
        return write(path, self, attributes_of(self))

    @classmethod
    def load(cls, path: str | PathLike[str], model: NumPyroModel) -> "Fit":
        """Return the fit that `save` wrote.

        Its method can be printed but not run again, since settings may be functions.

        Args:
            path: the file.
            model: the model that was fitted. Its sites, and its densities at the first draw, are compared with those in
                the file: another model is refused, and so is one that has changed.

        Raises:
            FileNotFoundError: when the file does not exist.
            ValueError: when the file is damaged, not a fit or of a later release, or the model is another one.

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
        return cls(**vars(read(path, model)))

    @classmethod
    def join(cls, fits: "Sequence[Fit]", x: Any, y: Any, *, weights: Any = None) -> "Fit":
        """Return fits that ran apart as one: all chains of NUTS, MCLMC or SGMCMC, or all members of ensembles.

        The fits may be those of independent jobs, saved by each and loaded here. Their status is that of all chains,
        computed anew: whether these agree on weights and predictions. Reasons that the draws do not show, such as a
        cold start, and those of members of ensembles, are those of the fits. `seconds` is the sum over the fits, the
        time of one machine, and `keys` are the keys of all.

        Args:
            fits: two or more fits of one model, to the same rows, by one method, whose settings are equal apart from
                `num_chains` or `num_members`, under different keys. Chains have equal numbers of draws.
            x: the rows of x that were fitted.
            y: their y.
            weights: their weights, if they have any.

        Raises:
            TypeError: when an argument is no fit, or only its part of one of several observed sites.
            ValueError: when the fits have another model, method, rows or number of draws than the first, or one key;
                or their method gives points, or draws around a point, which cannot be joined.

        Example:
            >>> import numpy as np
            >>> from flatprior.inference import MAP, Ensemble, Fit, fit
            >>> from flatprior.models import MLP, Model, Normal, gaussian
            >>> x = np.linspace(-1, 1, 20)[:, None]
            >>> model, method = Model(MLP(), Normal(0.1), gaussian(1.0)), Ensemble(MAP(), num_members=2)
            >>> print(Fit.join([fit(model, method, x, 3 * x[:, 0], key=job) for job in range(3)], x, 3 * x[:, 0]))
            Fit by Ensemble: approximation, 1 chain of 6 draws, 2 weights, ok
        """
        for fit in fits:
            check_fit("join", fit)
            if isinstance(fit.model, observing):
                raise TypeError("join: expected fits of all observed sites; got the part of one. Join the whole fits.")
        if len(fits) < 2:
            raise ValueError(f"join: expected two or more fits; got {len(fits)}.")
        _, data = check_labelled(fits[0].model, labelled(x, y, weights))
        rows = digest_of_rows(data.x, with_gaps(data.y, data.known))
        return joined(fits, data, rows, digest_of_weights(data.weights))

    def _by_site(self, function: Callable[["Fit", Any], np.ndarray], y: Any) -> dict[str, np.ndarray]:
        """Return the values of a function of a fit and its rows of y, for each observed site."""
        parts = self.structure.by_site(y)
        return {response.site: function(self[response.site], rows) for _, response, rows in parts}

    def _component_samples(self, x: Any, key: Any) -> dict[str, np.ndarray]:
        """Return one y for each draw, (chain, draw, n), by observed site."""
        samples = self.predict(x).component_samples(key)
        by_site = {response.site: values for _, response, values in self.structure.by_site(samples)}
        return {site: values.reshape(*self._chains_and_draws, *values.shape[1:]) for site, values in by_site.items()}

    def __repr__(self) -> str:
        chains, draws = self._chains_and_draws
        counts = ((chains, "chain"), (draws, "draw"), (self.structure.num_weights, "weight"))
        many, each, weights = (f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts)
        rows = "" if self.counts is None or self.counts.is_plain else f" ({self.counts})"
        of_site = f" of {self.model.site!r}" if isinstance(self.model, observing) else ""
        return (
            f"Fit by {self.method.name}{of_site}: {self.kind}, {many} of {each}, {weights}, {self.outcome.status}{rows}"
        )

    @property
    def _chains_and_draws(self) -> tuple[int, int]:
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    def _mixture(self) -> Weights:
        """Return the draws of all chains, one after the other; see `chunks.mixture_of`."""
        return mixture_of(self.draws)

    @property
    def _predicting(self) -> Density:
        """Return the density that predicts: that of the model, or of the model linearised."""
        return Density(tangent(self.model), self.structure) if self.outcome.linearized_at else self.density

    @property
    def _linearized_at(self) -> Weights:
        """Return the weights around which the density that predicts is linearised, on the device."""
        return {site: jax.device_put(np.asarray(value)) for site, value in self.outcome.linearized_at.items()}

    def _checked(self, x: Any) -> Rows:
        rows = check_like(self.layout, x)
        check_indices(self.density, Data(rows))
        return copied(rows)


def check_fit(caller: str, fit: Any) -> None:
    """Raise TypeError unless the argument is a fit.

    Args:
        caller: the name of the calling function, for the message.
        fit: any object.

    Raises:
        TypeError: when the object is not a `Fit`.
    """
    if not isinstance(fit, Fit):
        raise TypeError(f"{caller}: expected a fit; got {fit!r}.")
