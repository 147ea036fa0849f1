"""Fits of one data set, held against the same rows."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..checks import as_rows
from ..predictive import Predictive
from ..result import Fit
from ..rows import Rows, count_rows
from ..status import no_failure_warnings
from .convergence import loo
from .scores import Forecast, mean, standard_error
from .table import Comparison, Entry, tabulate

UNITS = "{rows} rows. Log density in nats per row of the predictive distribution; se: standard error."
PARETO = "Estimated shape parameter"
"""How ArviZ's warning of a large Pareto k begins."""


def compare(
    fits: Mapping[str, Fit | Sequence[Fit]], x: Any, y: Any, *, training: tuple[Any, Any] | None = None
) -> Comparison:
    """Score fits on rows that none of them has seen.

    The table has a row a fit, the highest log density first; of fits that are equal, and of those whose log density is
    not finite, which come last, the first given is first:

    - ``elpd``: log p(y | x, data) of the predictive distribution, the mean over rows, in nats per row; its
      standard error in ``elpd_se``; ``bits`` is the same as a code length in bits per row, its negative / log 2.
    - ``elpd_diff``: elpd minus that of the best fit, and the standard error of this paired difference in
      ``dse``: rows that are hard are hard for all fits, so it is smaller than the errors of the two.
    - ``rmse`` of the predictive mean in units of y and ``coverage`` of the central 90% interval; or ``accuracy`` of the
      most probable class and ``brier``, the mean over rows of sum_k (p_k - [y = k])^2 (Brier 1950; from 0 to 2); or,
      where y is a row of tokens, ``bits_per_token``, which of characters is the bits per character.
    - ``calibration_error``: for classes the mean over 10 bins of equal count of |confidence - accuracy| of the most
      probable class (Naeini et al. 2015), for numbers the mean over nine central intervals, of 10% to 90%, of
      |coverage - probability|. Both are biased upwards by about 1 / sqrt(rows in a bin).
    - ``kind``, ``status``, ``seconds_compile`` and ``seconds_run`` of the fit.

    Several fits under one name, of one model by one method under several keys, are one row: every score is their mean,
    ``keys`` their number, and the status the worst. ``keys_se`` is the standard error over keys of the log density: how
    far the row would move with other keys. The other standard errors are over rows, of the mean over keys.

    With `training`, fits by Markov chains have ``elpd_loo`` as well, in nats per row, and its standard error
    ``elpd_loo_se``: the log density of each row of the fit, predicted from all other rows, by Pareto-smoothed
    importance sampling (`loo`). It estimates what ``elpd`` measures on rows that were held out.

    Args:
        fits: name -> a fit, or a list of fits of the same model by the same method under several keys. All have the
            same observed site, and score the same kind of y: densities and probabilities have no common scale.
        x: n rows.
        y: n rows.
        training: the rows (x, y) of the fits.

    Raises:
        TypeError: when there is no fit, or one is not a fit.
        ValueError: when x and y are not rows like those of the fits, or what the fits predict cannot be compared.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, MLE, compare, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> y = 2 * x[:, 0] + np.tile([0.5, 0.5, -0.5, -0.5], 5)
        >>> model = Model(MLP(), Normal(0.5), gaussian(0.5))
        >>> fits = {method: fit(model, method(), x[::2], y[::2], key=0) for method in (MLE, MAP)}
        >>> table = compare({method.__name__: found for method, found in fits.items()}, x[1::2], y[1::2]).to_dataframe()
        >>> print(table[["elpd", "elpd_diff", "rmse"]].round(3))
              elpd  elpd_diff   rmse
        MLE -0.711      0.000  0.493
        MAP -0.833     -0.121  0.551
    """
    keys = _as_lists(fits)
    x, y = as_rows("x", x), as_rows("y", y)
    held_out = None if training is None else _as_pair(training)
    with no_failure_warnings():
        predictives = {name: [fit.predict(x) for fit in members] for name, members in keys.items()}
    families = check_comparable(predictives)
    entries, notes = {}, list(families)
    for name, members in keys.items():
        forecasts = [Forecast.of(predictive, y) for predictive in predictives[name]]
        scores = [forecast.scores() for forecast in forecasts]
        entries[name] = Entry(
            np.stack([forecast.log_prob for forecast in forecasts]),
            {score: float(np.mean([each[score] for each in scores])) for score in scores[0]},
            members[0].kind,
            tuple(fit.status for fit in members),
            float(np.mean([fit.seconds.compile for fit in members])),
            float(np.mean([fit.seconds.run for fit in members])),
        )
        if held_out is not None and members[0].kind == "chain":
            left_out, worst = _leave_one_out(members, *held_out)
            entries[name].scores.update(left_out)
            notes.append(f"{name}: {worst}")
    if held_out is not None and not any(members[0].kind == "chain" for members in keys.values()):
        notes.append("LOO needs Markov chains, and none of the fits is one.")
    return tabulate(entries, [UNITS.format(rows=count_rows(x)), *notes])


