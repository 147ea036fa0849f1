"""Several observed sites: a row of y has a value of each, under its name. One of them can be asked alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final, get_args

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import Distribution, constraints
from numpyro.handlers import block
from numpyro.primitives import Messenger

from .response import Missing, Response, Summary
from .rows import Rows, Weights
from .sites import NumPyroModel, abstract_trace


class _RowOfSites(constraints.Constraint):
    """The support of a row of several sites, each of which has its own. Only its words are used."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        self.sites = sites

    def __call__(self, x: Any) -> Any:
        raise NotImplementedError(f"{self!r} has no support of its own.")

    def __repr__(self) -> str:
        return f"a value of each of {ask_for_one(self.sites)}"


def ask_for_one(sites: tuple[str, ...]) -> str:
    """Return the names of several sites, with the cure where one is expected."""
    return f"the sites {', '.join(map(repr, sites))}: ask for one, fit[{sites[0]!r}] or fit.predict(x)[{sites[0]!r}]"


def check_keys(sites: tuple[str, ...], y: Any) -> None:
    """Raise ValueError unless y has rows under the name of each of several observed sites, and no others."""
    if isinstance(y, Mapping) and set(y) == set(sites):
        return
    is_array = jax.tree_util.treedef_is_leaf(jax.tree.structure(y))
    got = f"the keys {list(y)}" if isinstance(y, Mapping) else "one array" if is_array else f"a {type(y).__name__}"
    named = ", ".join(f"{name!r}: ..." for name in sites)
    raise ValueError(
        f"Expected y to have the rows of each observed site under its name, {{{named}}}; got {got}. In the site "
        f"{sites[0]!r} the model passes obs=y[{sites[0]!r}]."
    )


@final
@dataclass(frozen=True, kw_only=True)
class Several(Response):
    """The response of several observed sites together. Summaries and scores are those of one site, and are refused.

    What does not depend on the kind of y, such as log probabilities and samples, is that of whole rows. Where each site
    has a part, `Structure.responses` has them one by one.
    """

    kind = "several"
    parts: tuple[Response, ...]
    """The responses of the sites, in the order in which the model observes them."""

    @classmethod
    def of(cls, parts: tuple[Response, ...]) -> Self:
        """Return the response of two sites or more, given the response of each."""
        sites = tuple(part.site for part in parts)
        return cls(
            parts=parts,
            site=", ".join(sorted(sites)),
            family=" and ".join(part.family for part in parts),
            event_shape=(),
            has_moments=False,
            has_cdf=False,
            is_censored=any(part.is_censored for part in parts),
            has_marginals=False,
            needs_double=any(part.needs_double for part in parts),
            support=_RowOfSites(sites),
        )

    @classmethod
    def read(cls, d: Distribution, facts: Mapping[str, Any]) -> Self | None:
        return None  # the distribution of one site is of another kind

    @property
    def is_discrete(self) -> bool:
        return all(part.is_discrete for part in self.parts)

    @property
    def missing(self) -> Missing:
        return dict.fromkeys(get_args(Summary.__value__), f"y has {ask_for_one(tuple(p.site for p in self.parts))}.")

    def class_log_probs(self, d: Distribution) -> Array:
        raise NotImplementedError(f"probs: {self.missing['probs']}")

    def logits(self, d: Distribution) -> Array | None:
        return None


def pairs_of(one: Response, other: Response) -> list[tuple[Response, Response]]:
    """Return two responses, and those of their sites, which have the same names, in pairs."""
    if not isinstance(one, Several) or not isinstance(other, Several):
        return [(one, other)]
    of_site = {part.site: part for part in other.parts}
    return [(one, other), *((part, of_site[part.site]) for part in one.parts if part.site in of_site)]


def response_of_sites(parts: tuple[Response, ...]) -> Response:
    """Return the response of all observed sites of a model: of one, its own."""
    return parts[0] if len(parts) == 1 else Several.of(parts)


@dataclass(frozen=True)
class observing:  # noqa: N801
    """The model of which one of several observed sites is observed, and the others are left out of the density.

    Its y is the rows of this site. With the prior counted once, the density of the model is the sum of those of its
    sites, since rows are independent given the weights.

    Args:
        model: a NumPyro model whose y is a mapping from observed sites to rows.
        site: the site that is observed.
        others: the other observed sites.
    """

    model: NumPyroModel
    site: str
    others: tuple[str, ...]

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model."""
        if y is not None:
            y = {self.site: y, **self._placeholders(x, given)}
        with _LeftOut(self.others):
            return self.model(x, y, **given)

    def _placeholders(self, x: Rows, given: dict[str, Weights]) -> dict[str, Array]:
        """Return rows of the other sites, which the model is called with, and which nothing depends on."""
        left_out = _LeftOut((self.site, *self.others))  # nothing is drawn: not every distribution of y can be

        def run(x: Rows, y: Rows | None = None, **given: Weights) -> None:
            with left_out:
                self.model(x, y, **given)

        with block():
            abstract_trace(run, x, **given)
        values = left_out.values
        return {name: jnp.zeros(jnp.shape(values[name]), jnp.result_type(values[name])) for name in self.others}


class _LeftOut(Messenger):
    """Hides sites from all handlers further out, with values that are not drawn."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__()
        self.sites = sites
        self.values: dict[str, Any] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.sites:
            if msg["value"] is None:
                msg["value"] = jnp.zeros(msg["fn"].shape(), int if msg["fn"].support.is_discrete else float)
            self.values[msg["name"]] = msg["value"]
            msg["stop"] = True
