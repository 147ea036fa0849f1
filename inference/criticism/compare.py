"""Comparison of fits on the same rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ..methods.gaussian import MAX_PARETO_K
from ..predictive import Predictive
from ..response import Response
from ..result import Fit
from ..several import pairs_of
from ..status import no_failure_warnings
from .distance import Reference, check_reference
from .left_out import leave_one_out
from .rows import ScoredRows
from .scores import OF, Forecast
from .table import Comparison, Entry, tabulate

UNITS = "{rows} rows. elpd: log predictive density, nats per row; se and dse: standard errors of elpd and elpd_diff."
SEEN = "Fitted to these rows: {names}. On rows that a fit has not seen its elpd is usually lower."
"""The note on fits that are scored on their own rows."""
UNSEEN = "{name} was fitted to no row of class {classes}, which y has here: only its prior informs their probabilities."
"""The note on classes that a fit has not seen."""
LINEARIZED = (
    "{name} predicts by the model linearised at its mode. Its Gaussian stands for the posterior of that model, not of "
    "the model itself, for which Pareto's k is {k:.3g}, above 0.7."
)
"""The note on draws that do not stand for the posterior of the model itself."""


def compare(
    fits: Mapping[str, Fit | Sequence[Fit]],
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    x_train: Any = None,
    y_train: Any = None,
    weights_train: Any = None,
    reference: Fit | None = None,
) -> Comparison:
    """Score fits on rows that none of them has seen.

    The table has one row per fit, the highest elpd first; fits whose elpd is not finite come last, and ties stay in the
    given order:

    - ``elpd``: the log predictive density, log p(y | x, data), the mean over rows, in nats per row; its standard error
      is ``elpd_se``; ``bits`` is the same as a code length in bits per row, -elpd / log 2.
    - ``elpd_diff``: elpd minus that of the best fit, and ``dse``, the standard error of this paired difference: rows
      that are hard are hard for all fits, so it is smaller than the errors of the two.
    - of numbers and counts ``rmse`` of the predictive mean and ``crps``, the continuous ranked probability score, in
      units of y (`Predictive.crps`), and ``coverage`` of the central 90% interval: the share of the transforms of y
      (`Predictive.pit`) between 5% and 95%, which for right predictions is 90% also where y is discrete or censored.
      For vectors these are means over rows and elements; a y that may be censored has only the coverage.
    - of classes ``accuracy`` of the most probable class and ``brier``, the mean over rows of sum_k (p_k - [y = k])^2
      (Brier 1950; from 0 to 2), and if they are ordered ``rps``, the ranked probability score, the mean over rows of
      sum_k (P(Y <= k) - [y <= k])^2 (Epstein 1969; from 0 to K - 1).
    - of rows of tokens ``bits_per_token`` (for characters, bits per character).
    - ``calibration_error``: for classes the mean over 10 bins of equal count of |confidence - accuracy| of the most
      probable class (Naeini et al. 2015), for others the mean over nine central intervals, of 10% to 90%, of
      |coverage - probability|. Both are biased upwards by about 1 / sqrt(rows per bin).
    - ``kind``, ``status``, ``seconds_compile`` and ``seconds_run`` of the fit.

    Where a row of y has values of several observed sites, elpd is that of whole rows, and each other score, and the
    elpd of the site, is that of one site, as in ``rmse of price``; the printed table has a part of them. All that is
    said here of fits is to be had for one site by ``compare({"MAP": result["price"]}, x, y["price"])``.

    Several fits under one name, of one model by one method under several keys, are one row: every score is their mean,
    ``keys`` their number, and the status the worst. ``keys_se`` is the standard error of elpd over keys: how far it
    would change with other keys. The other standard errors are over rows, of the mean over keys.

    With `x_train` and `y_train`, fits by Markov chains also have ``elpd_loo``, in nats per row, and its standard error
    ``elpd_loo_se``: the log predictive density of each training row given all others, by Pareto-smoothed importance
    sampling (`loo`). It estimates, from the training rows, what ``elpd`` measures on new rows.

    With a `reference`, such as long chains on the same model, all other fits also have their distance from its
    predictive distribution at the rows of x, the mean over rows, with standard errors over rows in ``..._se``:

    - of classes ``agreement``, how often the most probable class is the same, and ``total_variation``, the mean of
      1/2 sum_k |p_k - q_k|, from 0 to 1 (Izmailov et al. 2021, section 4.3); of rows of tokens the same of each token;
    - of numbers ``w2``, the Wasserstein-2 distance between the two predictive distributions of y (Wilson et al. 2022),
      ``w2_mean``, that between the distributions of E[y | x, w] over draws, both in units of y, and ``spread``, the
      ratio of the standard deviations of E[y | x, w] over draws, fit to reference, of their mean squares: 0 for a
      point, which has no uncertainty about the function. Of counts the last two; of vectors the mean over elements.

    The same distances between two halves of the reference, by its chains, are in a note, and in ``Comparison.floor``:
    what is smaller cannot be told from the noise of the reference. The halves have half its draws, so that the noise
    in the distance of a point from all of it is about half of this. How far a fit is from the reference says nothing
    about which of them predicts better, which elpd shows.

    With a reference, notes state what each approximation leaves out of the posterior, `Fit.leaves_out`.

    Notes name the fits that were fitted to x and y themselves, since rows that a fit has seen do not measure its
    predictions, the classes of y that none of the rows of a fit had, and the fits by `Laplace` whose Gaussian stands
    for the posterior of the linearised model alone.

    Args:
        fits: name -> a fit, or a list of fits of the same model by the same method under several keys. All have the
            same observed sites, and score the same kind of y: densities and probabilities have no common scale.
        x: n rows. Of arrays that are sharded over processes each process predicts its own rows; then all have the
            scores of all rows, which takes the memory of the predictions and not of x. Every process must call it.
        y: n rows. Rows without y, by NaN or a mask, are left out, and counted in a note.
        weights: the weight of each row, (n,): a row of weight w counts as w equal rows in all scores and their standard
            errors.
        x_train: the training rows of the fits.
        y_train: the training rows of the fits.
        weights_train: the weights of the training rows, where they were fitted with weights.
        reference: a fit with draws from the posterior; it may be one of the fits, whose distance from itself is blank.

    Returns:
        The table of scores.

    Raises:
        TypeError: when there is no fit, one is not a fit, or only one of `x_train` and `y_train` is given.
        ValueError: when x and y are not rows like those of the fits, the predictions are not comparable, `x_train` and
            `y_train` are not the rows of a fit by Markov chains, or the reference has no draws from a posterior, or no
            distances: a y that is neither a class nor has a mean.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, MLE, compare, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> y = 2 * x[:, 0] + np.tile([0.5, 0.5, -0.5, -0.5], 5)
        >>> model = Model(MLP(), Normal(0.5), gaussian(0.5))
        >>> fits = {method: fit(model, method(), x[::2], y[::2], key=0) for method in (MLE, MAP)}
        >>> table = compare({method.__name__: one for method, one in fits.items()}, x[1::2], y[1::2]).to_dataframe()
        >>> print(table[["elpd", "elpd_diff", "rmse"]].round(3))
              elpd  elpd_diff   rmse
        MLE -0.711      0.000  0.493
        MAP -0.833     -0.121  0.551
    """
    lists = _as_lists(fits)
    rows = ScoredRows.of(x, y, weights)
    x, y, row_weights = rows.x, rows.y, rows.weights
    if (x_train is None) != (y_train is None):
        raise TypeError("compare: expected x_train and y_train, the rows of the fits, together; got only one of them.")
    if x_train is not None:
        _check_train(lists, x_train, y_train, weights_train)
    if reference is not None:
        check_reference(reference)
        _check_layouts({**lists, "reference": [reference]})
    with no_failure_warnings():
        predictives = {name: [fit.predict(x) for fit in members] for name, members in lists.items()}
    responses = {name: each.response for name, members in predictives.items() for each in members}
    families = check_comparable("compare", responses)
    if reference is not None:
        check_comparable("compare", {**responses, "reference": reference.structure.response})
    entries, notes = {}, list(families)
    for name, members in lists.items():
        own = [replace(Forecast.of(predictive, y), weights=row_weights) for predictive in predictives[name]]
        forecasts = [rows.of_all(forecast) for forecast in own]
        scores = [forecast.scores() for forecast in forecasts]
        entries[name] = Entry(
            np.stack([forecast.log_prob for forecast in forecasts]),
            {score: float(np.mean([each[score] for each in scores])) for score in scores[0]},
            members[0].kind,
            tuple(fit.status for fit in members),
            float(np.mean([fit.seconds.compile for fit in members])),
            float(np.mean([fit.seconds.run for fit in members])),
        )
        if x_train is not None and members[0].kind == "chain":
            left_out, worst = leave_one_out(members, x_train, y_train, weights_train)
            entries[name].scores.update(left_out)
            notes.append(f"{name}: {worst}")
    floor = _add_distances(entries, lists, predictives, reference, rows, notes)
    notes += _seen(lists, rows.digest) + _unseen(lists, rows) + _linearized(lists)
    if x_train is not None and not any(members[0].kind == "chain" for members in lists.values()):
        notes.append("LOO needs Markov chains, and none of the fits has them.")
    notes = [UNITS.format(rows=rows.counts.rows), *rows.counts.notes, *notes]
    return tabulate(entries, notes, forecasts[0].weights, floor)


def _add_distances(
    entries: Mapping[str, Entry],
    lists: Mapping[str, Sequence[Fit]],
    predictives: Mapping[str, Sequence[Predictive]],
    reference: Fit | None,
    rows: ScoredRows,
    notes: list[str],
) -> Mapping[str, float]:
    """Add the distance of each fit from a reference, if there is one, and notes; return that of its own halves."""
    if reference is None:
        return {}
    with no_failure_warnings():
        measured = Reference(reference, rows)
    for name, entry in entries.items():
        if all(fit is not reference for fit in lists[name]):
            entry.scores.update(measured.scores(predictives[name]))
    notes += measured.notes
    notes += [f"{name}: {fits[0].leaves_out}" for name, fits in lists.items() if fits[0].leaves_out]
    return measured.floor


def check_comparable(caller: str, responses: Mapping[str, Response]) -> list[str]:
    """Raise if fits do not score the same y on one scale; return a note if their observations differ in family."""
    for (one, its), (other, theirs) in combinations(responses.items(), 2):
        for part, counterpart in pairs_of(its, theirs):
            if mismatch := part.mismatch(counterpart):
                at = f" at {part.site!r}" if part is not its else ""
                raise ValueError(f"{caller}: {one!r} has {mismatch[0]}{at}, and {other!r} {mismatch[1]}. {mismatch[2]}")
    families: dict[str, list[str]] = {}
    for name, response in responses.items():
        families.setdefault(response.family, []).append(name)
    if len(families) == 1:
        return []
    return ["Observations: " + "; ".join(f"{family} ({', '.join(names)})" for family, names in families.items()) + "."]


def _as_lists(fits: Any) -> dict[str, list[Fit]]:
    """Return name -> the fits of one row of the table."""
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
                        f"got {first!r} and {other!r}. Give each its own name."
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


def _seen(lists: Mapping[str, Sequence[Fit]], rows: str) -> list[str]:
    """Return a note if the rows of the comparison, given by their digest, are those that some fits were fitted to."""
    names = [name for name, members in lists.items() if any(fit.rows == rows for fit in members)]
    return [SEEN.format(names=", ".join(names))] if names else []


def _unseen(lists: Mapping[str, Sequence[Fit]], scored: ScoredRows) -> list[str]:
    """Return a note for each fit whose rows lack a class of y."""
    first, notes = next(iter(lists.values()))[0].structure, []  # all fits have the same classes
    for _, response, rows in first.by_site(scored.y):
        absent = scored.absent_classes(response, rows)
        of_site = f"{OF}{response.site}" if len(first.responses) > 1 else ""
        for name, members in lists.items():
            lacking = sorted(set(members[0][response.site].absent) - absent)
            if lacking:
                shown = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
                notes.append(UNSEEN.format(name=name, classes=shown + of_site))
    return notes


def _linearized(lists: Mapping[str, Sequence[Fit]]) -> list[str]:
    """Return a note for each fit whose draws predict by the linearised model, and not by the model itself."""
    largest = {name: max(float(f.stats.get("pareto_k", 0.0)) for f in members) for name, members in lists.items()}
    names = [name for name, members in lists.items() if any(fit.outcome.linearized_at for fit in members)]
    return [LINEARIZED.format(name=name, k=largest[name]) for name in names if not largest[name] <= MAX_PARETO_K]


def _check_train(lists: Mapping[str, Sequence[Fit]], x: Any, y: Any, weights: Any) -> None:
    """Raise ValueError where rows are not those of the fits by Markov chains."""
    for name, members in lists.items():
        if any(fit.kind == "chain" and fit.was_fitted_to(x, y, weights) is False for fit in members):
            raise ValueError(
                f"compare: expected x_train and y_train to be the rows of the fits, in the order in which they were "
                f"fitted; {name!r} was fitted to others."
            )
