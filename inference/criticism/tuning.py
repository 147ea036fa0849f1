"""Tuning: scales of priors, and other positive numbers of a model, from the data."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from numpyro.distributions import biject_to
from tqdm import tqdm

from ..checks import as_key, check_problem
from ..density import Density
from ..distributions import of_one_value
from ..handlers import given
from ..labels import with_gaps
from ..method import Kind, Method, Outcome
from ..methods.conditional import run_given
from ..methods.evidence import Evidence
from ..methods.laplace import Laplace
from ..methods.nuts import NUTS
from ..methods.point import MAP
from ..reasons import Code, Reason
from ..report import Printed, Report
from ..rows import Data
from ..run import fit
from ..sites import NumPyroModel
from ..start import starting_weights
from ..status import Status, no_failure_warnings
from ..store import Store
from .left_out import leave_one_out
from .scores import mean, standard_error
from .search import EDGE, REACH, Score, Search

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

By = Literal["evidence", "held-out", "loo"]
"""What is maximised."""

SCORES = {"evidence": "log evidence", "held-out": "held-out elpd", "loo": "LOO"}
"""The headings of scores."""


@dataclass(frozen=True, eq=False, repr=False)
class Tuned(Printed):
    """A model with the values that its data suggest; see `tune`. Prints as the curve of the scores."""

    model: NumPyroModel
    """The model given the values: the tuned sites are numbers in it, and it can be fitted by any method."""
    values: Mapping[str, float]
    """The values by site."""
    score: float
    """The score at these values: the log evidence in nats, or a log predictive density in nats per row."""
    by: By
    """What has been maximised."""
    curve: "pd.DataFrame"
    """One row per evaluation, by increasing values: a column for each site, score, its standard error, status."""
    status: Status
    """Whether the values can be relied on."""
    note: str = ""
    """What has to be known about the score at the values, such as Pareto's k of LOO."""

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the curve, unrounded."""
        return self.curve.copy()

    @property
    def _report(self) -> Report:
        first, *others = self.values
        as_printed = self.curve[list(self.values)].map("{:.4g}".format)
        best_first = self.curve["score"].sort_values(ascending=False).index
        shown = as_printed.loc[best_first].drop_duplicates().index.sort_values()  # the best of values that look equal
        table = self.curve.loc[shown].set_index(first)
        table.index = table.index.map("{:.4g}".format)
        numbers = {"score": (SCORES[self.by], "{:.4f}"), "se": ("se", "{:.4f}")}
        columns = {**{site: (site, "{:.4g}") for site in others}, **numbers, "status": ("status", "{}")}
        values = ", ".join(f"{site} = {value:.4g}" for site, value in self.values.items())
        unit = "nats" if self.by == "evidence" else "nats per row"
        note = (
            f"Empirical Bayes: {values}, with the highest {SCORES[self.by]}, {self.score:.4f} {unit}. In `model` these "
            f"are numbers: fits of it leave out their uncertainty."
        )
        notes = [note, *([self.note] if self.note else []), *map(str, self.status.reasons)]
        return Report(table, columns, notes)


def tune(
    model: NumPyroModel,
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    by: By = "evidence",
    sites: Sequence[str] | None = None,
    method: Method | None = None,
    held_out: float = 0.2,
    key: Any,
    progress: bool = True,
) -> Tuned:
    """Return the model with the values of some sites that suit the data best: empirical Bayes.

    The sites are scales of priors or other positive numbers, such as a learned scale of y. Their own priors do not
    count: they give only the range of possible values, and the place where the search begins, their means. By what
    they are chosen:

    - ``"evidence"``: log p(y | x, values), by Laplace's approximation (MacKay 1992; type-II maximum likelihood). All
      sites move along its gradient (see `Evidence`), from the best of seven common multiples of the starting values, a
      thirtieth to 30. It uses all rows, and is as good as the Gaussian approximation: exact for linear models.
    - ``"held-out"``: the log predictive density of a random share of the rows, by fits to the others.
    - ``"loo"``: the leave-one-out log predictive density, by Pareto-smoothed importance sampling (`loo`), from fits by
      chains to all rows.

    By the latter two one number is sought, a common multiple of the starting values of all sites; every value has the
    same rows and the same key. Their scores have a standard error, ``se``: values whose scores are within it cannot be
    told apart.

    The values are used as if they were known. The same rows have chosen them, so the score at the best values is too
    good as an estimate for new rows, the more so the more values are tuned. Chains can sample the sites instead.

    Args:
        model: a NumPyro model, with scales of priors that are distributions, such as ``gaussian(HalfNormal(1.0))``.
        x: n rows, as for `fit`.
        y: n rows, as for `fit`.
        weights: the weight of each row, (n,), as for `fit`.
        by: what is maximised.
        sites: the sites that are tuned, one positive number each; by default those on which only priors depend, which
            have ``infer["of_prior"]``, such as ``prior_scale``.
        method: the method of the fits: `Laplace` for the evidence (by default ``Laplace()``, whose base and curvature
            count), any for held-out rows (``MAP()``), one of chains for LOO (``NUTS()``).
        held_out: the share of rows that are held out.
        key: a typed JAX key or an integer seed, for the split and the fits.
        progress: show a progress bar.

    Returns:
        The model with these values, the values, and the curve.

    Raises:
        TypeError, ValueError: when data, model or settings are invalid, or the model has no such sites.

    Example:
        >>> import numpy as np
        >>> import numpyro.distributions as dist
        >>> from flatprior.inference import tune
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x, y = np.array([[1.0], [-1.0]]), np.array([3.0, -3.0])  # given s, the slope is Normal(3, s^2 + 1/2)
        >>> prior = {"w1": gaussian(dist.HalfNormal(1.0)), "b1": gaussian(1.0)}
        >>> tuned = tune(Model(MLP(), Normal(1.0), prior), x, y, key=0, progress=False)
        >>> print({site: round(value, 3) for site, value in tuned.values.items()})  # the root of 3^2 - 1/2
        {'prior_scale[w1]': 2.915}
    """
    density, data = check_problem(model, x, y, weights, caller="tune")
    names, chosen = _check_settings(density, data, by, sites, method, held_out)
    key_split, key_fit = jax.random.split(as_key(key))
    start, low, high = _ranges(density, data, names)
    with _bar(progress) as count:
        if by == "evidence":
            evidence = Evidence(density, data, names, chosen, np.exp(start), key=key_fit, progress=progress)
            search = Search(
                names, start, low, high, count, lambda logs: _by_evidence(evidence, logs), data.num_rows, per_row=False
            )
            search.along_gradient()
        else:
            fitted, scored = _parts(data, held_out if by == "held-out" else 0.0, key_split)
            predicted = _Predicted(model, chosen, names, fitted, scored, key=key_fit)
            num_scored = (scored or fitted).num_rows
            search = Search(names, start, low, high, count, predicted, num_scored, per_row=True)
            search.by_multiples()
    logs, best = search.tried[search.best]
    values = dict(zip(names, np.exp(logs).tolist(), strict=True))
    curve, tuned = search.curve(), given(model, tuple(values.items()))
    return Tuned(tuned, values, best.value, by, curve, search.status, search.note)


def _by_evidence(evidence: Evidence, logs: Float[np.ndarray, " k"]) -> Score:
    if not evidence.status:
        return Score(-math.inf, math.nan, evidence.status, np.zeros(len(logs)))
    at = evidence.at(logs)
    finite = math.isfinite(at.log_evidence)
    status = Status() if at.is_exact else Status(warnings=(Reason.of(Code.NOT_AT_MODE, gain=at.decrement),))
    gradient = at.gradient if finite else np.zeros(len(logs))
    return Score(at.log_evidence if finite else -math.inf, math.nan, status, gradient)


@dataclass(frozen=True)
class _Predicted:
    """The log predictive density of rows, by fits that are given values of some sites."""

    model: NumPyroModel
    method: Method
    sites: tuple[str, ...]
    fitted: Data
    scored: Data | None
    """The rows that are held out; None is leave-one-out."""
    key: Array = field(kw_only=True)

    def __call__(self, logs: Float[np.ndarray, " k"]) -> Score:
        values = tuple(zip(self.sites, np.exp(logs).tolist(), strict=True))
        method: Any = _Given(self.method, values)  # its kind is that of another method, and so no class variable
        rows = self.fitted.x, self.fitted.y
        result = fit(self.model, method, *rows, weights=self.fitted.weights, key=self.key, progress=False)
        if result.status.is_interrupted:
            raise KeyboardInterrupt
        with no_failure_warnings():
            if self.scored is None:
                scores, note = leave_one_out([result], *rows, self.fitted.weights)
                value, se = scores["elpd_loo"], scores["elpd_loo_se"]
            else:
                log_probs = result.predict(self.scored.x).log_prob(self.scored.y)
                value, se = (summary(log_probs, self.scored.weights) for summary in (mean, standard_error))
                note = ""
        return Score(value if math.isfinite(value) else -math.inf, se, result.status, np.empty(0), note)


@dataclass(frozen=True)
class _Given:
    """A method for the other sites, given values of some."""

    method: Method
    values: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def kind(self) -> Kind:
        return self.method.kind

    @property
    def draws_chains(self) -> bool:
        return self.method.draws_chains

    @property
    def leaves_out(self) -> str:
        return self.method.leaves_out

    @property
    def streams(self) -> bool:
        """Whether rows may stay on disk; see `Method.streams`."""
        return False

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`."""
        data = replace(data, fixed={site: jnp.asarray(value, float) for site, value in self.values})
        return run_given(self.method, density, data, key=key, progress=progress, store=store)


