"""The last layer of a network, given the others."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..density import Density
from ..handlers import conditioned
from ..rows import Data, Weights
from ..structure import Structure
from ..tangent import has_hidden_units


class Part(NamedTuple):
    """Some sites of a model, given the others."""

    density: Density
    """The density of all sites."""
    sites: tuple[str, ...]
    """The sites of the part."""

    @property
    def structure(self) -> Structure:
        """The structure of the model of the part."""
        return self.density.structure.given(set(self.density.structure.latents) - set(self.sites))

    def at(self, u: Weights, data: Data) -> tuple[Weights, Density, Data, Weights]:
        """Return the values of the other sites at a point, the density given these, its data, and the point in it.

        The prior of a site of the part may depend on the others, which come before it in the model, and not they on it.
        """
        weights = self.density.constrain(u, data)
        fixed = {site: value for site, value in weights.items() if site not in self.sites}
        given = Density(conditioned(self.density.model), self.structure)
        return fixed, given, replace(data, fixed=fixed), {site: u[site] for site in self.sites}

    def is_linear(self, data: Data) -> bool:
        """Return whether no unit that depends on x and the part is multiplied by weights of the part."""
        shapes, dtype = self.density.structure.latents, jax.dtypes.canonicalize_dtype(float)
        fixed = {site: jnp.zeros(shape, dtype) for site, shape in shapes.items() if site not in self.sites}
        given = Density(conditioned(self.density.model), self.structure)
        return not has_hidden_units(given, replace(data, fixed=fixed))


def last_layer(density: Density, data: Data) -> Part:
    """Return the last layer of a network: the longest run of sites at its end that is not itself a network.

    For an `MLP` it is the last matrix and its bias, and a scale of the observation with them.

    Raises:
        ValueError: where there is none, or the model is no network.
    """
    if data.fixed:
        raise ValueError("Laplace: structure='last_layer' is for a whole model; Conditional has named its sites.")
    sites = tuple(density.structure.latents)
    runs = [Part(density, sites[start:]) for start in range(1, len(sites))]
    linear = [part for part in runs if part.is_linear(data)]
    if not has_hidden_units(density, data) or not linear:
        raise ValueError(
            f"Laplace: structure='last_layer' expects a network whose last layer comes last; got the sites "
            f"{list(sites)}. Use Conditional(sites=..., method=Laplace()), which names them."
        )
    return linear[0]
