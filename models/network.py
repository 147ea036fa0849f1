"""Networks: maps from x to eta whose weights are sample sites."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from .prior import UNIT, Prior, Shape
from .weights import sample_weights

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
}


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron, ``h_l = activation(h_{l-1} W_l + b_l)``, linear in its last layer.

    The sites of layer l (from 1) are ``w{l}`` of shape (inputs, outputs) and ``b{l}`` of shape (outputs,); their
    dimensions are named feature, hidden1, hidden2, ..., output. In a model written by hand, call it like a function,
    and wrap two networks in `numpyro.handlers.scope` to give their sites different names.

    Args:
        widths: the number of hidden units of each layer; ``()`` is a linear map.
        activation: one of relu, silu, gelu, elu, tanh, sigmoid, softplus, or a function of an array. Smooth ones (silu,
            the default, or tanh) give posteriors that are easier to sample than with relu.

    Raises:
        ValueError: when a width is not a positive integer or the activation is unknown.
    """

    widths: tuple[int, ...] = ()
    activation: str | Callable[[Array], Array] = "silu"

    def __post_init__(self) -> None:
        try:
            widths = tuple(self.widths)
        except TypeError:
            raise ValueError(f"MLP: expected a sequence of widths, such as (16, 16); got {self.widths!r}.") from None
        if not all(isinstance(width, int) and width > 0 for width in widths):
            raise ValueError(f"MLP: expected positive integers as widths; got {widths!r}.")
        object.__setattr__(self, "widths", widths)
        if not callable(self.activation) and self.activation not in ACTIVATIONS:
            raise ValueError(
                f"MLP: expected a function or one of {', '.join(ACTIVATIONS)} as activation; got {self.activation!r}."
            )

    def sites(self, num_features: int, num_outputs: int) -> dict[str, tuple[Shape, tuple[str, ...]]]:
        """The weights of the network: site name -> (shape, names of the dimensions)."""
        sizes = (num_features, *self.widths, num_outputs)
        names = ("feature", *(f"hidden{i}" for i in range(1, len(self.widths) + 1)), "output")
        sites = {}
        for i in range(1, len(sizes)):
            sites[f"w{i}"] = (sizes[i - 1 : i + 1], names[i - 1 : i + 1])
            sites[f"b{i}"] = (sizes[i : i + 1], names[i : i + 1])
        return sites

    def __call__(
        self, x: Shaped[Array | np.ndarray, "*n d"], num_outputs: int = 1, *, prior: Prior = UNIT
    ) -> Float[Array, "*n k"]:
        """Sample the weights and return the outputs eta.

        Args:
            x: features in the last axis, rows before it.
            num_outputs: the number of outputs per row, k.
            prior: the prior of the weights; see `flatprior.models`.

        Raises:
            ValueError: when x has fewer than two axes, or a key of the prior matches no site.
        """
        if jnp.ndim(x) < 2:
            raise ValueError(
                f"MLP: expected x of shape (n, d), features last; got {jnp.shape(x)}. For one feature use x[:, None]."
            )
        sites = self.sites(jnp.shape(x)[-1], num_outputs)
        weights = sample_weights(prior, sites)
        activation = self.activation if callable(self.activation) else ACTIVATIONS[self.activation]
        # With more rows than units, XLA's CPU code computes W^T h, features first, up to 1.4 times as fast as h W.
        rows_first = max(size for shape, _ in sites.values() for size in shape) > math.prod(jnp.shape(x)[:-1])
        h = jnp.asarray(x) if rows_first else jnp.moveaxis(jnp.asarray(x), -1, 0)
        for i in range(1, len(self.widths) + 2):
            w, b = weights[f"w{i}"], weights[f"b{i}"]
            h = h @ w + b if rows_first else jnp.tensordot(w, h, axes=(0, 0)) + b.reshape(-1, *(1,) * (h.ndim - 1))
            if i <= len(self.widths):
                h = activation(h)
        return h if rows_first else jnp.moveaxis(h, 0, -1)
