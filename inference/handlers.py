"""Effect handlers, which turn a model into another one."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.handlers import block, seed, substitute, trace
from numpyro.primitives import Messenger

from .distributions import where_known
from .rows import Rows, Weights
from .sites import NumPyroModel, central_value, element, is_factor, log_prob, place_of, undrawn


@dataclass(frozen=True)
class flat:  # noqa: N801  (reads as a function, and is compared and hashed as a value)
    """Return the model under a flat prior: the log probability of every latent site is masked out of its density.

    ``fit(model, MLE(), ...)`` is ``fit(flat(model), MAP(), ...)``. The prior is flat in the coordinates of the
    model: a scale gets the density 1 on (0, inf), not its logarithm. Supports, initial values and draws from the prior
    do not change. A site on which only priors depend, such as a prior's scale, is none of the flat model's, by
    ``infer["of_prior"]``: no value of it is more likely than another.

    Args:
        model: a NumPyro model.

    Example:
        >>> import jax.numpy as jnp
        >>> from flatprior.inference import flat, log_density
        >>> from flatprior.models import MLP, Bernoulli, Model, gaussian
        >>> model = Model(MLP(), Bernoulli(), gaussian(1.0))
        >>> x, y, w = jnp.zeros((3, 1)), jnp.array([0, 1, 1]), {"w1": jnp.ones((1, 1)), "b1": jnp.zeros(1)}
        >>> print(f"{log_density(model, w, x, y):.3f} {log_density(flat(model), w, x, y):.3f}")
        -4.417 -2.079
    """

    model: NumPyroModel

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model."""
        with _MaskLatents():
            return self.model(x, y, **given)


class _MaskLatents(Messenger):
    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        if msg["infer"].get("of_prior"):
            msg["value"], msg["stop"] = central_value(msg), True
        else:
            msg["fn"] = msg["fn"].mask(False)


@dataclass(frozen=True)
class params_as_sites:  # noqa: N801
    """The model with every `numpyro.param` as a latent site with a flat prior, which starts at its initial value.

    NumPyro's SVI optimises a parameter, and everything else in NumPyro takes its initial value: two densities. As a
    site it has one value in the fit, the draws, the scores and the predictions. Parameters that are containers of
    arrays are hidden from other handlers; `supported.check_containers` refuses them where the model uses them.

    Args:
        model: a NumPyro model.
    """

    model: NumPyroModel

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model."""
        with _ParamsAsSites():
            return self.model(x, y, **given)


class _ParamsAsSites(Messenger):
    """The handler of `params_as_sites`, for one call of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}
        """The values of the parameters of this call: a second statement of the same name has the value of the first."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "param":
            return
        name, value = msg["name"], self._initial(msg)
        if msg["value"] is not None or name in self.values or not is_array(value):
            msg["value"], msg["stop"] = self.values.get(name, value), True
            return
        self.values[name] = None
        support = msg["kwargs"].get("constraint", constraints.real)
        msg |= {
            "type": "sample",
            "fn": dist.ImproperUniform(support, (), jnp.shape(value)),
            "args": (),
            "kwargs": {"rng_key": None, "sample_shape": ()},
            "scale": None,
            "is_observed": False,
            "intermediates": [],
            "cond_indep_stack": [],  # a plate around the statement does not repeat a parameter
            "infer": {"start": value},
        }

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.values:
            self.values[msg["name"]] = msg["value"]

    @staticmethod
    def _initial(msg: dict[str, Any]) -> Any:
        """Return the value that a handler within the model gave a parameter, or its initial value."""
        if msg["value"] is not None:
            return msg["value"]
        key = numpyro.prng_key()
        with block(), seed(rng_seed=jax.random.key(0) if key is None else key):
            return msg["fn"](*msg["args"], **msg["kwargs"])


def is_array(value: Any) -> bool:
    """Return whether the value of a parameter is one array or number, and not a container of arrays."""
    return value is not None and jax.tree_util.treedef_is_leaf(jax.tree.structure(value))


@dataclass(frozen=True)
class conditioned:  # noqa: N801
    """The model conditioned on the values of some of its sites: p(y, others | x, fixed), a model of the others only.

    The values are a separate argument, so that compiled code serves all values. The prior of a fixed site is a constant
    and is left out: the log prior of many weights would cost the remaining terms their precision.

    Args:
        model: a NumPyro model.
        dependent: the fixed sites whose prior has other sites as parameters. It is not a constant, and stays in the
            density.
    """

    model: NumPyroModel
    dependent: tuple[str, ...] = ()

    def __call__(self, x: Rows, y: Rows | None = None, *, fixed: Weights) -> Any:
        """Run the NumPyro model."""
        with block(hide=list(fixed)), trace() as sites, substitute(data=fixed):
            value = self.model(x, y)
        for name in self.dependent:
            numpyro.factor(f"log prior of {name}", log_prob(sites[name]))
        return value


@dataclass(frozen=True)
class noncentred:  # noqa: N801
    """The model in which some sites are standardised by their prior: their values are ``z = (w - loc) / scale``.

    As a learned scale falls, the region of its weights narrows, and no step size suits all of this funnel (Neal 2003,
    section 8). The prior of z does not depend on the scale (Papaspiliopoulos, Roberts & Sköld 2007). The sites keep
    their names and shapes; `weights` and `standardised` convert their values.

    Args:
        model: a NumPyro model.
        sites: the names of these sites, whose distributions have a ``loc`` and a ``scale``.
    """

    model: NumPyroModel
    sites: frozenset[str]

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model."""
        with _Standardised(self.sites):
            return self.model(x, y, **given)

    def weights(self, values: Weights, x: Rows, **given: Weights) -> Weights:
        """Return the values of the sites in the model, from those in this one."""

        def value(site: dict[str, Any]) -> Array | None:
            if site["name"] not in self.sites:
                return values.get(site["name"])
            loc, scale = place_of(site["fn"])
            return loc + scale * values[site["name"]]

        sites = trace(seed(substitute(self.model, substitute_fn=value), jax.random.key(0))).get_trace(x, None, **given)
        return {name: sites[name]["value"] for name in values}

    def standardised(self, weights: Weights, x: Rows, **given: Weights) -> Weights:
        """Return the values of the sites in this model, from those in the model: the inverse of `weights`."""
        model = seed(substitute(undrawn(self.model), data=weights), jax.random.key(0))
        sites, values = trace(model).get_trace(x, None, **given), dict(weights)
        for name in self.sites & set(weights):
            loc, scale = place_of(sites[name]["fn"])
            values[name] = (weights[name] - loc) / scale
        return values


