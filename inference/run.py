"""`fit`: the one entry point of fitting."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from typing import Any

import jax

from .blocks import stopwatch
from .checks import Layout, as_key, check_labelled
from .density import Density
from .fingerprint import digest_of_rows, without_addresses
from .labels import RowCounts, labelled, with_gaps
from .method import Method
from .processes import from_all, is_first, others_may_end, raised_by_all
from .result import Fit, absent_classes, seen_of
from .rows import Data
from .saved import Seen
from .sites import NumPyroModel
from .spread import Shards, check_same, check_spread, check_spreads, counts_of_all, digest_of_all, over_processes
from .store import Store, held, identity


def fit(
    model: NumPyroModel,
    method: Method,
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    key: Any,
    progress: bool = True,
    resume: str | PathLike[str] | None = None,
) -> Fit:
    """Fit a model to data by a method.

    Chains, members of ensembles and restarts are distributed over all devices. A CPU is one device unless
    ``jax.config.update("jax_num_cpu_devices", os.cpu_count())``, before any other use of JAX, makes each core a device.

    Args:
        model: a NumPyro model ``model(x, y=None)``: a `flatprior.models.Model` or any function of NumPyro primitives
            with one log probability per row at each observed site, and continuous latent sites shared by all rows.
        method: `MLE`, `MAP`, `Ensemble`, `Laplace`, `NUTS`, `MCLMC`, `Conditional` or `Prior`, with its settings.
        x: n rows: an array, a data frame, or a pytree (dict or tuple) of arrays with n rows first. The model sees them
            in the types in which they are passed, booleans and narrow integers among them; only 64-bit numbers become
            32-bit ones, unless JAX is in double precision. `predict` converts new rows to these types where that
            changes no value.
        y: n rows, in the order of x and in the types in which they are passed, except that integers have at least 32
            bits, since log probabilities compute with y in its own type. Where the model observes several sites, y is a
            dict with the rows of each under its name. Values that are NaN, masked, or missing in a
            data frame were not observed, and add nothing to the likelihood: rows without any are left out, and of a
            vector with independent or jointly Normal elements the others count. `Fit.counts` has their numbers.
        weights: the weight of each row, (n,), from 0: a row of weight w counts as w equal rows, here and, where the
            weights are given again, in scores (`compare`, `loo`, `code_length`). By default 1. Weights that are not
            counts, such as those of `class_weights`, define another likelihood.
        key: a typed JAX key or an integer seed; the same key gives the same bits.
        progress: show a progress bar when the fit takes more than a second.
        resume: a folder to which a method of chains writes its draws and state as it runs. If it contains a run of the
            same model, method, data and key, that run is continued, after a crash or with a larger `num_samples`; the
            draws are those of a run that was never interrupted. One fit at a time can use it. Memory then does not grow
            with the number of draws.

    Returns:
        The fit. Check its `status`: a numerical failure is a status, not an exception.

    Raises:
        TypeError, ValueError: when the data or the model are invalid; raised before the density is compiled.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference import MAP, fit
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> line = fit(Model(MLP(), Normal(0.1), gaussian(10.0)), MAP(), x, 3 * x[:, 0] + 1, key=0)
        >>> print(line)
        Fit by MAP: point, 1 chain of 1 draw, 2 weights, ok
        >>> print(f"{line.draws['w1'].item():.2f} {line.draws['b1'].item():.2f}")
        3.00 1.00
    """
    if isinstance(method, type) or not callable(getattr(method, "run", None)):
        raise TypeError(f"Expected a method such as MLE(), MAP(), NUTS() or MCLMC(); got {method!r}.")
    if resume is not None and not method.draws_chains:
        raise ValueError(f"resume: expected a method of chains, NUTS() or MCLMC(); got {type(method).__name__}.")
    key, shards = as_key(key), Shards.of(x, y, weights)
    with stopwatch() as seconds, others_may_end(), ExitStack() as folder:
        if shards is None:
            density, data, seen = _checked(model, x, y, weights)
        else:
            check_spreads(method, shards)
            density, data, seen = _checked_shards(model, shards, x, y, weights)
        check_same(f"{without_addresses(repr(method))} {jax.random.key_data(key)}", seen.rows)
        progress = progress and is_first()
        store = {}
        if resume is not None:
            folder.enter_context(held(resume))
            store["store"] = Store(resume, identity(density, data, method, key))
        outcome = method.run(density, data, key=key, progress=progress, **store)
    if lacking := density.structure.of_prior - set(outcome.draws):
        density = density.without(lacking)
    if method.kind == "prior":
        return Fit(density, method, Layout.of(x, data.x), outcome, seconds)
    return Fit(density, method, Layout.of(x, data.x), outcome, seconds, **vars(seen))


@dataclass(frozen=True)
class _Seen:
    """What a fit remembers of its rows; see `Fit`."""

    rows: str
    absent: tuple[int, ...]
    counts: RowCounts
    seen: Mapping[str, Seen]


def _checked(model: NumPyroModel, x: Any, y: Any, weights: Any) -> tuple[Density, Data, _Seen]:
    """Return the density, and the rows that take part, on the device."""
    with raised_by_all():
        given = labelled(x, y, weights)
        density, data = check_labelled(model, given)
    rows, absent = digest_of_rows(data.x, with_gaps(data.y, data.known)), _absent(density, data)
    return density, jax.device_put(data), _Seen(rows, absent, given.counts, seen_of(density.structure, data))


def _checked_shards(
    model: NumPyroModel, shards: Shards, x: Any, y: Any, weights: Any
) -> tuple[Density, Data, _Seen]:
    """Return the density, and the rows of all processes, sharded as they are; each process checks its own."""
    with raised_by_all():
        density, data = check_spread(model, shards, x, y, weights)
    absent = set.intersection(*map(set, from_all(_absent(density, data))))
    seen = _Seen(digest_of_all(shards, data), tuple(sorted(absent)), counts_of_all(shards, x, y, weights), {})
    return density, over_processes(shards, data, x, y, weights), seen


def _absent(density: Density, data: Data) -> tuple[int, ...]:
    return absent_classes(density.structure.response, data.y) if len(density.structure.responses) == 1 else ()
