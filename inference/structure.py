"""The structure of a model: its sites and its response."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .response import Response
from .rows import Rows
from .several import ask_for_one, check_keys, response_of_sites


@dataclass(frozen=True)
class Structure:
    """The sites and the responses of a model, read from an abstract trace. Equal structures share compiled code."""

    responses: tuple[Response, ...]
    """The description of y: of the value of each observed site, in the order in which the model observes them."""
    sites: tuple[tuple[str, tuple[int, ...]], ...]
    """The latent sites and their shapes, in the order in which the model samples them."""
    dims: tuple[tuple[str, tuple[str, ...]], ...]
    """The names of the dimensions, for the latent sites that state them in ``infer["event_dims"]``."""
    real: frozenset[str]
    """The latent sites whose support is the whole real line."""
    flat: frozenset[str]
    """The latent sites whose prior is flat: masked out of the density, as `flat` does, or `ImproperUniform`."""
    params: frozenset[str] = frozenset()
    """The parameters of the model, `numpyro.param`: latent sites, or containers that it does not use."""
    of_prior: frozenset[str] = frozenset()
    """The latent sites on which only the prior of others depends, by ``infer["of_prior"]``, such as its scale. The
    likelihood is the same at all their values, and under a flat prior they are no sites."""
    noncentred: frozenset[str] = frozenset()
    """The latent sites that samplers divide by the scale of their prior, by ``infer["noncentred"]``; see
    `handlers.noncentred`."""
    exchangeable: frozenset[str] = frozenset()
    """The latent sites that state ``infer["exchangeable"]``: their elements belong to units that can be exchanged
    without changing the density, such as the hidden units of a network, so that chains need not agree on them."""
    weighted: frozenset[str] = frozenset()
    """The observed sites whose rows the model weights, by a `scale` handler around the site or a mask."""

    @property
    def response(self) -> Response:
        """The description of y, as a whole: that of the observed site, or `Several`."""
        return response_of_sites(self.responses)

    @property
    def observed_sites(self) -> tuple[str, ...]:
        """The names of the observed sites."""
        return tuple(response.site for response in self.responses)

    @property
    def is_weighted(self) -> bool:
        """Whether the model weights rows of any observed site."""
        return bool(self.weighted)

    def of_site(self, site: str) -> "Structure":
        """Return the structure of the model of which one observed site alone is observed; see `several.observing`."""
        responses = tuple(response for response in self.responses if response.site == site)
        return replace(self, responses=responses, weighted=self.weighted & {site})

    def check_site(self, site: Any) -> None:
        """Raise KeyError unless there is an observed site of this name."""
        if site not in self.observed_sites:
            raise KeyError(f"Expected one of the observed sites {list(self.observed_sites)}; got {site!r}.")

    def check_one_site(self, caller: str) -> None:
        """Raise ValueError where there are several observed sites."""
        if len(self.responses) > 1:
            raise ValueError(f"{caller}: expected one observed site; y has {ask_for_one(self.observed_sites)}.")

    def by_site(self, y: Rows) -> list[tuple[str, Response, Rows]]:
        """Return what y is called, its response and its rows, for each observed site: several have keys in y.

        Raises:
            ValueError: when the keys of y are not the names of the several observed sites.
        """
        if len(self.responses) == 1:
            return [("y", self.responses[0], y)]
        check_keys(self.observed_sites, y)
        return [(f"y[{response.site!r}]", response, y[response.site]) for response in self.responses]

    @property
    def latents(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the latent sites, by name."""
        return dict(self.sites)

    @property
    def num_weights(self) -> int:
        """The number of elements of all latent sites together."""
        return sum(math.prod(shape) for _, shape in self.sites)

    @property
    def is_flat(self) -> bool:
        """Whether the priors of all sites are flat."""
        return self.flat == frozenset(self.latents)

    def flattened(self) -> "Structure":
        """Return the structure of the model under a flat prior."""
        likelihood = self.given(self.of_prior)
        return replace(likelihood, flat=frozenset(likelihood.latents), noncentred=frozenset())

    def given(self, fixed: Iterable[str]) -> "Structure":
        """Return the structure of the model conditioned on the values of some sites."""
        names = frozenset(fixed)
        return replace(
            self,
            sites=tuple((name, shape) for name, shape in self.sites if name not in names),
            dims=tuple((name, axes) for name, axes in self.dims if name not in names),
            real=self.real - names,
            flat=self.flat - names,
            params=self.params - names,
            of_prior=self.of_prior - names,
            noncentred=self.noncentred - names,
            exchangeable=frozenset() if names & self.exchangeable else self.exchangeable,  # others fix their order
        )

    def check_unweighted(self, caller: str) -> None:
        """Raise TypeError where the model weights rows: a code has one symbol per row, whatever its weight."""
        if self.is_weighted:
            raise TypeError(
                f"{caller}: expected a model in which every row counts once; a scale handler weights the rows of "
                f"{', '.join(map(repr, sorted(self.weighted)))}, and a row with a weight has no code. compare and "
                f"log_likelihood count the weights."
            )

    def check_proper(self, caller: str, *, improper_ok: bool) -> None:
        """Raise where the prior is flat: the one rule for every method that needs a posterior.

        Even in part, a flat prior may lead to a posterior that cannot be normalised, and neither chains nor a Gaussian
        would show it. Only the user can know whether a `numpyro.factor` or the likelihood makes the posterior proper.

        Raises:
            ValueError: when any site has a flat prior and `improper_ok` is not set.
        """
        if self.flat and not improper_ok:
            raise ValueError(
                f"{caller}: the prior is flat at the sites {sorted(self.flat)}, so the posterior may not be proper, "
                f"and the draws would not show it. Give them a proper prior, or set improper_ok=True."
            )
