"""The effects of NumPyro in a model that a density cannot have: each is refused by name.

Handlers and primitives that are not named here work as NumPyro means them: `sample`, `param` (see
`handlers.params_as_sites`), `factor`, `deterministic`, `plate`, and models wrapped in `scale`, `mask`, `lift`,
`reparam`, `scope`, `do`, `infer_config` or `trace`. tests/test_handlers.py has a model for each.
"""

from typing import Any

import numpy as np
from numpyro.primitives import Messenger

from .sites import is_latent

CONSTANT = "Write the value as a constant in the model; in a lifted module, the prior 'fixed' does."


class Refusals(Messenger):
    """Raises where a model, run inside it, does what a density cannot have.

    Handlers of the user are applied first, so a message shows what they have done.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        match msg["type"]:
            case "sample":
                _check_sample(msg)
            case "plate":
                size, subsample_size = msg["args"]
                if subsample_size is not None and subsample_size != size:
                    raise ValueError(
                        f"Plate {msg['name']!r}: expected all {size} rows; got subsample_size={subsample_size}, which "
                        f"fits other rows at each call. Leave it out, and give the method batch_size={subsample_size}."
                    )
            case "prng_key":
                raise ValueError(
                    "Expected a density; the model draws a random key, by numpyro.prng_key, dropout or uncondition, so "
                    "its value would be another at every step. Sample the random numbers at a site, or leave the noise "
                    "out."
                )
            case "mutable":
                raise ValueError(
                    f"Mutable site {msg['name']!r}: expected a density, which is the same at every call; the model "
                    f"updates a state. Use a module without state: layer normalisation in place of batch normalisation."
                )


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
