"""Convergence of chains, judged by the predictions of a network and not by its weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import logsumexp

from ..arrays import as_rows
from ..checks import check_labels, check_like
from ..density import log_density
from ..kept import widened
from ..methods.nuts import MIN_BFMI
from ..reasons import Code, Reason
from ..report import Report, columns_of
from ..result import Fit, check_fit
from ..rows import Data, Rows, Weights, count_rows, take_rows
from .scores import OF

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd
    from xarray import DataTree

NUM_PROBES = 50
"""The number of rows whose predictions are judged, evenly spread over those given."""
MAX_RHAT = 1.01
"""R-hat above which chains disagree (Vehtari et al. 2021)."""
MAX_NESTED_RHAT = 1.05
"""The same between groups of chains: at this limit a group is worth ten independent draws, 1 / (R-hat^2 - 1)."""
MIN_ESS = 100
"""Effective draws per chain below which estimates are imprecise (Vehtari et al. 2021, section 4)."""
MANY_CHAINS = 8
"""Chains are judged in groups if there are at least this many, each with fewer than `LONG` draws."""
LONG = 1000
MAX_TREE_CAPS = 0.05
"""The share of a chain's trajectories cut short by the tree cap above which `diagnose` reports them, as they slow down
mixing. The status of the fit reports them only where they are most of the trajectories and the draws show the harm."""
MIN_MOVED = 0.5
"""The share of draws that differ from the one before, below which a chain hardly moves."""
MEANINGFUL, EXCHANGEABLE = "weights", "exchangeable weights"
"""The rows of the weights in the table: those that are judged, and those of units that can be exchanged."""
ROUNDING = 1e-3
"""Relative difference of log densities that should be equal."""
NO_CHAINS = {"point": "one point", "approximation": "an approximation", "prior": "from the prior"}
"""Kind of fit -> its draws, where they are not Markov chains."""
GIVEN = (
    "These chains draw some sites given the others at one point. What is judged is their convergence to that "
    "conditional posterior, not its difference from the posterior of all sites."
)
BIASED = (
    "What is judged is the convergence of these chains to what they draw from, not its difference from the posterior."
)
"""The notes on chains whose draws are an approximation."""


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """The convergence of the chains of a fit; see `diagnose`. Prints as a table."""

    table: "pd.DataFrame"
    """One row per kind of quantity: their number, the largest R-hat, the smallest bulk and tail ESS."""
    chains: "pd.DataFrame"
    """One row per chain: log density, step size, share of draws that differ from the one before, energy diagnostics,
    and if y is given the log predictive density of these rows under that chain alone, in nats per row."""
    predictions: "DataTree"
    """The predictions at the probe rows for ArviZ: `arviz.plot_trace_dist`, `arviz.plot_rank` and the others."""
    log10_num_modes: float
    """The log10 of the number of weights, at least, with the same predictions as any given ones; see `diagnose`. 0 if
    the model does not name its hidden units: the symmetries of lifted modules are unknown."""
    findings: tuple[str, ...]
    """The failed checks, in words."""
    notes: tuple[str, ...]
    """The notes below the table, the findings first."""

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return not self.findings

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the table, unrounded: one row per kind of quantity; `chains` has one row per chain."""
        return self.table.copy()

    def __str__(self) -> str:
        return str(_report(self.table, self.notes))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return _report(self.table, ()).html() + _report(self.chains, self.notes).html()


def _report(table: "pd.DataFrame", notes: Sequence[str]) -> Report:
    return Report(table, columns_of(table, "{:.3g}"), notes, printed_nan=tuple(table))


