"""Offsets and exposures: an entry of x that is added to the first output of the network, and not given to it."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from .observation import Link


def check_offset(observation: Any, offset: str | None, exposure: str | None) -> None:
    """Raise unless an observation can have the offset or the exposure that a model states.

    Raises:
        TypeError: when a name is not a string.
        ValueError: when both have one name, or the first output of the network has not the link that is needed.
    """
    for role, name in (("offset", offset), ("exposure", exposure)):
        if name is not None and (not isinstance(name, str) or not name):
            raise TypeError(f"Model: expected the name of an entry of x as {role}; got {name!r}.")
    if offset is not None and offset == exposure:
        raise ValueError(f"Model: expected different entries of x as offset and exposure; got {offset!r} for both.")
    link: Link | None = getattr(observation, "link", None)
    if offset is not None and link is None:
        raise ValueError(
            f"Model: expected an observation whose first output is the place of y, such as Poisson(), for an offset; "
            f"got {observation!r}."
        )
    if exposure is not None and link != "log":
        raise ValueError(
            f"Model: expected an observation with a log link, such as Poisson() or Gamma(), for an exposure; got "
            f"{observation!r}{f', whose link is the {link}' if link else ''}."
        )


def split_offset(x: Any, offset: str | None, exposure: str | None) -> tuple[Any, Float[Array, " n"] | None]:
    """Return what the network sees of x, and what is added to its first output, or None.

    Args:
        x: rows of x, a dict where there is an offset or an exposure.
        offset: the entry that is added, (n,).
        exposure: the entry whose log is added, (n,).

    Returns:
        The only other entry of x, or a dict of several; and the sum of the offset and the log exposure.

    Raises:
        ValueError: when x does not have these entries beside others, or they are not one number per row.
    """
    names = [name for name in (offset, exposure) if name is not None]
    if not names:
        return x, None
    if not isinstance(x, Mapping) or not set(names) < set(x):
        got = f"the entries {list(x)}" if isinstance(x, Mapping) else f"an array of shape {jnp.shape(x)}"
        wanted = ", ".join(f"{name!r}: ..." for name in ("x", *names))
        raise ValueError(
            f"Model: expected x to be a dict with the features and {' and '.join(map(repr, names))}; got {got}. Give "
            f"{{{wanted}}}."
        )
    for name in names:
        if jnp.ndim(x[name]) != 1:
            raise ValueError(
                f"Model: expected one number per row in x[{name!r}], shape (n,); got shape {jnp.shape(x[name])}."
            )
    shift = jnp.zeros(()) if offset is None else jnp.asarray(x[offset], float)
    shift = shift if exposure is None else shift + jnp.log(jnp.asarray(x[exposure], float))
    rest = {name: value for name, value in x.items() if name not in names}
    return next(iter(rest.values())) if len(rest) == 1 else rest, shift


def check_exposure(name: str, values: Any) -> None:
    """Raise ValueError at the first exposure that is not positive."""
    is_positive = np.asarray(values) > 0
    if not is_positive.all():
        row = int(np.argwhere(~is_positive)[0, 0])
        raise ValueError(
            f"x[{name!r}], row {row}: expected a positive exposure; got {np.asarray(values)[row]}. Leave out rows in "
            f"which nothing could be counted."
        )


def add_offset(eta: Float[Array, "..."], shift: Float[Array, " n"] | None) -> Float[Array, "..."]:
    """Return the outputs with the shift added to the first one."""
    if shift is None or eta.ndim != 2:  # which the observation refuses
        return eta
    return eta.at[:, 0].add(shift.astype(eta.dtype))
