"""The ways a fit can go wrong, in words."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Level = Literal["ok", "check", "failed"]


@dataclass(frozen=True)
class Status:
    """Whether a fit can be relied on: "ok", "check" (read the reasons first) or "failed" (do not use it).

    Args:
        failures: sentences, each a reason why the fit is not what was asked for.
        warnings: sentences, each a reason to look before the fit is used.
    """

    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def level(self) -> Level:
        """The worst that was found."""
        return "failed" if self.failures else "check" if self.warnings else "ok"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every sentence, failures first."""
        return self.failures + self.warnings

    @property
    def is_interrupted(self) -> bool:
        """Whether the run was ended by Ctrl-C before it was done."""
        return any(reason.startswith(INTERRUPTED.partition("{")[0]) for reason in self.reasons)

    def __bool__(self) -> bool:
        """True unless the fit failed."""
        return not self.failures

    def __str__(self) -> str:
        return ": ".join([self.level, " ".join(self.reasons)]) if self.reasons else self.level


class FailedFitWarning(UserWarning):
    """Something is asked of a fit that has failed."""


def warn_of_failure(status: Status) -> None:
    """Warn, at the line of the user, who predicts with a fit that has failed."""
    if not status:
        library = str(Path(__file__).parent)
        warnings.warn(FAILED.format(reason=status.reasons[0]), FailedFitWarning, skip_file_prefixes=(library,))


class UndefinedPredictionWarning(UserWarning):
    """A prediction is not a number, though the draws of the weights are."""


def warn_of_nan(rows: np.ndarray) -> None:
    """Warn, at the line of the user, of the rows whose prediction is NaN, of which a mask, (n,), is true."""
    sentence = UNDEFINED.format(count=rows.sum(), rows=rows.size, first=rows.argmax())
    warnings.warn(sentence, UndefinedPredictionWarning, skip_file_prefixes=(str(Path(__file__).parent),))


