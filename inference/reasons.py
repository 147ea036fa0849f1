"""The reasons for the status of a fit: values with a code, numbers, and a sentence for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np


class Code(StrEnum):
    """The codes of reasons, for programs to compare."""

    INTERRUPTED = "interrupted"
    COARSE_DRAWS = "coarse_draws"
    # The optimiser
    NON_FINITE_LOSS = "non_finite_loss"
    NON_FINITE_START = "non_finite_start"
    STOPPED_EARLY = "stopped_early"
    STILL_FALLING = "still_falling"
    NOT_STATIONARY = "not_stationary"
    NOT_REACHED = "not_reached"
    TOO_COARSE = "too_coarse"
    OTHER_MODES = "other_modes"
    # Units and priors
    UNITS = "units"
    SATURATED_UNITS = "saturated_units"
    PRIOR_CONFLICT = "prior_conflict"
    # No maximum
    SEPARABLE = "separable"
    SATURATED = "saturated"
    QUASI_SEPARABLE = "quasi_separable"
    MISSING_CLASS = "missing_class"
    UNBOUNDED_DENSITY = "unbounded_density"
    COLLAPSING_SCALE = "collapsing_scale"
    RECEDING = "receding"
    # A maximum at the boundary of the support, and many maxima
    AT_BOUNDARY = "at_boundary"
    NOT_UNIQUE = "not_unique"
    IMPROPER_POSTERIOR = "improper_posterior"
    # Ensembles
    LOST_MEMBERS = "lost_members"
    MEMBERS = "members"
    # The Laplace approximation
    NOT_AT_MODE = "not_at_mode"
    NOT_POSITIVE_DEFINITE = "not_positive_definite"
    NO_CURVATURE = "no_curvature"
    NON_FINITE_DRAWS = "non_finite_draws"
    NOT_GAUSSIAN = "not_gaussian"
    # Tuning
    POOR_GUIDE = "poor_guide"
    END_OF_RANGE = "end_of_range"
    NOT_TUNED = "not_tuned"
    # Chains
    COLD_START = "cold_start"
    STUCK_CHAINS = "stuck_chains"
    LOST_CHAINS = "lost_chains"
    FEW_DRAWS = "few_draws"
    HIGH_RHAT = "high_rhat"
    WEIGHTS_DISAGREE = "weights_disagree"
    CHAINS_DIFFER = "chains_differ"
    NOT_SETTLED = "not_settled"
    LOW_ESS = "low_ess"
    LOW_TOTAL_ESS = "low_total_ess"
    DIVERGENCES = "divergences"
    TREE_DEPTH = "tree_depth"
    LOW_BFMI = "low_bfmi"
    ENERGY_VARIANCE = "energy_variance"
    LOW_ACCEPTANCE = "low_acceptance"
    TEMPERATURE = "temperature"
    UNSTABLE_STEPS = "unstable_steps"
    REJECTED_STEPS = "rejected_steps"


MESSAGES: Mapping[Code, str] = {
    Code.INTERRUPTED: "Interrupted after {done} of {total} {unit}.",
    Code.COARSE_DRAWS: (
        "The draws of {site} are too coarse: kept in {dtype}, some of them are off by {share:.0%} of their standard "
        "deviation within a chain, more than {limit:.0%}. Leave draws_dtype out, or standardise x and y."
    ),
    Code.NON_FINITE_LOSS: (
        "The loss is {value} at step {step}; the draws are those of step {last}. A smaller learning rate is the usual "
        "cure."
    ),
    Code.NON_FINITE_START: (
        "The loss is {value} at the starting point, before any step. Look for values of x that the network cannot "
        "take (such as tokens outside its vocabulary) and for values of y or priors under which the log density is not "
        "finite, or give another init_strategy."
    ),
    Code.STOPPED_EARLY: (
        "Stopped early at step {step} by the loss of the validation rows: this point is not the mode of the density."
    ),
    Code.STILL_FALLING: (
        "The loss was still falling: by {gain:.3g} nats over the last tenth of the steps. Increase num_steps."
    ),
    Code.NOT_STATIONARY: (
        "This is not the mode: {steps} further steps, of L-BFGS, lower the loss by {gain:.3g} nats ({per_row:.2g} per "
        "row). Increase num_steps, or standardise x and y."
    ),
    Code.NOT_REACHED: (
        "This is not the mode: {steps} steps of Newton's method lower the loss by another {gain:.3g} nats "
        "({per_row:.2g} per row) without reaching it, and the fit stays where the optimiser ended. With few rows per "
        "weight a network fits their noise ever more exactly, and has its mode, if there is one, where it does. MCLMC "
        "needs no mode. For a point, fix a learned scale of y, no smaller than the errors that matter (the smaller, "
        "the further the mode), or give a validation_fraction, by which the fit ends earlier; otherwise more steps."
    ),
    Code.TOO_COARSE: (
        "The mode is known more exactly than {precision} can hold: rounding the weights and predictions costs "
        "{lost:.3g} nats. Standardise x and y, or compute in float64: jax.config.update('jax_enable_x64', True)."
    ),
    Code.OTHER_MODES: (
        "{count} starting points lead to different modes: this one, which only one of them reached, is {gap:.3g} nats "
        "better than the next. There may be a better one yet: increase num_restarts, and compare what they predict."
    ),
    Code.UNITS: (
        "The optimiser did not reach the mode, since {where} is in raw units: its mean is {mean:.4g} and its standard "
        "deviation {sd:.4g}, where the optimiser and most priors expect numbers of about 1. Fit "
        "standardize(model, x, y), of flatprior.inference: its density and predictions stay in these units."
    ),
    Code.SATURATED_UNITS: (
        "The predictions hardly change with x, and have {times:.3g} times the mean squared error of a linear least "
        "squares fit: the units of the network are saturated, since {where} is in raw units (mean {mean:.4g}, standard "
        "deviation {sd:.4g}). Fit standardize(model, x, y), of flatprior.inference."
    ),
    Code.PRIOR_CONFLICT: (
        "Prior and data disagree: {evidence}. If the prior were right, more than {limit:.3g} nats would have a "
        "probability below 1e-6. The prior decides the fit. Give a wider prior or, where x or y are in raw units, fit "
        "standardize(model, x, y), of flatprior.inference.{aside}"
    ),
    Code.SEPARABLE: (
        "There is no maximum: {evidence}, and weights {factor:g} times as large lower the loss from {here:.3g} to "
        "{further:.3g}. With a proper prior, as in MAP, a maximum exists."
    ),
    Code.SATURATED: (
        "There is no maximum: {evidence}, and the weights are already so large that every probability is rounded to 1. "
        "With a proper prior, as in MAP, a maximum exists."
    ),
    Code.MISSING_CLASS: (
        "There is no maximum: class {absent} occurs in none of the {rows} rows, so the loss falls as the logits "
        "move away from it, and no row becomes less probable: {before:.6g} nats {back:g} logits before the point where "
        "the fit stopped, {here:.6g} there, {further:.6g} {on:g} logits beyond it. With a proper prior, as in MAP, a "
        "maximum exists."
    ),
    Code.QUASI_SEPARABLE: (
        "There is no maximum: the classes are separable in part (quasi-complete separation). Along a direction in the "
        "weights, {count} of {rows} rows (row {first} first) become ever more probable and none less: the loss is "
        "{before:.6g} nats {back:g} logits before the point where the fit stopped, {here:.6g} there, {further:.6g} "
        "{on:g} logits beyond it. With a proper prior, as in MAP, a maximum exists."
    ),
    Code.UNBOUNDED_DENSITY: (
        "There is no maximum: the density grows without bound as the scale shrinks around rows that are fitted "
        "exactly. The density of row {row} is {times:.3g} times that of y spread over its standard deviation, "
        "{again:.3g} times after {steps} steps of L-BFGS, and the loss falls from {here:.4g} to {further:.4g}. Fix the "
        "scale, or give it a proper prior that is 0 at 0, such as LogNormal, and use MAP."
    ),
    Code.COLLAPSING_SCALE: (
        "{finding}: the joint density of {scale} and the weights that it scales ({sites}) {growth}. The loss is "
        "{here:.4g} nats where {scale} is {value:.3g}, and {further:.4g} where it is {end:.2g}. Sample the posterior, "
        "which is proper, by NUTS or MCLMC, or fix the scale at a number, such as that of tune(model, x, y), of "
        "flatprior.inference."
    ),
    Code.RECEDING: (
        "There is no maximum: the loss falls for ever along {direction}, where {count} of {rows} rows (row {first} "
        "first) become ever more probable: it is {before:.6g} nats {back:g} Newton steps before the point where the "
        "fit stopped, {here:.6g} there, {further:.6g} {on:g} steps beyond it. With a proper prior, as in MAP, a "
        "maximum exists."
    ),
    Code.AT_BOUNDARY: (
        "The maximum is at the boundary of the support of {sites}, and no weights inside it reach it: the loss falls "
        "along {direction}, from {before:.6g} nats {back:g} Newton steps before the point where the fit stopped to "
        "{here:.6g} there, and {further:.6g} {on:g} steps beyond it. Use the model without that part, or give the site "
        "a proper prior, as in MAP."
    ),
    Code.NOT_UNIQUE: (
        "The maximum is not unique: the density does not change along {count} of the directions in the weights, such "
        "as {direction}, so these weights are one of many maxima. Columns of x are constant or linearly related, or "
        "there are more weights than rows determine. Predictions are those of all the maxima for x with the same "
        "relations between its columns. Leave columns out, or give the weights a proper prior, as in MAP."
    ),
    Code.IMPROPER_POSTERIOR: (
        "The posterior is not proper, since the prior is flat and the likelihood does not fall in every direction: the "
        "draws are those of no distribution, and move further away the longer the run. {reason}"
    ),
    Code.LOST_MEMBERS: (
        "Members {members} of {size} have no finite loss or weights and are left out; the ensemble consists of the "
        "other {rest}. A smaller learning rate is the usual cure."
    ),
    Code.MEMBERS: "{count} of {size} members have a problem. Member {first}: {reason}",
    Code.NOT_AT_MODE: (
        "This is not the mode: a Newton step promises {gain:.3g} nats more, which neither the draws nor the evidence "
        "include. Increase num_steps of base, or standardise x and y; where units have kinks (ReLU), the "
        "gradient may vanish nowhere."
    ),
    Code.NOT_POSITIVE_DEFINITE: (
        "There is no Gaussian around this point: {count} of {size} eigenvalues of the curvature are not positive (from "
        "{least:.3g} to {most:.3g}), and all draws equal it. Give every weight a proper prior, use curvature='ggn' for "
        "a network, or increase num_steps of base."
    ),
    Code.NO_CURVATURE: (
        "There is no Gaussian around this point: the second derivatives of the log density are not finite there, and "
        "all draws equal it. Look for values under which the log density is not finite."
    ),
    Code.NON_FINITE_DRAWS: (
        "The draws are of no use: {count} of {total} are not finite. The Gaussian reaches where weights overflow, as "
        "where the posterior of a positive site is highest at 0. Use NUTS, or another prior."
    ),
    Code.NOT_GAUSSIAN: (
        "The posterior is no Gaussian around this mode, and neither draws nor evidence can be relied on: Pareto's k of "
        "their importance weights is {k:.2f} (reliable up to {limit}), and their divergence from the posterior about "
        "{divergence:.2g} nats. Use NUTS, or MCLMC for a network{cure}."
    ),
    Code.POOR_GUIDE: (
        "The guide is not the posterior, and neither its draws nor its bound can be relied on: Pareto's k of their "
        "importance weights is {k:.2f} (reliable up to {limit}), and their divergence from the posterior about "
        "{divergence:.2g} nats or more. Increase num_steps, or use guide='full_rank', NUTS, or MCLMC for a network."
    ),
    Code.END_OF_RANGE: (
        "The data do not determine {site} on one side: the score is {score:.6g} at the best, {best:.3g}, and "
        "{there:.6g} at the {end} that was tried, {value:.3g}. Where the smallest is as good, the weights that a scale "
        "belongs to have no effect that the data show; where the largest is, its prior need not be that narrow."
    ),
    Code.NOT_TUNED: (
        "No value of {sites} has a finite score, and the values are those at which the search began. Look at the "
        "status of a fit at these."
    ),
    Code.COLD_START: (
        "Chains {chains} began at their random starting point, since the optimiser reached no better point from there. "
        "A smaller learning rate in start is the usual cure."
    ),
    Code.STUCK_CHAINS: "Chains {chains} did not move: all their draws are equal. {why}",
    Code.LOST_CHAINS: (
        "Chains {chains} are lost: their log density is {short:.3g} nats or more below that of the median chain, more "
        "than {times:g} times the standard deviation {spread:.3g}. Their draws have the same weight as all others."
    ),
    Code.FEW_DRAWS: (
        "Each chain has {draws} draws, fewer than {least}: too few to assess whether the chains agree, and how precise "
        "estimates are. Increase num_samples."
    ),
    Code.HIGH_RHAT: (
        "The chains disagree on the log density: R-hat {rhat:.2f}, above {limit}. Run longer (num_warmup, "
        "num_samples), or compare the chains' predictions."
    ),
    Code.WEIGHTS_DISAGREE: (
        "The chains disagree on {sites}: R-hat {rhat:.2f}, above {limit}. {how}: the log predictive density of a row "
        "differs by {nats:.2g} nats on average between a chain and all chains. The chains may be near different modes, "
        "whose masses they do not measure. Run longer, or write the model so that equivalent weights are one; where "
        "only predictions matter, as for hidden units, mark these sites by infer={{'exchangeable': True}}."
    ),
    Code.CHAINS_DIFFER: (
        "The chains predict differently: the log predictive density of a row differs by {nats:.2g} nats on average "
        "between a chain and all {count} chains, and so that of all is off by about {error:.2g}, more than {limit:g}. "
        "Run longer (num_warmup), which finds better modes, or more chains (num_chains)."
    ),
    Code.NOT_SETTLED: (
        "The chains have not settled: R-hat of the log density between the halves of each chain is {rhat:.2f} (median "
        "over chains), and its mean changed by {rise:+.3g} nats{predictions}. Increase num_warmup, or num_samples and "
        "thinning.{aside}"
    ),
    Code.LOW_ESS: (
        "The log density has an effective sample size of {ess:.0f}, below {limit} (100 per chain): estimates are "
        "imprecise. Increase num_samples."
    ),
    Code.LOW_TOTAL_ESS: (
        "The log density has {ess:.0f} effective draws within the chains, fewer than {limit} in all: estimates are "
        "imprecise. Increase thinning or num_samples."
    ),
    Code.DIVERGENCES: (
        "{count} of {total} transitions diverged: the draws may miss part of the posterior. Raise target_accept_prob "
        "from {target:g} to {higher:g} or more; where some diverge even at 0.99, another parametrisation, such as a "
        "non-centred one, is the usual cure."
    ),
    Code.TREE_DEPTH: (
        "{percent:.0%} of the trajectories were cut short by max_tree_depth={depth}: the chains may hardly move in the "
        "directions in which the posterior is widest. Raise it, or standardise x and y."
    ),
    Code.LOW_BFMI: (
        "The energy of chain {chain} moves in small steps (E-BFMI {bfmi:.2f}, below {limit}): it explores the tails "
        "slowly. Another parametrisation, such as a non-centred one, is the usual cure."
    ),
    Code.ENERGY_VARIANCE: (
        "The energy variance of the draws is {variance:.2g} per dimension, above its target of {target:g}: the draws "
        "are biased, wider than the posterior. Increase num_warmup, lower energy_variance, or set adjusted=True."
    ),
    Code.LOW_ACCEPTANCE: "{rate:.0%} of the steps were accepted, fewer than {limit:.0%}. Increase num_warmup.",
    Code.TEMPERATURE: (
        "The steps have a temperature of {temperature:.2f} (standard error {error:.1g}), not 1, by the noise of "
        "batches and the size of steps: where the draws have settled, their variances are up to about as many times "
        "those of the posterior, on average over the weights. Lower epoch_time, and increase num_warmup and thinning "
        "by the same factor, since steps become smaller."
    ),
    Code.UNSTABLE_STEPS: (
        "Before {share:.1%} of the draws a step was unstable, since the density was not finite or curves more strongly "
        "than where the step size was set: the draws may miss part of the posterior. Lower epoch_time, increase "
        "num_warmup, or standardise x and y."
    ),
    Code.REJECTED_STEPS: (
        "About {share:.1%} of the steps were rejected, since the density was not finite or jumped: the draws may miss "
        "part of the posterior. Lower energy_variance."
    ),
}
"""The sentences of reasons by code, with the names of their numbers."""


@dataclass(frozen=True)
class Reason:
    """A reason for the status of a fit. Prints as a sentence."""

    code: Code
    """The kind of reason: compare this, never the words."""
    words: str
    """The sentence for people: the finding, with numbers, and the cure."""
    numbers: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The numbers in the sentence, by name."""

    @classmethod
    def of(cls, code: Code, **numbers: Any) -> "Reason":
        """Return the reason of a code, with the numbers in its sentence."""
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in numbers.items()}
        return cls(code, MESSAGES[code].format(**plain), plain)

    def to_json(self) -> list[Any]:
        """Return the reason as JSON has it."""
        return [self.code, self.words, dict(self.numbers)]

    @classmethod
    def from_json(cls, saved: list[Any]) -> "Reason":
        """Return the reason that `to_json` gave."""
        code, words, numbers = saved
        return cls(Code(code), words, numbers)

    def within(self, part: str) -> "Reason":
        """Return the reason attributed to a named part of a fit."""
        return replace(self, words=f"{part}: {self.words}")

    def __str__(self) -> str:
        return self.words

    def __repr__(self) -> str:
        return repr(self.words)


def numbered(mask: np.ndarray) -> str:
    """Return the numbers of the chains or members at which a mask, (n,), is true, for a sentence."""
    return ", ".join(map(str, np.flatnonzero(mask)))