def _check_settings(
    density: Density, data: Data, by: Any, sites: Any, method: Any, held_out: Any
) -> tuple[tuple[str, ...], Any]:
    """Return the sites that are tuned, and the method; raise where a setting is invalid."""
    if by not in get_args(By):
        raise ValueError(f"tune: expected by='evidence', 'held-out' or 'loo'; got {by!r}.")
    if sites is not None and (isinstance(sites, str) or not all(isinstance(site, str) for site in sites)):
        raise TypeError(f"tune: expected a list of names as sites; got {sites!r}.")
    latents = list(density.structure.latents)
    names = tuple(site for site in latents if site in (density.structure.of_prior if sites is None else sites))
    unknown = sorted(set(sites or ()) - set(latents))
    if unknown or not names:
        cure = "Give a scale a prior, such as gaussian(HalfNormal(1.0)), or name positive sites of the model."
        got = f"{unknown}, and the sites are {latents}" if unknown else f"none among {latents}"
        raise ValueError(f"tune: expected sites of the model that can be tuned; got {got}. {cure}")
    if len(names) == len(latents):
        raise ValueError(f"tune: expected sites that leave others to be fitted; got all of them, {latents}.")
    if method is None:
        method = {"evidence": Laplace, "held-out": MAP, "loo": NUTS}[by]()
    if isinstance(method, type) or not callable(getattr(method, "run", None)):
        raise TypeError(f"tune: expected a method such as MAP() or NUTS(); got {method!r}.")
    if by == "evidence" and not isinstance(method, Laplace):
        raise TypeError(f"tune: expected Laplace(...) as the method for by='evidence'; got {method!r}.")
    if by == "loo" and method.kind != "chain":
        raise TypeError(f"tune: expected a method of chains, NUTS() or MCLMC(), for by='loo'; got {method!r}.")
    count = round(held_out * data.num_rows) if isinstance(held_out, float) else 0
    if by == "held-out" and not 0 < count < data.num_rows:
        raise ValueError(
            f"tune: expected held_out, the share of rows that are held out, between 0 and 1, with a row on each side; "
            f"got {held_out!r} of {data.num_rows} rows."
        )
    return names, method