@contextmanager
def status_is_shown() -> Iterator[None]:
    """Within it no failed fit is warned of: its status stands beside what is predicted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedFitWarning)
        yield


def listed(which: np.ndarray) -> str:
    """The numbers of those of which a mask, (n,), is true, for the sentences below."""
    return ", ".join(map(str, np.flatnonzero(which)))


FAILED = "This fit has failed, and predicts by the weights that it was left with. {reason}"
UNDEFINED = (
    "The prediction is NaN in {count} of {rows} rows (row {first} first), though the draws of the weights are finite. "
    "Look there for values of x that the network does not know, such as tokens beyond its vocabulary, or for something "
    "that the distribution of y does not have, as Cauchy's has no mean."
)
NON_FINITE_LOSS = (
    "The loss is {value} at step {step}; the draws are those of step {kept}. A smaller learning rate is the usual cure."
)
NON_FINITE_START = (
    "The loss is {value} at the starting point, before any step. Look for values of x that the network does not know "
    "(such as tokens beyond its vocabulary) and for values of y or priors under which the log density is not finite, "
    "or give another init_strategy."
)
SEPARABLE = "all {rows} rows are classified correctly (the classes are separable)"
ONE_VALUE = "y is {value} in all {rows} rows"
NO_MODE = (
    "There is no maximum: {evidence}, and weights {factor:g} times as large lower the loss from {here:.3g} to "
    "{further:.3g}. With a proper prior, as in MAP, there is one."
)
SATURATED = (
    "There is no maximum: {evidence}, and the weights are already so large that every probability is rounded to 1. "
    "With a proper prior, as in MAP, there is one."
)
ABSENT = (
    "There is no maximum: class {absent} occurs in none of the {rows} rows, and the further the logits move against it "
    "the lower is the loss, with no row less probable: {before:.6g} nats {back:g} logits before the place where the "
    "fit stopped, {here:.6g} there, {further:.6g} {on:g} logits on. With a proper prior, as in MAP, there is one."
)
IN_PART = (
    "There is no maximum: the classes are separable in part. There is a direction in the weights along which {count} "
    "of {rows} rows (row {first} first) become ever more probable and none less so: the loss is {before:.6g} nats "
    "{back:g} logits before the place where the fit stopped, {here:.6g} there, {further:.6g} {on:g} logits on. With a "
    "proper prior, as in MAP, there is one."
)
COLLAPSE = (
    "There is no maximum: the density grows without bound, as the scale shrinks around rows that are met exactly. Row "
    "{row} is {times:.3g} times as dense as y spread over its standard deviation, after {steps} steps "
    "of L-BFGS {again:.3g} times, and the loss falls from {here:.4g} to {further:.4g}. Fix the scale, or give it a "
    "proper prior that is 0 at 0, such as LogNormal, and use MAP."
)
EARLY_STOP = (
    "Stopped at step {step} by the validation rows: this is not the mode of the density, but a point on the way to it."
)
STILL_FALLING = "The loss was still falling: by {gain:.3g} nats over the last tenth of the steps. Give more num_steps."
SLOPE = (
    "This is not the mode: moving one weight by {move:g} lowers the loss by {gain:.3g} nats. Give more num_steps, or "
    "standardise x and y."
)
INTERRUPTED = "Interrupted after {done} of {total} {unit}."
DIVERGENCES = (
    "{count} of {total} transitions diverged: the draws may miss part of the posterior. Raise target_accept_prob."
)
LOW_ESS = (
    "The log density has an effective sample size of {ess:.0f}, below {limit} (100 a chain): estimates are rough. Give "
    "more num_samples."
)
TREE_CAP = (
    "{percent:.0%} of the trajectories were cut short by max_tree_depth={depth}: in the directions in which the "
    "posterior is widest the chains may hardly move. Raise it, or standardise x and y."
)
NOT_MIXED = (
    "The chains disagree on the log density: R-hat {rhat:.2f}, above {limit}. Run longer (num_warmup, num_samples), or "
    "compare the chains' predictions."
)
LOW_BFMI = (
    "The energy of chain {chain} moves in small steps (E-BFMI {bfmi:.2f}, below {limit}): it explores the tails "
    "slowly. Another parametrisation, such as a non-centred one, is the usual cure."
)
TOO_FEW = (
    "Each chain has {draws} draws, fewer than {least}: whether the chains agree, and how rough estimates are, is not "
    "known. Give more num_samples."
)
FROZEN = (
    "Chains {chains} did not move: all their draws are the same. Look for values of x that the network does not know "
    "(such as tokens beyond its vocabulary) and for values of y or priors under which the log density is not finite."
)
LOST_MEMBERS = (
    "Members {members} of {size} have no finite loss or weights and are left out: the ensemble is of the other {kept}. "
    "A smaller learning rate is the usual cure."
)
OF_MEMBERS = "{count} of {size} members are not what was asked for. Of member {first}: {reason}"
NOT_LEVEL = (
    "This is not the mode: the slope promises {gain:.3g} nats more, of which neither the draws nor the evidence know. "
    "Give base more num_steps, or standardise x and y; where units have kinks (ReLU), the slope may vanish nowhere."
)
NO_GAUSSIAN = (
    "There is no Gaussian around this point: {count} of {size} eigenvalues of the curvature are not positive (from "
    "{least:.3g} to {most:.3g}), and the draws are copies of it. Give every weight a proper prior, a network "
    "curvature='ggn', or base more num_steps."
)
NO_CURVATURE = (
    "There is no Gaussian around this point: the second derivatives of the log density are not finite there, and the "
    "draws are copies of it. Look for values under which the log density is not finite."
)
COLD_START = (
    "Chains {chains} began at their random starting point: the descent from there came to no better place. A smaller "
    "learning rate in start is the usual cure."
)
LOST_CHAINS = (
    "Chains {chains} are lost: their log density is {short:.3g} nats or more below the median chain's, more than "
    "{times:g} times the spread {spread:.3g}. Their draws are kept, with the weight of the others."
)
HOT = (
    "The energy variance of the draws is {heat:.2g} a dimension, against a target of {target:g}: the draws are biased, "
    "more spread than the posterior. Give more num_warmup, a smaller energy_variance, or adjusted=True."
)
LOW_ACCEPTANCE = "{rate:.0%} of the steps were accepted, fewer than {limit:.0%}. Give more num_warmup."
REJECTED = (
    "About {share:.1%} of the steps were rejected, since the density was not finite or jumped: the draws may miss part "
    "of the posterior. Lower energy_variance."
)
UNSETTLED = (
    "The chains have not settled: between the halves of a chain R-hat of the log density is {rhat:.2f} (median over "
    "chains), above {limit}; its mean changed by {rise:+.3g} nats. Give more num_warmup, or more num_samples and "
    "thinning."
)
FEW_EFFECTIVE = (
    "The log density has {ess:.0f} effective draws within the chains, fewer than {limit} in all: estimates are rough. "
    "Give more thinning or num_samples."
)
