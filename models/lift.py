"""Modules of Flax NNX or Equinox as networks."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .mixing import mixes_rows
from .modules import MIXED, Parts, library_of
from .prior import UNIT, Prior
from .weights import sample_weights


@dataclass(frozen=True, eq=False, repr=False)
class Lift:
    """A module of Flax NNX or Equinox as a network: its parameters are sites, and fits begin at their values.

    A site is named by the path of its parameter, joined by dots, such as ``layers.0.kernel``; `priors` lists the sites.
    The module is copied, so later changes to it have no effect. `numpyro.contrib.module` does the same for a model
    written by hand, but turns everything without a prior into an optimiser's parameter and silently accepts mistyped
    names; here a parameter that a mapping leaves out is an error. Fits share compiled code if they share the `Lift`;
    two `Lift` of one module are two networks.

    **Rows.** A module of NNX is called on all rows of x at once, a module of Equinox row by row under `jax.vmap`. The
    output of a row must depend on that row only: in a module of NNX ``x - x.mean(0)`` makes it depend on the other
    rows, which is an error at the first call. A module returns the outputs eta, one array of shape (n, k), or (n, T, k)
    for sequences, where k is the number of outputs that the observation needs.

    **Parameters** are, in NNX, the floats in variables of the type ``nnx.Param`` and, in Equinox, the arrays of floats.
    All other arrays are constants. A parameter that layers share by NNX's references or through ``eqx.nn.Shared`` is
    one site, named by its first path; an array that occurs twice in a module of Equinox is two parameters there, and
    here. Weights have JAX's default precision (float64 under ``jax.enable_x64``), whatever the precision of the module,
    except that parameters in half precision are rounded to it at each call. Some layers of Flax round to float32
    themselves: ``nnx.Embed``, and the attention of ``nnx.MultiHeadAttention``.

    **Priors** work as for every network: without a prior, a `Model` gives every parameter Normal(0, 1), including the
    scales of normalisation layers, and `priors` prints "default". `fan_in` counts the inputs of a unit as the layer
    does: all axes but the last of the kernels of ``nnx.Linear`` and ``nnx.Conv``; the axes that ``nnx.LinearGeneral``,
    and so attention, contracts; all but the first of the weights of ``eqx.nn.Linear``, ``Conv`` and recurrent cells;
    one for the rows of an embedding, for biases and for scales. For arrays of two or more axes in any other layer the
    inputs are unknown, and `fan_in` needs its argument `inputs`. The scale of a normalisation is 1 in a new module,
    while `gaussian` and `fan_in` have mean 0, where the layer is switched off: if you do not mean this, write another
    prior, such as ``{"*.scale": dist.Normal(1, 0.5), "*": fan_in(1.0)}``. ``"fixed"`` parameters keep their values and
    are not sites.

    **Initial values.** Point estimates and chains begin at the module's own values; of several restarts, members or
    chains the first does, and the others begin at the same values with the elements of each array of two or more axes
    permuted. If the values were drawn independently, this is as good as a new draw; it destroys trained values and
    orthogonal matrices. If the prior of a site has no density at its value, the site starts as in an `MLP`.
    `init_strategy` overrides all of this.

    Args:
        module: a module of Flax NNX or Equinox without state: batch normalisation, active dropout, and anything else
            that is stored between calls are errors.

    Raises:
        TypeError: when `module` is not such a module; for instance a class, or a module of Flax Linen.
        ValueError: when the module has state, or no parameters.

    Example:
        >>> import jax, numpy as np
        >>> from flax import nnx
        >>> from flatprior.models import Bernoulli, Lift, Model, fan_in, priors
        >>> rngs = nnx.Rngs(0)
        >>> net = nnx.Sequential(nnx.Linear(2, 8, rngs=rngs), jax.nn.silu, nnx.Linear(8, 1, rngs=rngs))
        >>> model = Model(Lift(net), Bernoulli(), {"*.kernel": fan_in(1.0), "layers.2.bias": "flat", "*": "fixed"})
        >>> priors(model, np.zeros((1, 2)))
        site             shape   size  prior              set by
        layers.0.kernel  (2, 8)    16  Normal(0, 0.7071)  key '*.kernel'
        layers.0.bias    (8,)       8  fixed              key '*'
        layers.2.kernel  (8, 1)     8  Normal(0, 0.3536)  key '*.kernel'
        layers.2.bias    (1,)       1  flat               key 'layers.2.bias'
        <BLANKLINE>
        3 sites with 25 weights. Fixed: 1 parameter with 8 weights.
    """

    module: InitVar[Any]
    parts: Parts = field(init=False)

    def __post_init__(self, module: Any) -> None:
        object.__setattr__(self, "parts", _take_apart(module))

    def __call__(self, x: Any, num_outputs: int = 1, *, prior: Prior = UNIT) -> Array:
        """Sample the parameters and return the outputs eta.

        Args:
            x: an array, or a pytree of arrays, whose first axis is n rows, as the module expects.
            num_outputs: the number of outputs per row, k.
            prior: the prior of the parameters; see `flatprior.models`.

        Returns:
            The outputs, shape (n, k) or (n, ..., k), in JAX's default precision or higher.

        Raises:
            TypeError: when the module does not return one array of floats.
            ValueError: when there are not k outputs per row, the module mixes rows, or the prior does not fit the
                parameters.
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
            raise ValueError(f"{self!r}: expected a module whose output for a row depends on that row only. {MIXED}")
        return eta.astype(jnp.promote_types(eta.dtype, jnp.float32))

    def rebuild(self, weights: Mapping[str, Any]) -> Any:
        """Return the module with other values of its parameters, such as one draw of a fit.

        Args:
            weights: site -> value; other parameters keep the module's own values.

        Raises:
            ValueError: when a site is unknown, or a value has another shape.
        """
        shapes = self.parts.shapes
        for site, value in weights.items():
            if site not in shapes:
                raise ValueError(f"{self!r}: expected values for some of the sites {list(shapes)}; got {site!r}.")
            if jnp.shape(value) != shapes[site]:
                raise ValueError(
                    f"{self!r}: expected shape {tuple(shapes[site])} for {site!r}; got {jnp.shape(value)}. From "
                    f"a fit take one draw: draws[{site!r}][0, 0]."
                )
        return self.parts.rebuild({site: weights.get(site, own) for site, own in self.parts.values.items()})

    def _check_outputs(self, eta: Any, rows: tuple[int, ...], num_outputs: int) -> None:
        if not isinstance(eta, Array) or not jnp.issubdtype(eta.dtype, jnp.floating):
            what = f"an array of {eta.dtype}" if isinstance(eta, Array) else type(eta).__name__
            raise TypeError(
                f"{self!r}: expected the module to return one array of floats, the outputs; got {what}. Wrap it "
                f"in a module that returns them."
            )
        if eta.ndim < 2 or eta.shape[:1] != rows:
            cure = " Give it a last axis of outputs: out[:, None], in Equinox out[None]." if eta.shape == rows else ""
            raise ValueError(
                f"{self!r}: expected outputs of shape {(*rows, num_outputs)}, rows first and outputs last; got "
                f"{eta.shape}.{cure}"
            )
        if eta.shape[-1] != num_outputs:
            raise ValueError(
                f"{self!r}: expected {num_outputs} outputs per row, as the observation needs; got {eta.shape[-1]}, "
                f"from outputs of shape {eta.shape}. Give the last layer of the module this width."
            )

    def __repr__(self) -> str:
        sizes = [value.size for value in self.parts.values.values()]
        return f"Lift({self.parts.name}, {len(sizes)} parameters, {sum(sizes):,} weights)"


@lru_cache(maxsize=64)
def _mixes_rows(lift: Lift, tree: Any, leaves: tuple[tuple[tuple[int, ...], Any], ...]) -> bool:
    """Whether a module mixes rows of these shapes and types; cached."""
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
            f"Lift: expected a module of Flax NNX or Equinox; got {type(module).__name__}, of Flax Linen, which "
            f"stores no parameters. Write it with flax.nnx."
        )
    if library is None:
        raise TypeError(f"Lift: expected a module of Flax NNX or Equinox; got {module!r}.")
    if not callable(module):
        raise TypeError(f"Lift: expected a module that is called on x; {type(module).__name__} has no __call__.")
    if library == "flax.nnx":  # imported here, since both libraries are optional
        from . import nnx_modules

        return nnx_modules.take_apart(module)
    from . import equinox_modules

    return equinox_modules.take_apart(module)