def diagnose(fit: Fit, x: Any, y: Any = None) -> Diagnosis:
    """Judge the convergence of the chains of a fit by their predictions.

    A network with its hidden units in another order, or with their signs flipped, has the same predictions and the same
    density. Chains in different copies agree on every observable and disagree on every weight, so R-hat of the weights
    is uninformative. The chains are judged by functions of the weights that are equal in all copies: the predictions at
    some rows, the log likelihood of each row, and the log density. Other weights, such as slopes, scales and those of
    models written by hand, have a meaning and are judged as well, unless their sites state ``infer["exchangeable"]``,
    as the weights of networks do.

    - R-hat (rank-normalised, split; Vehtari et al. 2021) compares the variation between chains with that within them.
      It checks whether *each* chain has explored the posterior, which many short chains need not do: for 8 or more
      chains of fewer than 1,000 draws, nested R-hat (Margossian et al. 2024) checks whether *groups* of chains agree,
      that is, whether more chains would change the answer. Its limit is 1.05, that of R-hat 1.01.
    - ESS is the number of independent draws with the same precision: in the bulk, and for the 5% and 95% quantiles. It
      should be 100 per chain, unless chains are judged in groups.

    Chains of `Conditional` are judged as draws of some sites given the others, those of `SGMCMC` as draws of their own
    stationary distribution; the notes state this.

    Args:
        fit: a fit whose draws are Markov chains.
        x: n rows, as in the fit; up to 50 of them, at equal distances, are the probes (for rows of tokens, as many rows
            as contain 50 tokens).
        y: n rows; if given, the pointwise log likelihood is judged as well, and each chain scored by itself.

    Returns:
        The table, the values of each chain, and the failed checks.

    Raises:
        ValueError: when the draws of the fit are not Markov chains, or fewer than 4 per chain.
    """
    import pandas as pd

    is_approximate = isinstance(fit, Fit) and fit.kind == "approximation" and fit.method.draws_chains
    if not is_approximate:
        check_chains(fit, "diagnose")
    given_others = is_approximate and any((value == value[:1, :1]).all() for value in fit.draws.values())
    chains, draws = fit.stats["lp"].shape
    if draws < 4:
        raise ValueError(f"diagnose: expected at least 4 draws per chain; got {draws}.")
    all_rows = as_rows("x", x)
    rows, probes = (_evenly_spaced(count_rows(all_rows), count) for count in (NUM_PROBES, _num_probes(fit)))
    means = _component_means(fit, take_rows(all_rows, probes))
    quantities: dict[str, np.ndarray] = {f"predictions{of}": values for of, values in means.items()}
    quantities["log density"] = fit.stats["lp"]
    pointwise = None
    if y is not None:
        pointwise = fit.log_likelihood(x, y)
        quantities["log likelihood of rows"] = pointwise[..., rows]
    exchangeable = frozenset() if given_others else fit.structure.exchangeable  # others fix the order of units
    for name, sites in ((MEANINGFUL, fit.draws.keys() - exchangeable), (EXCHANGEABLE, exchangeable)):
        if sites:
            weights = [values.reshape(chains, draws, -1) for site, values in fit.draws.items() if site in sites]
            quantities[name] = np.concatenate(weights, axis=-1)
    nested = chains >= MANY_CHAINS and draws < LONG
    table = pd.DataFrame({name: _worst(values, nested=nested) for name, values in quantities.items()}).T
    table = table.astype({"quantities": int})
    tree = _tree({f"prediction{of}": values for of, values in means.items()}, probes)
    modes = _equivalent_modes(fit, x, y) if y is not None else _permutations(fit)
    modes = 0.0 if given_others else modes  # units whose other weights are fixed cannot be exchanged
    per_chain = _per_chain(fit, pointwise)
    findings = tuple(_findings(fit, table, per_chain, nested=nested))
    notes = [*(findings or ["The chains agree on the predictions, and there are enough draws."])]
    kind = f"nested R-hat, groups of {_group(chains)} chains" if nested else "R-hat"
    notes.append(f"{kind[0].upper()}{kind[1:]}, and ESS, each at its worst: {chains} chains of {draws} draws.")
    if is_approximate:
        notes.append(GIVEN if given_others else f"{fit.leaves_out} {BIASED}")
    if modes:
        notes.append(
            f"R-hat of the weights is misleading: every set of weights has at least 10^{modes:.0f} copies with the "
            f"same predictions, by permuted hidden units and flipped signs, and chains may be in different ones."
        )
    return Diagnosis(table, per_chain, tree, modes, findings, tuple(notes))