def check_comparable(predictives: Mapping[str, Sequence[Predictive]]) -> list[str]:
    """Raise where fits do not score the same y on one scale; say where their observations differ in family."""
    responses = {name: each.response for name, members in predictives.items() for each in members}
    for (one, its), (other, theirs) in combinations(responses.items(), 2):
        if found := its.mismatch(theirs):
            raise ValueError(f"compare: {one!r} has {found[0]}, and {other!r} {found[1]}. {found[2]}")
    families: dict[str, list[str]] = {}
    for name, response in responses.items():
        families.setdefault(response.family, []).append(name)
    if len(families) == 1:
        return []
    return ["Observations: " + "; ".join(f"{family} ({', '.join(of)})" for family, of in families.items()) + "."]


def _as_lists(fits: Any) -> dict[str, list[Fit]]:
    """Name -> the fits of one row of the table."""
    if not isinstance(fits, Mapping) or not fits:
        raise TypeError(f"compare: expected a mapping from names to fits, such as {{'MLE': fit(...)}}; got {fits!r}.")
    lists = {name: list(each) if isinstance(each, list | tuple) else [each] for name, each in fits.items()}
    for name, members in lists.items():
        if not members or not all(isinstance(fit, Fit) for fit in members):
            raise TypeError(f"compare: expected {name!r} to be a fit, or a list of fits; got {fits[name]!r}.")
        for part in ("model", "method"):
            first, *others = (getattr(fit, part) for fit in members)
            for other in others:
                if other != first:
                    raise ValueError(
                        f"compare: expected the fits of {name!r} to be of one model by one method, under several keys; "
                        f"got {first!r} and {other!r}. Give different ones a name each."
                    )
    _check_layouts(lists)
    return lists


def _check_layouts(fits: Mapping[str, Sequence[Fit]]) -> None:
    for (one, its), (other, theirs) in combinations(((name, fit) for name in fits for fit in fits[name]), 2):
        try:
            its.layout.check(theirs.layout)
        except ValueError as error:
            raise ValueError(
                f"compare: {one!r} and {other!r} were fitted to different kinds of rows. {error}"
            ) from error


def _as_pair(training: Any) -> tuple[Rows, Rows]:
    if not isinstance(training, tuple | list) or len(training) != 2:
        raise TypeError(f"compare: expected training to be the rows of the fits, (x, y); got {training!r}.")
    return training[0], training[1]


def _leave_one_out(fits: Sequence[Fit], x: Rows, y: Rows) -> tuple[dict[str, float], str]:
    """The scores in nats per row, the mean over fits, and what Pareto's k says of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=PARETO)  # said below, with the rows
        found = [loo(fit, x, y) for fit in fits]
    rows = np.mean([each.elpd_i.values for each in found], axis=0)
    k = np.max([each.pareto_k.values for each in found], axis=0)
    limit = min(each.good_k for each in found)
    scores = {"elpd_loo": mean(rows), "elpd_loo_se": standard_error(rows)}
    worst = f"Pareto's k is {k.max():.2f} at worst, in row {k.argmax()} of the fit"
    if (k > limit).any():
        worst += f", and above {limit:.2f} in {(k > limit).sum()} of {len(k)} rows: LOO is not to be relied on there"
    return scores, f"{worst}."
