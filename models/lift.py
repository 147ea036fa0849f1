"""Networks from elsewhere: a module of Flax NNX or Equinox as a network."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .mixing import mixes_rows
from .modules import MIXED, Parts, library_of
from .prior import UNIT, Prior, sample_weights


@dataclass(frozen=True, eq=False, repr=False)
class Lift:
    """A module of Flax NNX or Equinox as a network: its parameters are sites, its own values are where fits begin.

    A site is named by the path of its parameter, joined by dots, such as ``layers.0.kernel``; `priors` lists them. The
    module is copied: what is done to it later changes nothing here. `numpyro.contrib.module` does the same for a model
    written by hand, but makes an optimiser's parameters of all that has no prior, and takes mistyped names without a
    word; here what a mapping leaves out is an error. The same `Lift` shares compiled code; two of one module are two
    networks.

    **Rows.** A module of NNX is called on all rows of x at once, one of Equinox row by row under `jax.vmap`. What a row
    gives must be its own: ``x - x.mean(0)`` in a module of NNX makes it depend on the rows beside it, and is refused at
    the first call. A module returns the outputs eta, one array of shape (n, k), or (n, T, k) for sequences, with as
    many outputs k as the observation asks for.

    **Parameters** are, of NNX, the floats in variables of the type ``nnx.Param``, and, of Equinox, the arrays of
    floats. All other arrays are constants. A parameter that layers share by NNX's references or through
    ``eqx.nn.Shared`` is one site, named by its first path; an array that stands twice in a module of Equinox is two
    parameters, there and here.
    Weights have JAX's default precision (float64 under ``jax.enable_x64``), whatever precision the module was made in;
    one that keeps half precision computes with it, from weights that are rounded for each call. Some layers of Flax
    round to float32 themselves: ``nnx.Embed``, and the attention of ``nnx.MultiHeadAttention``.

    **Priors** are those of every network: a `Model` that is given none has Normal(0, 1) for every parameter, scales of
    a normalisation among them, and `priors` calls it the default. `fan_in` counts the inputs of a unit as the layer has
    them: all axes but the last of the kernels of ``nnx.Linear`` and ``nnx.Conv``; the axes that ``nnx.LinearGeneral``,
    and so attention, contracts; all but the first of the weights of ``eqx.nn.Linear``, ``Conv`` and recurrent cells;
    one for the rows of an embedding, for biases and for scales. Arrays of two axes or more of any other layer have
    inputs that are not known, and `fan_in` refuses them unless it is told. The scale of a normalisation is 1 in a new
    module, while `gaussian` and `fan_in` have their mean at 0, where the layer is switched off: write another prior,
    such as ``{"*.scale": dist.Normal(1, 0.5), "*": fan_in(1.0)}``, where that is not what is believed. ``"fixed"``
    keeps parameters as they are; they are then no sites.

    **Starts.** Point estimates and chains begin at the module's own values; of several restarts, members or chains the
    first does, and the others at the same values with the elements of each array of two axes or more in another order.
    Of independent initial values that is as good a draw; what training has put into a module, and orthogonal matrices,
    are lost in it. Where the prior of a site rules its value out, it starts as in an `MLP`. `init_strategy` overrides
    all of it.

    Args:
        module: of Flax NNX or Equinox, without state: batch normalisation, dropout that is not switched off, and other
            things that are kept between calls are refused.

    Raises:
        TypeError: when it is not a module, but a class, say, or a module of Flax Linen.
        ValueError: when it has state, or no parameters.

    Example:
        >>> import jax, numpy as np
        >>> from flax import nnx
        >>> from flatprior.models import Bernoulli, Lift, Model, fan_in, priors
        >>> rngs = nnx.Rngs(0)
        >>> net = nnx.Sequential(nnx.Linear(2, 8, rngs=rngs), jax.nn.silu, nnx.Linear(8, 1, rngs=rngs))
        >>> model = Model(Lift(net), Bernoulli(), {"*.kernel": fan_in(1.0), "layers.2.bias": "flat", "*": "fixed"})
        >>> priors(model, np.zeros((1, 2)))
        site             shape   numbers  prior              set by
        layers.0.kernel  (2, 8)       16  Normal(0, 0.7071)  key '*.kernel'
        layers.0.bias    (8,)          8  fixed              key '*'
        layers.2.kernel  (8, 1)        8  Normal(0, 0.3536)  key '*.kernel'
        layers.2.bias    (1,)          1  flat               key 'layers.2.bias'
        <BLANKLINE>
        3 sites of 25 numbers. Fixed: 1 parameter of 8 numbers.
    """

    module: InitVar[Any]
    parts: Parts = field(init=False)

    def __post_init__(self, module: Any) -> None:
        object.__setattr__(self, "parts", _take_apart(module))

    def __call__(self, x: Any, num_outputs: int = 1, *, prior: Prior = UNIT) -> Array:
        """Sample the parameters and return the outputs eta.

        Args:
            x: an array, or a pytree of arrays, with n rows first, as the module takes it.
            num_outputs: number of outputs a row, k.
            prior: the prior of the parameters; see `flatprior.models`.

        Returns:
            The outputs, shape (n, k) or (n, ..., k), in JAX's default precision or higher.

        Raises:
            TypeError: when the module returns something else than one array.
            ValueError: when its outputs are not k a row, it mixes rows, or the prior does not fit the parameters.
        """
        sites = {site: (shape, ()) for site, shape in self.parts.shapes.items()}
        module = self.parts.rebuild(sample_weights(prior, sites, start=self.parts.values))
        try:
            eta = self.parts.call(module, x)
        except Exception as error:
            error.add_note(f"Raised by the module of {self!r}, called with x of shape {jax.tree.map(jnp.shape, x)}.")
            raise
        self._check_outputs(eta, jnp.shape(jax.tree.leaves(x)[0])[:1], num_outputs)
        leaves, tree = jax.tree.flatten(x)
        if _mixes_rows(self, tree, tuple((jnp.shape(leaf)[1:], jnp.result_type(leaf)) for leaf in leaves)):
            raise ValueError(f"{self!r}: expected a module that gives each row its own output. {MIXED}")
        return eta.astype(jnp.promote_types(eta.dtype, jnp.float32))

    def rebuild(self, weights: Mapping[str, Any]) -> Any:
        """The module with other values of its parameters, such as one draw of a fit.

        Args:
            weights: site -> value; what is not given keeps the module's own value.

        Raises:
            ValueError: when there is no such site, or a value has another shape.
        """
        shapes = self.parts.shapes
        for site, value in weights.items():
            if site not in shapes:
                raise ValueError(f"{self!r}: expected values for some of the sites {list(shapes)}; got {site!r}.")
            if jnp.shape(value) != shapes[site]:
                raise ValueError(
                    f"{self!r}: expected shape {tuple(shapes[site])} for {site!r}; got {jnp.shape(value)}. Of a fit "
                    f"take one draw, draws[{site!r}][0, 0]."
                )
        return self.parts.rebuild({site: weights.get(site, own) for site, own in self.parts.values.items()})

    def _check_outputs(self, eta: Any, rows: tuple[int, ...], num_outputs: int) -> None:
        if not isinstance(eta, Array) or not jnp.issubdtype(eta.dtype, jnp.floating):
            what = f"an array of {eta.dtype}" if isinstance(eta, Array) else type(eta).__name__
            raise TypeError(
                f"{self!r}: expected the module to return one array of floats, the outputs; got {what}. Write a module "
                f"around it that returns them."
            )
        if eta.ndim < 2 or eta.shape[:1] != rows:
            cure = " Give it a last axis of outputs: out[:, None], in Equinox out[None]." if eta.shape == rows else ""
            raise ValueError(
                f"{self!r}: expected outputs of shape {(*rows, num_outputs)}, rows first and outputs last; got "
                f"{eta.shape}.{cure}"
            )
        if eta.shape[-1] != num_outputs:
            raise ValueError(
                f"{self!r}: expected {num_outputs} outputs a row, as the observation asks; got {eta.shape[-1]}, from "
                f"outputs of shape {eta.shape}. Make the last layer of the module that wide."
            )

    def __repr__(self) -> str:
        sizes = [value.size for value in self.parts.values.values()]
        return f"Lift({self.parts.name}, {len(sizes)} parameters, {sum(sizes):,} numbers)"


@lru_cache(maxsize=64)
def _mixes_rows(lift: Lift, tree: Any, leaves: tuple[tuple[tuple[int, ...], Any], ...]) -> bool:
    """Whether a module mixes rows of these shapes and types, asked once."""
    if lift.parts.row_by_row:
        return False
    x = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in leaves])
    parts = lift.parts
    return mixes_rows(lambda weights, x: parts.call(parts.rebuild(weights), x), parts.values, x)


def _take_apart(module: Any) -> Parts:
    if isinstance(module, type):
        raise TypeError(f"Lift: expected a module; got the class {module.__name__}. Make one: {module.__name__}(...).")
    library = library_of(module)
    if library == "flax.linen":
        raise TypeError(
            f"Lift: expected a module of Flax NNX or Equinox; got {type(module).__name__}, of Flax Linen, which holds "
            f"no parameters. Write it with flax.nnx."
        )
    if library is None:
        raise TypeError(f"Lift: expected a module of Flax NNX or Equinox; got {module!r}.")
    if not callable(module):
        raise TypeError(f"Lift: expected a module that is called on x; {type(module).__name__} has no __call__.")
    if library == "flax.nnx":  # neither library is needed by those who lift none of its modules
        from . import nnx_modules

        return nnx_modules.take_apart(module)
    from . import equinox_modules

    return equinox_modules.take_apart(module)