def _component_means(fit: Fit, x: Rows) -> dict[str, np.ndarray]:
    """Return the predictions of every draw, (chain, draw, ...), by " of " and the site where there are several."""
    predictive, sites, shape = fit.predict(x), fit.structure.observed_sites, fit.stats["lp"].shape
    means = {f"{OF}{site}" if len(sites) > 1 else "": predictive[site].component_means for site in sites}
    return {of: values.reshape(*shape, *values.shape[1:]) for of, values in means.items()}


def _tree(predictions: Mapping[str, np.ndarray], probes: np.ndarray) -> "DataTree":
    """Return predictions at probe rows for ArviZ."""
    import arviz_base

    tokens = ["row", "token", "class"]
    dims = {name: tokens if each.ndim == 5 else tokens[::2][: each.ndim - 2] for name, each in predictions.items()}
    return arviz_base.from_dict({"posterior": dict(predictions)}, dims=dims, coords={"row": probes})


def _num_probes(fit: Fit) -> int:
    """Return the number of rows to predict: fewer where a row has several predictions, as rows of tokens do."""
    return -(-NUM_PROBES // math.prod(fit.structure.response.event_shape))


def _evenly_spaced(num_rows: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced row indices, or all."""
    return np.unique(np.linspace(0, num_rows - 1, min(count, num_rows)).round().astype(int))


def check_chains(fit: Fit, name: str) -> None:
    """Raise ValueError unless the draws of a fit are Markov chains; `name` is the calling function."""
    check_fit(name, fit)
    if fit.kind != "chain":
        raise ValueError(
            f"{name}: expected a fit whose draws are Markov chains, such as NUTS(); got {fit.method.name}, "
            f"whose draws are {NO_CHAINS[fit.kind]} and do not converge to the posterior."
        )


def _group(chains: int) -> int:
    """Return the number of chains per group of nested R-hat: equal groups, about as many as chains in each."""
    return min((m for m in range(2, chains) if chains % m == 0), key=lambda m: abs(m - chains**0.5), default=chains)


def _worst(values: np.ndarray, *, nested: bool) -> dict[str, float]:
    """Return the largest R-hat and the smallest effective sample sizes of quantities (chain, draw, ...)."""
    from ..internals import array_stats  # imported late; see `loo`

    flat = np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0).astype(float)
    flat = flat[np.ptp(flat, axis=(1, 2)) > 0]  # a constant, such as a probability of exactly 1, has no R-hat
    if not len(flat):
        return {"quantities": 0, "rhat": math.nan, "ess_bulk": math.nan, "ess_tail": math.nan}
    chains = values.shape[0]
    if nested:
        group = _group(chains)
        rhat = array_stats.rhat_nested(flat, superchain_ids=np.arange(chains) // group)
    else:
        rhat = array_stats.rhat(flat)
    return {
        "quantities": len(flat),
        "rhat": float(np.fmax.reduce(rhat)),
        "ess_bulk": float(np.min(array_stats.ess(flat, method="bulk"))),
        "ess_tail": float(np.min(array_stats.ess(flat, method="tail", prob=(0.05, 0.95)))),
    }


def _per_chain(fit: Fit, pointwise: np.ndarray | None) -> "pd.DataFrame":
    import pandas as pd

    from ..internals import array_stats  # imported late; see `loo`

    stats = fit.stats
    lp = stats["lp"]
    columns: dict[str, Any] = {
        "log_density": lp.mean(axis=1),
        "moved": (np.diff(lp, axis=1) != 0).mean(axis=1),
    }
    if "step_size" in stats:
        columns["step_size"] = stats["step_size"][:, -1]
    if "diverging" in stats:
        columns["diverging"] = stats["diverging"].sum(axis=1)
    if "energy" in stats:
        columns["bfmi"] = array_stats.bfmi(stats["energy"])
    if "max_tree_depth" in stats:
        columns["tree_cap"] = (stats["tree_depth"] >= stats["max_tree_depth"]).mean(axis=1)
    if pointwise is not None:
        columns["log_likelihood"] = (logsumexp(pointwise, axis=1) - math.log(pointwise.shape[1])).mean(axis=1)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(lp), name="chain"))


def _findings(fit: Fit, table: "pd.DataFrame", chains: "pd.DataFrame", *, nested: bool) -> list[str]:
    findings = []
    limit = MAX_NESTED_RHAT if nested else MAX_RHAT
    for name in table.index.drop(EXCHANGEABLE, errors="ignore"):
        worst = table.loc[name]
        if worst["rhat"] > limit:
            who, cure = ("Groups of chains", "Run more chains, or longer") if nested else ("The chains", "Run longer")
            findings.append(f"{who} disagree on {name}: R-hat {worst['rhat']:.3f}, above {limit}. {cure}.")
        least = min(worst["ess_bulk"], worst["ess_tail"])
        if not nested and least < MIN_ESS * len(chains):
            findings.append(
                f"Estimates of {name} are imprecise: {least:.0f} effective draws, fewer than {MIN_ESS} per chain. Draw "
                f"more."
            )
    if "bfmi" in chains and chains["bfmi"].min() < MIN_BFMI:
        bfmi = chains["bfmi"]
        findings.append(str(Reason.of(Code.LOW_BFMI, chain=bfmi.idxmin(), bfmi=bfmi.min(), limit=MIN_BFMI)))
    if "tree_cap" in chains and chains["tree_cap"].max() > MAX_TREE_CAPS:
        findings.append(
            f"{chains['tree_cap'].mean():.0%} of the trajectories were cut short by max_tree_depth: raise it."
        )
    if chains["moved"].min() < MIN_MOVED:
        findings.append(f"Chain {chains['moved'].idxmin()} does not move in more than half of its draws.")
    return [*map(str, fit.status.failures), *findings]


def _layers(fit: Fit) -> list[tuple[int, list[tuple[str, int]]]]:
    """Return the hidden layers that the model names: (number of units, [(site, axis of the units)])."""
    shapes = fit.structure.latents
    layers: dict[str, list[tuple[str, int]]] = {}
    for site, names in fit.structure.dims:
        for axis, name in enumerate(names):
            if name.startswith("hidden"):
                layers.setdefault(name, []).append((site, axis))
    return [(shapes[axes[0][0]][axes[0][1]], axes) for axes in layers.values()]


def _log10_factorial(units: int) -> float:
    """Return the log10 of the number of permutations of the units of a layer."""
    return math.lgamma(units + 1) / math.log(10)


def _permutations(fit: Fit) -> float:
    """Return the log10 of the number of permutations of the hidden units."""
    return sum(_log10_factorial(units) for units, _ in _layers(fit))


def _equivalent_modes(fit: Fit, x: Any, y: Any) -> float:
    """Return the log10 of the number of copies of a set of weights, by permuted units and flipped signs.

    Whether copies are equivalent is tested on the density itself: with the units of each layer in reverse order, and
    with their signs flipped.
    """
    weights = {site: widened(value[0, -1]) for site, value in fit.draws.items()}
    data = check_labels(fit.model, check_like(fit.layout, x), y).in_memory("diagnose")

    @jax.jit
    def compiled(changed: Weights, data: Data) -> jax.Array:
        return log_density(fit.density.model_of(data), changed, data.x, data.y)

    def density(changed: Mapping[str, Any]) -> float:
        return float(compiled(dict(changed), data))

    here, copies = density(weights), 0.0
    for units, axes in _layers(fit):
        reversed_ = {site: np.flip(weights[site], axis) for site, axis in axes}
        flipped = {site: -weights[site] for site, _ in axes}
        if abs(density({**weights, **reversed_}) - here) < ROUNDING * max(1.0, abs(here)):
            copies += _log10_factorial(units)
        if abs(density({**weights, **flipped}) - here) < ROUNDING * max(1.0, abs(here)):
            copies += units * math.log10(2)
    return copies
