"""The prior as a fit: draws of the weights that no data have informed."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..checks import check_positive_integer
from ..density import Density
from ..method import Kind, Outcome
from ..programs import program
from ..rows import Data, Weights
from ..status import Status
from ..store import Store

BLOCK_BYTES = 2**26
"""The device memory of the draws that are made together, 64 MiB."""
BLOCK_DRAWS = 256
"""The largest number of draws that are made together."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Independent draws from the prior, ``p(w)``: what the model believes before it sees the data.

    `Fit.predict` is then the prior predictive distribution, ``p(y | x) = mean over draws of p(y | x, w_s)``. In
    `compare` it shows what the data have added to the prior, and `plot_fit` shows the functions that the prior allows
    (Gelman et al. 2020, section 2.4). y is checked like that of any fit, but does not influence the draws.

    `Fit.to_datatree` has them in the group ``prior``, as ArviZ expects.

    Args:
        num_samples: the number of draws, in one chain: draws are shaped (1, num_samples, *shape of the site). The first
            n draws of a key are the same for any `num_samples`.

    Raises:
        ValueError: when `num_samples` is not a positive integer.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import Prior, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.array([[0.0], [2.0]])
        >>> prior = fit(Model(MLP(), Normal(1.0), gaussian(1.0)), Prior(num_samples=100_000), x, np.zeros(2), key=0)
        >>> print(prior.predict(x).variance.round(1))  # 1 + 1 + x^2
        [2. 6.]
    """

    name: ClassVar[str] = "Prior"
    kind: ClassVar[Kind] = "prior"
    draws_chains: ClassVar[bool] = False
    leaves_out: ClassVar[str] = ""
    growing: ClassVar[tuple[str, ...]] = ("num_samples",)
    streams: ClassVar[bool] = False
    spreads_rows: ClassVar[bool] = False

    num_samples: int = 1000

    def __post_init__(self) -> None:
        check_positive_integer("Prior", "num_samples", self.num_samples)

    def run(self, density: Density, data: Data, *, key: Array, progress: bool, store: Store | None = None) -> Outcome:
        """See `Method.run`. Nothing is written to the store: the draws take no longer to make than to read.

        Raises:
            ValueError: when the prior of a site is flat: it is no distribution, so it cannot be drawn from.
        """
        if density.structure.flat:
            raise ValueError(
                f"Prior: expected a proper prior at every site; it is flat at {sorted(density.structure.flat)}, and a "
                f"flat prior is no distribution to draw from. Give these sites a proper prior."
            )
        draws = program(_Draws, density, data)
        blocks = [
            jax.device_get(draws.block(jax.random.fold_in(key, i), data))
            for i in range(-(-self.num_samples // draws.size))
        ]
        sites = density.structure.latents
        joined = {site: np.concatenate([block[site] for block in blocks])[: self.num_samples] for site in sites}
        return Outcome({site: values[None] for site, values in joined.items()}, Status())


class _Draws:
    """Draws from the prior of a density, compiled for blocks of one size: any number of draws compiles nothing more."""

    def __init__(self, density: Density) -> None:
        bytes_per_draw = jnp.dtype(float).itemsize * density.structure.num_weights
        self.size = max(1, min(BLOCK_DRAWS, BLOCK_BYTES // bytes_per_draw))

        def block(key: Array, data: Data) -> Weights:
            keys = jax.random.split(key, self.size)
            return jax.vmap(lambda key: density.sample(key, data, lambda site: None))(keys)

        self.block = jax.jit(block)
