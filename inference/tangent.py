"""Models linearised around a point: observations whose parameters are linear in the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution, biject_to
from numpyro.handlers import block, seed, substitute, trace
from numpyro.primitives import Messenger

from .density import Density
from .distributions import constrained, unconstrained
from .fingerprint import ByValue
from .internals import Jaxpr, Literal, jaxprs_in_params
from .rows import Data, Rows, Weights, signature
from .sites import NumPyroModel, central_value, is_factor

PRODUCTS = ("dot_general", "conv_general_dilated")
"""The operations that multiply the units of one layer by the weights of the next."""
CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
"""The operations whose outputs are those of the program within."""


@dataclass(frozen=True)
class tangent:  # noqa: N801
    """The model linearised around weights that are an argument, ``at``: compiled code serves all of them.

    Without them it is the model itself. See `linearized`.

    Args:
        model: a NumPyro model.
    """

    model: NumPyroModel

    def __call__(self, x: Rows, y: Rows | None = None, *, at: Weights | None = None, **given: Any) -> Any:
        """Run the NumPyro model; `at` has all latent sites, in the coordinates of the model."""
        if at is None:
            return self.model(x, y, **given)
        linear = _Linearize(self.model, at, x, y, given)
        with linear:
            value = self.model(x, y, **given)
        linear.check_complete()
        return value


class _Linearize(Messenger):
    """The handler of `tangent`, for one call of a model."""

    def __init__(self, model: NumPyroModel, at: Weights, x: Rows, y: Rows | None, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.at, self.sites = at, dict[str, tuple[Any, Array]]()
        """The transform of each latent site of this call, and its value in unconstrained coordinates."""
        self.arguments, self.model, self.given = (x, y), model, given

    def process_message(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if msg["type"] != "sample" or name in self.at or is_factor(msg["fn"]):
            return
        if not msg["is_observed"] and self.arguments[1] is not None:
            self._refuse(f"{name!r} is missing in {sorted(self.at)}")
        msg["fn"] = self._linear(name)

    def check_complete(self) -> None:
        """Raise ValueError where the point has sites that the model does not sample."""
        unseen = sorted(set(self.at) - set(self.sites))
        if unseen:
            self._refuse(f"there is no {unseen} in the model")

    def _refuse(self, what: str) -> None:
        raise ValueError(f"linearized: expected at to have all latent sites of the model, and no others; {what}.")

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.at:
            shapes = jnp.shape(self.at[msg["name"]]), jnp.shape(msg["value"])
            if shapes[0] != shapes[1]:
                raise ValueError(f"linearized: expected at[{msg['name']!r}] of shape {shapes[1]}; got {shapes[0]}.")
            transform = biject_to(msg["fn"].support)
            self.sites[msg["name"]] = transform, transform.inv(jnp.asarray(msg["value"], float))

    def _linear(self, observed: str) -> Distribution:
        """Return the distribution of an observed site with parameters linear in the weights that precede it."""
        here = {site: u for site, (_, u) in self.sites.items()}
        centre = {site: transform.inv(jnp.asarray(self.at[site], float)) for site, (transform, _) in self.sites.items()}
        moves = {site: (u - centre[site]).astype(centre[site].dtype) for site, u in here.items()}

        def parameters(u: Weights) -> Distribution:
            weights = {site: self.sites[site][0](value) for site, value in u.items()}
            return unconstrained(self._observation(observed, weights))

        at_centre, slopes = jax.jvp(parameters, (centre,), (moves,))
        return constrained(jax.tree.map(_moved, at_centre, slopes))

    def _observation(self, observed: str, weights: Weights) -> Distribution:
        """Return the distribution of the observed site of the model at weights."""

        def values(site: dict[str, Any]) -> Array | None:
            is_drawn = site["name"] not in weights and site["type"] == "sample" and not site["is_observed"]
            if is_drawn and site["name"] == observed:
                return jnp.zeros(site["fn"].shape())
            return central_value(site) if is_drawn else weights.get(site["name"])

        with block(), trace() as sites, seed(rng_seed=jax.random.key(0)), substitute(substitute_fn=values):
            self.model(*self.arguments, **self.given)
        return sites[observed]["fn"]


def _moved(value: Array, move: Array) -> Array:
    return value if move.dtype == jax.dtypes.float0 else value + move


@dataclass(frozen=True, repr=False)
class Linearized:
    """A model linearised around a point, made by `linearized`. Compared and hashed by value."""

    model: NumPyroModel
    """The model that is linearised."""
    point: ByValue
    """The point: site -> value, in the coordinates of the model."""

    def __call__(self, x: Rows, y: Rows | None = None, **given: Any) -> Any:
        """Run the NumPyro model."""
        return tangent(self.model)(x, y, at=self.point.value, **given)

    def __repr__(self) -> str:
        return f"linearized({self.model!r}, at={self.point.value!r})"


def linearized(model: NumPyroModel, at: Any) -> Linearized:
    """Return the model whose observation is linear in the weights, with the derivatives at a point (Immer et al. 2021).

    The parameters of the distribution of y, in their unconstrained coordinates, are replaced by their first-order
    expansion in the weights, in theirs:

        theta(u) = theta(u*) + J (u - u*),    J = d theta / d u at u*.

    Unconstrained coordinates are those of NumPyro's `biject_to`: for a mean itself, for a scale or rate its logarithm,
    for probabilities their log odds (of several classes: stick breaking), for logits themselves. The components of a
    mixture are linearised one by one. Parameters that are integers, and arguments without a constraint, keep their
    meaning and are linearised as they are. Priors, factors and the weights of rows stay as they are.

    The result is a NumPyro model like any other: it can be fitted, sampled, compared and saved. A model with parameters
    linear in the weights, such as a generalised linear model, is not changed. The Gaussian with Gauss-Newton
    curvature at a mode, `Laplace`, is an approximation of the posterior of this model, and no more of that of `model`;
    it is exact where y is Normal with known scale and the priors are Normal.

    Args:
        model: a NumPyro model.
        at: the point u*: a fit of one draw, such as one by `MAP`; a fit by `Laplace`, whose mode is taken; or latent
            site -> value in the coordinates of the model (a scale is positive), for all its latent sites.

    Raises:
        TypeError: when `at` is neither.
        ValueError: when `at` is a fit with several draws; and, from a call of the result, when the sites of `at` or
            their shapes are not those of the model.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import linearized, log_density
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x, y = np.linspace(-2, 2, 5)[:, None], np.array([0.8, -0.8, 0.0, 0.8, -0.8])
        >>> network = Model(MLP((2,), "tanh"), Normal(0.5), gaussian(1.0))
        >>> at = {"w1": np.ones((1, 2)), "b1": np.zeros(2), "w2": np.full((2, 1), 0.5), "b2": np.zeros(1)}
        >>> for factor in 1.0, 1.1, 1.2:  # the two touch at the point
        ...     w = {site: factor * value for site, value in at.items()}
        ...     print(f"{log_density(network, w, x, y):.3f} {log_density(linearized(network, at), w, x, y):.3f}")
        -21.265 -21.265
        -23.137 -23.155
        -25.210 -25.281
    """
    return Linearized(model, ByValue(_point(at)))


def _point(at: Any) -> dict[str, np.ndarray]:
    """Return a point, site -> value, from a fit or a mapping."""
    if hasattr(at, "draws") and hasattr(at, "outcome"):
        if at.outcome.linearized_at:
            return dict(at.outcome.linearized_at)
        shape = next(iter(at.draws.values())).shape[:2]
        if shape != (1, 1):
            raise ValueError(
                f"linearized: expected a fit of one draw, such as one by MAP(), or one by Laplace(), which has a mode; "
                f"got {shape[0]} x {shape[1]} draws. Give at a mapping, site -> value."
            )
        return {site: np.asarray(value[0, 0]) for site, value in at.draws.items()}
    if not isinstance(at, Mapping) or not at:
        raise TypeError(f"linearized: expected a fit, or latent site -> value, as at; got {at!r}.")
    return {site: np.asarray(value) for site, value in at.items()}


def has_hidden_units(density: Density, data: Data) -> bool:
    """Return whether a model is a network: whether it multiplies functions of x and weights by further weights.

    The posterior of such weights has as many modes as the units have orders, and only predictions have a meaning. It is
    read from the traced program: a matrix product or convolution of which one factor depends on weights and x, and the
    other on weights.
    """
    return _has_hidden_units(density, *signature(data))


@lru_cache(maxsize=256)
def _has_hidden_units(density: Density, tree: Any, leaves: Any) -> bool:
    data = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])
    like = {site: jax.ShapeDtypeStruct(shape, jnp.result_type(float)) for site, shape in density.structure.sites}

    def parameters(weights: Weights, x: Rows, others: Data) -> list[Any]:
        return jax.tree.leaves(density.observations(weights, replace(others, x=x)))

    arguments = like, data.x, replace(data, x=None, y=None)
    program = jax.make_jaxpr(parameters)(*arguments).jaxpr
    names = (frozenset({"weights"}), frozenset({"x"}), frozenset[str]())
    sources = [name for name, part in zip(names, arguments, strict=True) for _ in jax.tree.leaves(part)]
    return _multiplies(program, sources)[0]


def _multiplies(program: Jaxpr, sources: Sequence[frozenset[str]]) -> tuple[bool, list[frozenset[str]]]:
    """Return whether a program multiplies hidden units by weights, and what its outputs depend on.

    Args:
        program: a traced program.
        sources: what each of its inputs depends on: "weights", "x", both or none.
    """
    known, found = dict(zip(program.invars, sources, strict=True)), False
    for equation in program.eqns:
        given = [frozenset() if isinstance(var, Literal) else known.get(var, frozenset()) for var in equation.invars]
        everything = frozenset().union(*given)
        if equation.primitive.name in PRODUCTS:
            found |= any("weights" in one and {"weights", "x"} <= other for one, other in (given[:2], given[1::-1]))
        outputs = [everything] * len(equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            fits = len(inner.invars) == len(given)
            is_found, ends = _multiplies(inner, given if fits else [everything] * len(inner.invars))
            found |= is_found
            outputs = ends if fits and len(ends) == len(outputs) and equation.primitive.name in CALLS else outputs
        known.update(zip(equation.outvars, outputs, strict=True))
    return found, [frozenset() if isinstance(var, Literal) else known.get(var, frozenset()) for var in program.outvars]
