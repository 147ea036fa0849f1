"""The effects of NumPyro in a model that a density cannot have: each is refused by name.

Handlers and primitives that are not named here work as NumPyro means them: `sample`, `param` (see
`handlers.params_as_sites`), `factor`, `deterministic`, `plate`, `scan` of latent sites, and models wrapped in `scale`,
`mask`, `lift`, `reparam`, `scope`, `do`, `infer_config` or `trace`. tests/test_handlers.py has a model for each.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import convert_constvars_jaxpr, dce_jaxpr
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.distributions import Distribution
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from .handlers import is_array
from .rows import Rows
from .sites import NumPyroModel, is_factor, is_latent, mask_of, unmasked

CONSTANT = "Write the value as a constant in the model; in a lifted module, the prior 'fixed' does."


class Refusals(Messenger):
    """A handler that raises where a model does what a density cannot have, as the model and its own handlers do it."""

    def __init__(self, fn: NumPyroModel) -> None:
        super().__init__(fn)
        self.params: dict[str, Any] = {}
        """The shapes of the parameters, `numpyro.param`, by name: of single arrays, or of containers of arrays."""

    def process_message(self, msg: dict[str, Any]) -> None:
        match msg["type"]:
            case "param":
                self.params.setdefault(msg["name"], None)
            case "sample":
                _check_sample(msg)
            case "plate":
                size, subsample_size = msg["args"]
                if subsample_size is not None and subsample_size != size:
                    raise ValueError(
                        f"Plate {msg['name']!r}: expected all {size} rows; got subsample_size={subsample_size}, which "
                        f"fits other rows at each call. Leave it out, and give the method batch_size={subsample_size}."
                    )
            case "control_flow" if msg["fn"] is cond_wrapper:
                raise ValueError(
                    "Expected a model without numpyro.contrib.control_flow.cond, whose sites the optimisers of NumPyro "
                    "draw anew at each step instead of training them. Sample the sites before it, and choose between "
                    "values by jnp.where or jax.lax.cond."
                )
            case "mutable":
                raise ValueError(
                    f"Mutable site {msg['name']!r}: expected a density, which is the same at every call; the model "
                    f"updates a state. Use a module without state: layer normalisation in place of batch normalisation."
                )

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Record the shapes of a parameter, before the model changes its container."""
        if msg.get("name") in self.params and msg["value"] is not None:
            self.params[msg["name"]] = jax.tree.map(_shape, msg["value"])


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _check_sample(msg: dict[str, Any]) -> None:
    if not is_latent(msg) or msg.get("_control_flow_done", False):
        return
    if msg["value"] is not None:
        raise ValueError(
            f"Latent site {msg['name']!r}: expected a site without a value; numpyro.handlers.substitute or replay gave "
            f"it one, which the fit would replace. {CONSTANT}"
        )
    if msg["kwargs"].get("rng_key") is not None:
        raise ValueError(
            f"Latent site {msg['name']!r}: expected a model without random keys of its own; numpyro.handlers.seed "
            f"inside it would make all draws equal. Leave out the handler: each fit has a key."
        )


def check_observation(name: str, site: dict[str, Any], num_rows: int) -> None:
    """Raise unless an observed site has one log probability per row, given the weights and x.

    Args:
        name: the name of the observed site.
        site: the site, from `abstract_trace`.
        num_rows: the number of rows.
    """
    if site.get("_control_flow_done", False):
        raise ValueError(
            f"Observed site {name!r}: expected rows that are independent given the weights; it is sampled inside scan, "
            f"where a row may depend on the rows before. Pass past values of y as features in x (an autoregression by "
            f"lags), and sample all rows in one statement."
        )
    shape, d, value = site["log_prob_shape"], site["fn"], np.shape(site["value"])
    if shape == () and num_rows in d.event_shape[:1]:
        raise ValueError(
            f"Observed site {name!r}: expected rows that are independent given the weights, with one log probability "
            f"each; got one for all {num_rows} rows (event shape {d.event_shape}), as from .to_event(1) around "
            f"the rows, a Gaussian process or a time series. Leave out .to_event(1), or sample the latent function as "
            f"weights, and the rows given it."
        )
    if shape != (num_rows,):
        # (n,) against (n, 1) would broadcast to (n, n) unnoticed.
        raise ValueError(
            f"Observed site {name!r}: expected one log probability per row, shape {(num_rows,)}; got "
            f"{shape}, from y of shape {value} and a distribution with batch shape "
            f"{d.batch_shape} and event shape {d.event_shape}. Drop an axis of length 1 (y[:, 0], "
            f"eta[:, 0]), or make the outputs of each row one event with .to_event(1)."
        )
    weight = np.shape(site["scale"]) if site["scale"] is not None else ()
    if weight not in ((), (num_rows,)):
        raise ValueError(
            f"Observed site {name!r}: expected a scale that is one number, or one per row, shape {(num_rows,)}; got "
            f"{weight}."
        )


def check_given(observed: dict[str, Any], without_y: dict[str, Any]) -> None:
    """Raise where a site is observed although y is not given: `numpyro.handlers.condition` gave it a value."""
    for name in observed:
        if name in without_y and without_y[name]["is_observed"]:
            raise ValueError(
                f"Site {name!r}: expected y to be the only observation; numpyro.handlers.condition, or obs=, gave this "
                f"site another value. {CONSTANT}"
            )