def _ranges(density: Density, data: Data, sites: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the logs of the starting values, and the ends of their ranges, each (k,)."""
    row = data.take(np.arange(1))
    priors = density.priors(starting_weights(density, row, jax.random.key(0)), row)
    starts, lows, highs = [], [], []
    for site in sites:
        support = of_one_value(priors[site].support)
        least = getattr(support, "lower_bound", None)
        if density.structure.latents[site] != () or not (isinstance(least, int | float) and least >= 0):
            raise ValueError(
                f"tune: expected {site!r} to be one positive number; it has shape {density.structure.latents[site]} "
                f"on {support}."
            )
        try:
            start = float(priors[site].mean)
        except NotImplementedError:
            start = math.nan
        start = math.log(start if math.isfinite(start) and start > 0 else float(biject_to(support)(0.0)))
        starts.append(start)
        lows.append(max(start - REACH, math.log(least) + EDGE if least else -math.inf))
        highs.append(min(start + REACH, math.log(getattr(support, "upper_bound", math.inf)) - EDGE))
    return np.array(starts), np.array(lows), np.array(highs)


def _parts(data: Data, share: float, key: Array) -> tuple[Data, Data | None]:
    """Return the rows that are fitted, and those that are held out, if any; values of y that are missing are NaN."""
    rows = replace(data, y=with_gaps(data.y, data.known), known=None)
    if not share:
        return rows, None
    order = np.asarray(jax.random.permutation(key, data.num_rows))
    held = round(share * data.num_rows)
    return rows.take(np.sort(order[held:])), rows.take(np.sort(order[:held]))


@contextmanager
def _bar(progress: bool) -> Iterator[Callable[[], None]]:
    """A progress bar that counts evaluations."""
    with tqdm(desc="values", disable=not progress, delay=1.0, file=sys.stderr, leave=False) as bar:
        yield lambda: bar.update() and None
