"""The observed sites of a density, each with the weights of its own."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..reasons import Reason
from ..rows import Data, Weights
from ..surface import Surface

SAMPLED_ROWS = 256
"""The number of rows by which it is judged which weights several sites share."""


class Head(NamedTuple):
    """One observed site, whose classes may be separable or its density unbounded, whatever the others."""

    surface: Surface
    """The density of the site alone."""
    data: Data
    """The rows of the site."""
    own: dict[str, Any]
    """Which weights no other site depends on, as booleans by latent site."""


def heads_of(surface: Surface, u: Weights, data: Data) -> list[Head]:
    """Return the observed sites of a density. Where there is one, all weights are its own."""
    parts = surface.by_site(data)
    if len(parts) == 1:
        return [Head(*parts[0], dict.fromkeys(u, np.True_))]
    rows = np.unique(np.linspace(0, data.num_rows - 1, SAMPLED_ROWS).round().astype(int))
    reach = [jax.device_get(part.reach(u, some.take(rows))) for part, some in parts]
    heads = []
    for i, (part, some) in enumerate(parts):
        others = reach[:i] + reach[i + 1 :]
        own = {site: ~np.any([each[site] != 0 for each in others], axis=0) for site in u}
        heads.append(Head(part, some, own))
    return heads


def first(found: Iterable[tuple[Reason, ...]]) -> tuple[Reason, ...]:
    """Return the first reasons that there are."""
    return next(filter(None, found), ())
