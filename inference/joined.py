"""Fits that ran apart, as one: the chains, or members of ensembles, of independent jobs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from .blocks import Seconds
from .density import Density
from .fingerprint import same_log_density
from .method import Outcome
from .methods import MCLMC, NUTS, SGMCMC
from .methods.chains import status_of
from .methods.scales import prior_conflict_of_chains
from .reasons import Code
from .rows import Data
from .saved import Parts, SavedMethod, as_saved, first_draw, probe
from .status import Status

CHAINS = {"NUTS": NUTS, "MCLMC": MCLMC, "SGMCMC": SGMCMC}
"""The methods of chains by name."""
NUMBERS = {**dict.fromkeys(CHAINS, "num_chains"), "Ensemble": "num_members"}
"""The methods whose fits can be joined, and the setting that is then the sum of all."""
OF_FITS = (Code.COLD_START, Code.COARSE_DRAWS, Code.IMPROPER_POSTERIOR)
"""The reasons of chains that are not those of all draws together."""
REFUSED = {
    "point": "A point is one set of weights, and several are no posterior: take the fit with the highest log density, "
    "or fit once with num_restarts.",
    "prior": "Its draws are independent: fit once with a larger num_samples.",
    "approximation": "Its draws are those of one distribution around a point of its own: fit once with a larger "
    "num_samples.",
}
"""The reasons why fits of other kinds are not joined."""


def joined[P: Parts](fits: Sequence[P], data: Data, rows: str, weights: str | None) -> P:
    """Return fits as one.

    Args:
        fits: the fits.
        data: the rows of the fits.
        rows: the digest of these rows.
        weights: the digest of their weights, if they have any.

    Raises:
        ValueError: when they are not fits of one model to these rows by one method, under different keys.
    """
    first, *others = fits
    number = _check_method(fits)
    for fit in fits:
        if (fit.rows, fit.weights) != (rows, weights):
            raise ValueError("join: expected the rows and weights that all of the fits have seen; got other ones.")
    for other in others:
        _check_density(first, other)
    _check_keys(fits)
    outcomes = [fit.outcome for fit in fits]
    shapes = [next(iter(outcome.draws.values())).shape[:2] for outcome in outcomes]
    is_chain = first.method.draws_chains
    if is_chain and len({draws for _, draws in shapes}) > 1:
        raise ValueError(
            f"join: expected chains of one length; got {[draws for _, draws in shapes]} draws. Continue the shorter "
            f"ones by fit(..., resume=folder), or leave them out."
        )
    axis = 0 if is_chain else 1
    draws = {site: np.concatenate([each.draws[site] for each in outcomes], axis) for site in outcomes[0].draws}
    sample_stats = {
        name: np.concatenate([each.sample_stats[name] for each in outcomes]) for name in outcomes[0].sample_stats
    }
    method = _with_number(first.method, number, sum(_settings(fit.method)[number] for fit in fits))
    if is_chain:
        data = data.in_memory("join").on_device()
        status = _status_of_chains(method, first.density, draws, sample_stats, data, _labelled(outcomes))
    else:
        status = sum(_labelled(outcomes), start=Status())
    return replace(
        first,
        method=method,
        outcome=Outcome(draws, status, sample_stats, _joined_stats(outcomes)),
        seconds=Seconds(sum(fit.seconds.compile for fit in fits), sum(fit.seconds.run for fit in fits)),
        keys=tuple(key for fit in fits for key in fit.keys),
    )


def _check_method(fits: Sequence[Parts]) -> str:
    """Return the name of the setting that is the sum of all; raise unless the fits are by one method that has it."""
    names = [fit.method.name for fit in fits]
    for fit in fits:
        if fit.method.name not in NUMBERS:
            raise ValueError(
                f"join: expected fits by {', '.join(NUMBERS)}; got {fit.method.name}. {REFUSED[fit.method.kind]}"
            )
    number = NUMBERS[names[0]]
    words = []
    for fit in fits:
        method = as_saved(fit.method)
        words.append({**method.digests, "method": re.sub(rf"\b{number}=\d+", f"{number}=...", method.words)})
    for other in words[1:]:
        for name in dict.fromkeys([*words[0], *other]):
            if words[0].get(name) != other.get(name):
                raise ValueError(
                    f"join: expected fits by one method, apart from {number}; the {name} differs: "
                    f"{words[0].get(name)} and {other.get(name)}."
                )
    return number


def _check_density(first: Parts, other: Parts) -> None:
    """Raise unless two fits are of one model, by its sites and its densities at a draw."""
    one, two = first.density, other.density
    if one == two:
        return
    if first.layout == other.layout and one.structure.sites == two.structure.sites:
        weights = first_draw(first.outcome.draws)
        y, at_first = probe(one.model, one.structure, first.layout, weights)
        _, at_other = probe(two.model, two.structure, first.layout, weights, y)
        if all(same_log_density(at_first[site], at_other[site]) for site in at_first):
            return
    raise ValueError(f"join: expected fits of one model; got {one.model} and {two.model}.")


def _check_keys(fits: Sequence[Parts]) -> None:
    """Raise unless all keys are known and differ."""
    for fit in fits:
        if not fit.keys:
            raise ValueError("join: expected fits that know their keys; got one from a file of an earlier release.")
    for (i, one), (j, other) in combinations(enumerate(fits), 2):
        if equal := set(one.keys) & set(other.keys):
            raise ValueError(
                f"join: expected fits under different keys; fits {i} and {j} have the key {min(equal)}: their draws "
                f"are the same, and would count twice."
            )


def _status_of_chains(
    method: Any,
    density: Density,
    draws: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    data: Data,
    of_fits: Sequence[Status],
) -> Status:
    """Return the status of all chains by their draws, with what the statuses of the fits say beyond these."""
    settings = _runnable(method)
    kept = [[reason for reason in status.failures if reason.code in OF_FITS] for status in of_fits]
    warnings = [reason for status in of_fits for reason in status.warnings if reason.code in OF_FITS]
    status = Status(tuple(next((reasons for reasons in kept if reasons), ())), tuple(warnings))
    status += status_of(settings, stats, np.zeros(len(stats["lp"]), bool))
    if status and not density.structure.is_flat:
        status += Status(warnings=prior_conflict_of_chains(density, draws, data))
    return status + settings.judged(density, draws, stats, data)


def _labelled(outcomes: Sequence[Outcome]) -> list[Status]:
    return [outcome.status.within(f"In fit {i}") for i, outcome in enumerate(outcomes)]


def _joined_stats(outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
    """Return the other statistics of all; losses of runs that ended earlier are filled up with NaN."""
    stats = {}
    for name in outcomes[0].stats:
        each = [np.asarray(outcome.stats[name]) for outcome in outcomes if name in outcome.stats]
        if len(each) < len(outcomes):
            continue
        if each[0].ndim == 0:
            stats[name] = each[0]
            continue
        length = max(value.shape[-1] for value in each)
        if each[0].ndim > 1:
            each = [np.pad(v, ((0, 0), (0, length - v.shape[-1])), constant_values=np.nan) for v in each]
        stats[name] = np.concatenate(each)
    return stats


def _settings(method: Any) -> Mapping[str, Any]:
    return as_saved(method).settings


def _with_number(method: Any, number: str, value: int) -> Any:
    """Return a method with another number of chains or members."""
    if not isinstance(method, SavedMethod):
        return replace(method, **{number: value})
    words = re.sub(rf"\b{number}=\d+", f"{number}={value}", method.words)
    return replace(method, words=words, settings={**method.settings, number: value})


def _runnable(method: Any) -> NUTS | MCLMC | SGMCMC:
    """Return the method of chains with the settings on which their status depends, which are numbers."""
    if not isinstance(method, SavedMethod):
        return method
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in method.settings.items()}
    return CHAINS[method.name](**settings)
