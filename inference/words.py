"""Words for error messages and tables: names of distributions, values of a support, positions in rows."""

from typing import Any

import numpyro.distributions as dist
from numpyro.distributions import Distribution, constraints

from .distributions import IntegerInterval
from .sites import element


def title(d: Distribution) -> str:
    """Return the name of a distribution."""
    match d:
        case dist.MixtureSameFamily():
            return f"mixture of {d.mixture_size} {title(element(d.component_distribution))}"
        case dist.MixtureGeneral():
            return f"mixture of {', '.join(title(element(part)) for part in d.component_distributions)}"
    return type(d).__name__.removesuffix("Logits").removesuffix("Probs")


def in_words(support: constraints.Constraint) -> str:
    """Return a description of the values in a support."""
    if support is constraints.boolean:
        return "0 or 1"
    if isinstance(support, IntegerInterval):
        return f"an integer from {support.lower_bound} to {support.upper_bound}"
    if support is constraints.simplex:
        return "probabilities that sum to 1"
    if support is constraints.real:
        return "a finite number"
    return "a positive number" if support is constraints.positive else f"a value in {support!r}"


def index_in_words(index: Any) -> str:
    """Return a description of an index into an array of rows."""
    row, *rest = map(int, index)
    return f", row {row}" + (f", column {rest[0]}" if rest else "")


def shapes_in_words(shapes: tuple[tuple[int, ...], ...]) -> str:
    """Return a list of shapes."""
    return ", ".join(map(str, shapes))