def check_containers(model: NumPyroModel, params: dict[str, Any], x: Rows, y: Rows | None) -> None:
    """Raise ValueError where the model uses a `numpyro.param` that is a container of arrays.

    `random_flax_module` and its kind make one, and use none of its arrays where each has a prior.
    """
    containers = {name: shapes for name, shapes in params.items() if shapes is not None and not is_array(shapes)}
    if not containers:
        return

    def log_probs(containers: dict[str, Any], x: Rows, y: Rows | None) -> list[Any]:
        copies = jax.tree.map(lambda leaf: leaf, containers)  # the model may put other values into them
        sites = trace(seed(substitute(model, data=copies), jax.random.key(0))).get_trace(x, y)
        return [site["fn"].log_prob(site["value"]) for site in sites.values() if site["type"] == "sample"]

    closed, out = jax.make_jaxpr(log_probs, return_shape=True)(containers, x, y)
    leaves = jax.tree.leaves_with_path(containers)
    arrays = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    used = _Reached(closed, out, {**arrays, "the rows": (x, y)}).by(())
    found = [path for path in arrays if path in used]
    if found:
        raise ValueError(
            f"Expected parameters with a prior; got the arrays {found} of a module, by numpyro.param, as flax_module, "
            f"nnx_module and eqx_module make them. Make it a network whose weights are sites, "
            f"flatprior.models.Lift(module), or give each array a prior by random_nnx_module or its kind."
        )


def check_terms(
    model: NumPyroModel,
    observed: Collection[str],
    latents: dict[str, tuple[int, ...]],
    x: Rows,
    y: Rows | None,
) -> None:
    """Raise ValueError where the density of the model is not that of rows that are independent given the weights."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    weights = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in latents.items()}

    def run(key: Any, y: Rows | None, weights: Any, x: Rows) -> dict[str, Any]:
        sites = trace(seed(substitute(model, data=weights), key)).get_trace(x, y)
        samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
        scales = {
            name: jnp.asarray(1.0 if samples[name]["scale"] is None else samples[name]["scale"]) for name in observed
        }
        return {
            "weights": {name: scale * mask_of(samples[name]["fn"]) for name, scale in scales.items()},
            "parameters": {name: _leaves(unmasked(samples[name]["fn"])) for name in observed},
            "factors": {name: s["fn"].log_prob(s["value"]) for name, s in samples.items() if is_factor(s["fn"])},
            "sites": {name: s["fn"].log_prob(s["value"]) for name, s in samples.items()},
        }

    key = jax.random.key(0)
    closed, out = jax.make_jaxpr(run, return_shape=True)(key, y, weights, x)
    of_y = {"y": y} if y is None or len(observed) == 1 else {f"y[{name!r}]": y[name] for name in sorted(observed)}
    reached = _Reached(closed, out, {"key": key, **of_y, "weights": weights, "x": x})
    for name in observed:
        _check_site(name, reached, set(of_y))
    for name in out["factors"]:
        if reached.by(("factors", name)) & set(of_y):
            raise ValueError(
                f"Factor {name!r}: expected a numpyro.factor that does not depend on y; this one is a part of the "
                f"likelihood that predictions and scores cannot see. Make it the log_prob of the observed distribution."
            )
    _check_not_random({name for name in out["sites"] if "key" in reached.by(("sites", name))})


def _check_site(name: str, reached: "_Reached", of_y: set[str]) -> None:
    """Raise ValueError where the weights, parameters or value of an observed site depend on what they must not.

    Args:
        name: the name of the site.
        reached: what the weights, parameters and log probabilities of sites depend on.
        of_y: the names of y, or of its rows at each of several sites.
    """
    if reached.by(("weights", name)) & {"weights", *of_y}:
        raise ValueError(
            f"Observed site {name!r}: expected weights of rows, by numpyro.handlers.scale or a mask, that are "
            f"constant or computed from x; got ones that depend on y or on a latent site. A power of the "
            f"likelihood that is inferred is no density of y."
        )
    if reached.by(("parameters", name)) & of_y:
        raise ValueError(
            f"Observed site {name!r}: expected rows that are independent given x and the weights; the parameters "
            f"of its distribution depend on y, as in an autoregression (an observed site inside scan), and "
            f"predictions have no y. Pass what the prediction of a row may use, such as earlier values, in x."
        )
    foreign = reached.by(("sites", name)) & of_y - {"y", f"y[{name!r}]"}
    if foreign:
        raise ValueError(
            f"Observed site {name!r}: expected its value to come from y[{name!r}] alone; got one that depends on "
            f"{', '.join(sorted(foreign))}. The rows of an observed site have its name in y."
        )


def _leaves(d: Distribution) -> list[Any]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(d)]


def _check_not_random(random: set[str]) -> None:
    if random:
        names = ", ".join(map(repr, sorted(random)))
        raise ValueError(
            f"Expected all that is random to be a sample site; the log probability of {names} "
            f"depends on a random key, by numpyro.prng_key, dropout, uncondition, or a site that block hides. "
            f"Sample it by numpyro.sample, and hide no latent site."
        )


class _Reached:
    """The arguments of a traced function that parts of its result depend on."""

    def __init__(self, closed: Any, out: Any, arguments: dict[str, Any]) -> None:
        self.jaxpr = convert_constvars_jaxpr(closed.jaxpr)
        self.paths = [path for path, _ in jax.tree.leaves_with_path(out)]
        self.names = [name for name, value in arguments.items() for _ in jax.tree.leaves(value)]

    def by(self, path: tuple[str, ...]) -> frozenset[str]:
        """Return the names of the arguments that the part of the result at a path of keys depends on."""
        used = [tuple(getattr(part, "key", None) for part in each[: len(path)]) == path for each in self.paths]
        live = dce_jaxpr(self.jaxpr, used)[1][len(self.jaxpr.invars) - len(self.names) :]
        return frozenset(name for name, is_live in zip(self.names, live, strict=True) if is_live)
