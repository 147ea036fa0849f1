"""The priors of a model, as a table."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from inspect import signature
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import seed, substitute, trace

from .heads import Heads
from .prior import FIXED, FLAT

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

IN_THE_MODEL = "the model"
"""The source of a site's prior if the model samples the site itself."""


@dataclass(frozen=True, eq=False, repr=False)
class PriorTable:
    """The priors of a model's sites; see `priors`. Prints as a table."""

    table: "pd.DataFrame"
    """One row for each site or fixed parameter, with the columns shape, size, prior, set_by."""

    def to_dataframe(self) -> "pd.DataFrame":
        """Return the table, indexed by the names of the sites."""
        return self.table.copy()

    @property
    def notes(self) -> tuple[str, ...]:
        """The note below the table: the numbers of sites and weights."""
        is_fixed = self.table["prior"] == FIXED
        sites, fixed = (self.table["size"][chosen].tolist() for chosen in (~is_fixed, is_fixed))
        note = f"{_count(len(sites), 'site')} with {_count(sum(sites), 'weight')}."
        if fixed:
            note += f" Fixed: {_count(len(fixed), 'parameter')} with {_count(sum(fixed), 'weight')}."
        return (note,)

    def __str__(self) -> str:
        columns = [[heading, *cells] for heading, cells in self._formatted().items()]
        padded = []
        for heading, *cells in columns:
            width, to_the_right = max(map(len, (heading, *cells))), heading == "size"
            padded.append([c.rjust(width) if to_the_right else c.ljust(width) for c in (heading, *cells)])
        return "\n".join([*("  ".join(row).rstrip() for row in zip(*padded, strict=True)), "", *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"{self._formatted().to_html(index=False, border=0)}<p>{'<br>'.join(map(escape, self.notes))}</p>"

    def _formatted(self) -> "pd.DataFrame":
        """The cells as strings, under the printed headings."""
        shown = self.table.rename_axis("site").reset_index().rename(columns={"set_by": "set by"})
        return shown.assign(size=shown["size"].map("{:,}".format)).astype(str)


def priors(model: Callable[..., Any], x: Any) -> PriorTable:
    """Tabulate the sites of a model with their shapes and priors, and the source of each prior.

    The source is a key of a mapping; "one prior for all"; "default", Normal(0, 1), without a prior; or "the model".

    Args:
        model: a `Model`, or any other NumPyro model ``model(x, y=None)``.
        x: rows of x, as for `flatprior.inference.fit`; only their shapes matter.

    Raises:
        TypeError: when `model` is not a model, or only a network.
        ValueError: when the prior does not fit the sites: a key that matches none, or a site without a prior.

    Example:
        >>> import numpy as np
        >>> from flatprior.models import MLP, Bernoulli, Model, fan_in, gaussian, priors
        >>> priors(Model(MLP((8,)), Bernoulli(), {"w*": fan_in(1.0), "b*": gaussian(0.5)}), np.zeros((1, 3)))
        site  shape   size  prior              set by
        w1    (3, 8)    24  Normal(0, 0.5774)  key 'w*'
        b1    (8,)       8  Normal(0, 0.5)     key 'b*'
        w2    (8, 1)     8  Normal(0, 0.3536)  key 'w*'
        b2    (1,)       1  Normal(0, 0.5)     key 'b*'
        <BLANKLINE>
        4 sites with 41 weights.
    """
    import pandas as pd

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
                "size": math.prod(shape),
                "prior": FIXED if fixed else _in_words(site["fn"]),
                "set_by": site["infer"].get("set_by", IN_THE_MODEL),
            }
    return PriorTable(pd.DataFrame.from_dict(rows, orient="index", columns=["shape", "size", "prior", "set_by"]))


def _abstract_sites(model: Callable[..., Any], x: Any) -> dict[str, Any]:
    """The sites of a model with y observed, with abstract values."""
    sites: dict[str, Any] = {}
    filled = substitute(model, substitute_fn=_central_value)

    def run(x: Any) -> list[Any]:
        free = trace(seed(filled, jax.random.key(0))).get_trace(x)
        values = {name: site["value"] for name, site in free.items() if site["type"] == "sample"}
        observing = trace(seed(filled, jax.random.key(0)))
        try:
            sites.update(observing.get_trace(x, _observed(model, values)))
        except TypeError:  # the model takes rows by name: it observes several sites
            sites.update(observing.get_trace(x, values))
        return []

    jax.eval_shape(run, jax.tree.map(np.asarray, x))
    return sites


def _observed(model: Callable[..., Any], values: dict[str, Any]) -> Any:
    """The y of a model, from the values of all its sites."""
    while not hasattr(model, "observation") and hasattr(model, "model"):  # as in standardised units
        model = model.model
    observation = getattr(model, "observation", None)
    if isinstance(observation, Heads):
        return {name: values[name] for name, _ in observation.parts}
    return list(values.values())[-1] if values else None  # the observed site comes last


def _central_value(site: dict[str, Any]) -> jax.Array | None:
    """A value of a continuous site, the image of 0, since not every prior can be drawn from."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].support.is_discrete:
        return None
    transform = dist.biject_to(site["fn"].support)
    return transform(jnp.zeros(transform.inverse_shape(site["fn"].shape())))


def _element(d: dist.Distribution) -> dist.Distribution:
    """The distribution of one element."""
    while isinstance(d, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(d, dist.MaskedDistribution) and d._mask is False:
            return dist.ImproperUniform(d.support, d.batch_shape, d.event_shape)
        d = d.base_dist
    return d


def _in_words(d: dist.Distribution) -> str:
    """A distribution with its parameters: the value if it is one known number, otherwise the name."""
    d = _element(d)
    if isinstance(d, dist.ImproperUniform):
        return FLAT
    arguments = [(name, vars(d)[name]) for name in d.arg_constraints if name in vars(d)]
    return f"{type(d).__name__}({', '.join(_number(value, name) for name, value in arguments)})"


def _number(value: Any, name: str) -> str:
    if isinstance(value, jax.core.Tracer) or np.unique(value).size != 1:
        return name
    return f"{np.unique(value)[0]:.4g}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
