"""The priors of a model, as a table."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
from numpyro.handlers import seed, substitute, trace

from .prior import FIXED, FLAT

IN_THE_MODEL = "the model"
"""Who set the prior of a site that a model samples by hand."""


@dataclass(frozen=True, eq=False, repr=False)
class PriorTable:
    """What a model believes of its weights before it sees data; see `priors`. Prints as a table."""

    table: pd.DataFrame
    """One row a site, or a parameter that is fixed: shape, numbers, prior, set_by."""

    def to_dataframe(self) -> pd.DataFrame:
        """The table, with the names of the sites as its index."""
        return self.table.copy()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said below the table: how many numbers there are."""
        is_fixed = self.table["prior"] == FIXED
        sites, fixed = (self.table["numbers"][chosen].tolist() for chosen in (~is_fixed, is_fixed))
        note = f"{_many(len(sites), 'site')} of {_many(sum(sites), 'number')}."
        return (f"{note} Fixed: {_many(len(fixed), 'parameter')} of {_many(sum(fixed), 'number')}." if fixed else note,)

    def __str__(self) -> str:
        columns = [[heading, *cells] for heading, cells in self._formatted().items()]
        padded = []
        for heading, *cells in columns:
            width, to_the_right = max(map(len, (heading, *cells))), heading == "numbers"
            padded.append([c.rjust(width) if to_the_right else c.ljust(width) for c in (heading, *cells)])
        return "\n".join([*("  ".join(row).rstrip() for row in zip(*padded, strict=True)), "", *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"{self._formatted().to_html(index=False, border=0)}<p>{'<br>'.join(map(escape, self.notes))}</p>"

    def _formatted(self) -> pd.DataFrame:
        """The table as strings, under the headings of the print."""
        shown = self.table.rename_axis("site").reset_index().rename(columns={"set_by": "set by"})
        return shown.assign(numbers=shown["numbers"].map("{:,}".format)).astype(str)


def priors(model: Callable[..., Any], x: Any) -> PriorTable:
    """The sites of a model with their shapes and priors, and who set each.

    That is a key of a mapping; "one prior for all"; "default", Normal(0, 1), where no prior was given; or the model.

    Args:
        model: a `Model`, or any other NumPyro model ``model(x, y=None)``.
        x: rows of x, as for `flatprior.inference.fit`; nothing is computed from them but shapes.

    Raises:
        TypeError: when the model is none, or a network alone.
        ValueError: when the prior does not fit the sites: a key that matches none, a site without a prior.

    Example:
        >>> import numpy as np
        >>> from flatprior.models import MLP, Bernoulli, Model, fan_in, gaussian, priors
        >>> priors(Model(MLP((8,)), Bernoulli(), {"w*": fan_in(1.0), "b*": gaussian(0.5)}), np.zeros((1, 3)))
        site  shape   numbers  prior              set by
        w1    (3, 8)       24  Normal(0, 0.5774)  key 'w*'
        b1    (8,)          8  Normal(0, 0.5)     key 'b*'
        w2    (8, 1)        8  Normal(0, 0.3536)  key 'w*'
        b2    (1,)          1  Normal(0, 0.5)     key 'b*'
        <BLANKLINE>
        4 sites of 41 numbers.
    """
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"priors: expected a NumPyro model, such as Model(MLP(), Bernoulli()); got {model!r}.")
    if "num_outputs" in signature(model).parameters:
        raise TypeError(f"priors: expected a model; got the network {model!r}. Give Model({model!r}, Bernoulli()).")
    rows = {}
    for name, site in _abstract_sites(model, x).items():
        fixed = site["type"] == FIXED
        if fixed or (site["type"] == "sample" and not site["is_observed"]):
            shape = jnp.shape(site["value"])
            rows[name] = {
                "shape": str(shape),
                "numbers": math.prod(shape),
                "prior": FIXED if fixed else _in_words(site["fn"]),
                "set_by": site["infer"].get("set_by", IN_THE_MODEL),
            }
    return PriorTable(pd.DataFrame.from_dict(rows, orient="index", columns=["shape", "numbers", "prior", "set_by"]))


def _abstract_sites(model: Callable[..., Any], x: Any) -> dict[str, Any]:
    """The sites of a model with its y observed, with shapes but without values."""
    sites: dict[str, Any] = {}
    filled = substitute(model, substitute_fn=_improper_value)

    def run(x: Any) -> list[Any]:
        free = trace(seed(filled, jax.random.key(0))).get_trace(x)
        y = [site["value"] for site in free.values() if site["type"] == "sample"][-1:]  # the data come last
        sites.update(trace(seed(filled, jax.random.key(0))).get_trace(x, *y))
        return []

    jax.eval_shape(run, jax.tree.map(np.asarray, x))
    return sites


def _improper_value(site: dict[str, Any]) -> jax.Array | None:
    """A value of a site that has none to draw from."""
    improper = site["type"] == "sample" and isinstance(_element(site["fn"]), dist.ImproperUniform)
    return jnp.zeros(site["fn"].shape()) if improper else None


def _element(d: dist.Distribution) -> dist.Distribution:
    """The distribution of one element."""
    while isinstance(d, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(d, dist.MaskedDistribution) and d._mask is False:
            return dist.ImproperUniform(d.support, d.batch_shape, d.event_shape)
        d = d.base_dist
    return d


def _in_words(d: dist.Distribution) -> str:
    """A distribution with the values of those parameters that are one known number, and the names of the others."""
    d = _element(d)
    if isinstance(d, dist.ImproperUniform):
        return FLAT
    given = [(name, vars(d)[name]) for name in d.arg_constraints if name in vars(d)]
    return f"{type(d).__name__}({', '.join(_number(value, name) for name, value in given)})"


def _number(value: Any, name: str) -> str:
    if isinstance(value, jax.core.Tracer) or np.unique(value).size != 1:
        return name
    return f"{np.unique(value)[0]:.4g}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
