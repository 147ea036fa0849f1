"""Words for error messages and tables: names of distributions, values of a support, positions in rows."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpyro.distributions as dist
from numpyro.distributions import Distribution, constraints

from .distributions import Affine, IntegerInterval, takes_intervals
from .sites import element
from .stored import number_of


def title(d: Distribution) -> str:
    """Return the name of a distribution."""
    match d:
        case Affine():
            return title(element(d.base_dist))
        case _ if takes_intervals(d) and hasattr(d, "base_dist"):
            return f"censored {title(element(d.base_dist))}"
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
    if support is constraints.unit_interval or isinstance(support, type(constraints.open_interval(0.0, 1.0))):
        return f"a number between {support.lower_bound:g} and {support.upper_bound:g}"
    return "a positive number" if support is constraints.positive else f"a value in {support!r}"


def index_in_words(index: Any) -> str:
    """Return a description of an index into an array of rows, or into the part of them that is being checked."""
    row, *rest = map(int, index)
    return f", row {number_of(row)}" + (f", column {rest[0]}" if rest else "")


def shapes_in_words(shapes: tuple[tuple[int, ...], ...]) -> str:
    """Return a list of shapes."""
    return ", ".join(map(str, shapes))


@contextmanager
def named_gaps() -> Iterator[None]:
    """Re-raise errors about what a distribution, or an installation, does not have, with the names of both."""
    try:
        yield
    except (NotImplementedError, ImportError) as error:
        clear = gap_of(error)
        if clear is None:
            raise
        raise clear from error


def gap_of(error: Exception) -> Exception | None:
    """Return an error that names what a distribution lacks; None for other errors, and for those that name it."""
    if not isinstance(error, NotImplementedError | ImportError):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    frames = [frame for frame in frames if isinstance(frame.f_locals.get("self"), Distribution)]
    if not frames:
        return None
    what = f"{title(frames[-1].f_locals['self'])}.{frames[-1].f_code.co_name}"
    if isinstance(error, ImportError):
        return ImportError(f"NumPyro computes {what} by another package: {error}", name=error.name, path=error.path)
    words = f": {error}" if str(error) else ""
    cure = "Use sample" if frames[-1].f_code.co_name not in ("sample", "log_prob") else "Implement it"
    return NotImplementedError(f"{what} is not implemented{words}. {cure}, or use a distribution that has it.")