class _Standardised(Messenger):
    """The handler of `noncentred`, for one call of a model."""

    def __init__(self, sites: frozenset[str]) -> None:
        super().__init__()
        self.sites = sites
        self.places: dict[str, tuple[Array, Array]] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.sites:
            self.places[msg["name"]] = place_of(msg["fn"])
            msg["fn"] = _standard(msg["fn"])

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.places:
            loc, scale = self.places.pop(msg["name"])
            msg["value"] = loc + scale * msg["value"]


def _standard(d: dist.Distribution) -> dist.Distribution:
    """Return the distribution of the standard noise of a distribution with a location and a scale."""
    each = element(d)
    others = {name: vars(each)[name] for name in each.arg_constraints if name not in ("loc", "scale")}
    one = type(each)(**others, loc=jnp.zeros_like(each.loc), scale=jnp.ones_like(each.scale))
    return one.expand(d.shape()).to_event(d.event_dim)


@dataclass(frozen=True)
class given:  # noqa: N801
    """The model given numbers for some of its sites, which are then none of its own; see `tune`. A value.

    Args:
        model: a NumPyro model.
        values: the numbers by site, as pairs.
    """

    model: NumPyroModel
    values: tuple[tuple[str, float], ...]

    def __call__(self, x: Rows, y: Rows | None = None, **fixed: Weights) -> Any:
        """Run the NumPyro model."""
        values = dict(self.values)
        with block(hide=list(values)), substitute(data=values):
            return self.model(x, y, **fixed)


@dataclass(frozen=True, eq=False)
class counted:  # noqa: N801
    """The model in which rows of y have weights, and only known values of y count. Its arrays are part of the data.

    A row of weight w is worth w equal rows: its log probability, and its elements of a `numpyro.factor` over rows, are
    times w, on top of a `scale` handler of the user's own.

    Args:
        model: a NumPyro model.
        observed: the names of its observed sites.
        weights: the weight of each row, (n,), or None.
        known: which values of y are known, as booleans in its shape, or None; of several observed sites by site.
    """

    model: NumPyroModel
    observed: tuple[str, ...]
    weights: Rows
    known: Rows

    def __call__(self, x: Rows, y: Rows | None = None, **given: Weights) -> Any:
        """Run the NumPyro model."""
        with _Count(self.observed, self.weights, self.known):
            return self.model(x, y, **given)


class _Count(Messenger):
    """The handler of `counted`, for one call of a model."""

    def __init__(self, observed: tuple[str, ...], weights: Rows, known: Rows) -> None:
        super().__init__()
        self.observed, self.weights = observed, weights
        self.known = {} if known is None else {observed[0]: known} if len(observed) == 1 else known

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample":
            return
        is_y = msg["name"] in self.observed
        if msg["name"] in self.known and msg["is_observed"]:
            msg["fn"] = where_known(msg["fn"], self.known[msg["name"]])
        if self.weights is not None and (is_y or self._is_over_rows(msg["fn"])):
            msg["scale"] = self.weights if msg["scale"] is None else msg["scale"] * self.weights

    def _is_over_rows(self, d: dist.Distribution) -> bool:
        return is_factor(d) and d.batch_shape == jnp.shape(self.weights)


class scaled(Messenger):  # noqa: N801
    """Scale the log probabilities of the observed sites by one factor, and those of the latent sites by another.

    A `numpyro.factor` that has no axis of rows is a term of the whole density, and is not scaled.
    """

    def __init__(self, observed: float, latent: Array | None) -> None:
        super().__init__()
        self.observed, self.latent = observed, latent

    def process_message(self, msg: dict[str, Any]) -> None:
        factor = self._factor(msg)
        if factor is not None:
            msg["scale"] = factor if msg["scale"] is None else msg["scale"] * factor

    def _factor(self, msg: dict[str, Any]) -> Any:
        if msg["type"] != "sample":
            return None
        if not msg["is_observed"]:
            return self.latent
        has_no_rows = is_factor(msg["fn"]) and not msg["fn"].batch_shape
        return None if has_no_rows or self.observed == 1 else self.observed
