"""`fit`: the one entry point of fitting."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

from jax import Array

from .blocks import stopwatch
from .checks import Layout, as_key, check_labelled
from .density import Density
from .digests import digest_of_rows
from .fingerprint import key_in_words, without_addresses
from .kept import as_draws_dtype, coarseness
from .labels import labelled, with_gaps
from .method import Method, Outcome
from .processes import interrupts_noted, is_first, others_may_end, raised_by_all
from .result import Fit
from .rows import Data
from .seen import absent_classes, absent_of_all, digest_of_weights, seen_of, seen_of_all
from .sites import NumPyroModel
from .spread import (
    Shards,
    check_same,
    check_spreads,
    counts_of_all,
    digests_of_all,
    labelled_part,
    over_processes,
    sample_of_all,
    taking_part,
)
from .status import Status
from .store import Store, held, identity
from .stored import bars, numbered_from


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
    draws_dtype: Any = None,
) -> Fit:
    """Fit a model to data by a method.

    Chains, members of ensembles and restarts are distributed over all devices. A CPU is one device unless
    ``jax.config.update("jax_num_cpu_devices", os.cpu_count())``, before any other use of JAX, makes each core a device.
    Rows that are sharded over an axis of a mesh stay so, in `MLE`, `MAP`, `Ensemble`, `NUTS` and `MCLMC`; chains lie
    along its other axes. Several processes (``jax.distributed.initialize()``) fit together: see ``docs/machines.md``.

    Args:
        model: a NumPyro model ``model(x, y=None)``: a `flatprior.models.Model` or any function of NumPyro primitives
            with one log probability per row at each observed site, and continuous latent sites shared by all rows.
        method: `MLE`, `MAP`, `Ensemble`, `Laplace`, `Variational`, `NUTS`, `MCLMC`, `SGMCMC`, `Conditional` or
            `Prior`, with its settings.
        x: n rows: an array, a data frame, or a pytree (dict or tuple) of arrays with n rows first. The model sees them
            in the types in which they are passed, booleans and narrow integers among them; only 64-bit numbers become
            32-bit ones, unless JAX is in double precision. `predict` converts new rows to these types where that
            changes no value. An array on disk or of another library (a memory map, HDF5, Zarr: anything with a shape, a
            type, and rows by index; an Arrow table) of more than 256 MiB stays where it is, and is read in parts;
            `rows_of` makes such arrays of data sets and sources of batches.
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
        resume: a folder to which the fit writes its state as it runs. If it contains a run of the same model, method,
            data and key, that run is continued, after a crash, a kill or Ctrl-C, with the bits of one that was never
            interrupted; a run that has finished is read. States and draws are written at most every 5 seconds, and so
            rarely that this takes at most 2% of the run: with draws on disk, memory does not grow with their number.
            What was computed since is lost; so is Newton's method after a descent, but not the descent. A continued run
            may have a larger `num_samples` and, with an `optimizer` of its own and without validation rows,
            `num_steps`. One fit at a time can use the folder. `Fit.seconds` is the time of this call.
        draws_dtype: the type in which draws are kept, in memory and on disk: "float16", which takes half the memory, or
            in double precision also "float32"; by default the precision of the fit. They are evaluated in float32 or
            more all the same. Points, and sites that are not on the whole real line, such as scales, have the precision
            of the fit. float16 has 11 digits in base 2, numbers up to 65,504, and steps of 6e-8 around 0, which suits
            the weights of networks. The status warns where rounding is more than a fifth of the standard deviation of a
            weight.

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
    key, shards = as_key(key), Shards.of(x, y, weights)
    dtype = as_draws_dtype(draws_dtype)
    progress = progress and is_first()
    with stopwatch() as seconds, others_may_end(), interrupts_noted(), bars(are_shown=progress):
        if shards is None:
            density, data, seen = _checked(model, method, x, y, weights)
        else:
            density, data, seen = _checked_shards(model, method, shards, x, y, weights)
        rows = seen["rows"]
        check_same(f"{without_addresses(repr(method))} {key_in_words(key)} {dtype}", rows)
        drawn = replace(density, draws_dtype=None if method.kind == "point" else dtype)
        run = partial(method.run, drawn, data, key=key, progress=progress)
        outcome = run() if resume is None else _resumed(resume, run, drawn, data, method, key, rows)
        outcome = _kept(outcome, drawn)
    if lacking := density.structure.of_prior - set(outcome.draws):
        density = density.without(lacking)
    fitted = Fit(density, method, Layout.of(x, data.x), outcome, seconds, keys=(key_in_words(key),))
    if method.kind == "prior":
        return fitted
    return replace(fitted, **seen)


type _Checked = tuple[Density, Data, dict[str, Any]]
"""The density, the rows that take part, on the devices, and what a fit has seen of them, as `Fit` names it."""


def _checked(model: NumPyroModel, method: Method, x: Any, y: Any, weights: Any) -> _Checked:
    """Return the density and the rows, of which every process has all."""
    with raised_by_all():
        given = labelled(x, y, weights)
        density, data = check_labelled(model, given)
    seen = {
        "rows": digest_of_rows(data.x, with_gaps(data.y, data.known)),
        "absent": absent_classes(density.structure.response, data.y),
        "counts": given.counts,
        "seen": seen_of(density.structure, data),
        "weights": digest_of_weights(data.weights),
    }
    return density, (data if method.streams else data.in_memory(method.name)).on_device(), seen


def _checked_shards(model: NumPyroModel, method: Method, shards: Shards, x: Any, y: Any, weights: Any) -> _Checked:
    """Return the density and the rows, sharded as they are; each process checks its own."""
    with raised_by_all():
        check_spreads(method, shards)
        given = labelled_part(shards, x, y, weights)
    sample = sample_of_all(given)
    with raised_by_all(), numbered_from(shards.first_row):
        density, data = check_labelled(model, given, sample)
    rows, row_weights = digests_of_all(shards, data)
    seen = {
        "rows": rows,
        "absent": absent_of_all(density.structure.response, taking_part(data).y),
        "counts": counts_of_all(shards, given.counts, x, y, weights),
        "seen": seen_of_all(density.structure, shards, data, weights),
        "weights": None if weights is None else row_weights,
    }
    return density, over_processes(shards, data, x, y, weights), seen


def _kept(outcome: Outcome, density: Density) -> Outcome:
    """Return an outcome whose draws are in the type in which they are kept; not every method writes them in it."""
    if (dtype := density.draws_dtype) is None:
        return outcome
    # A site that repeats one value without copies of it has no memory to save.
    several = {site: value for site, value in outcome.draws.items() if value.strides[:2] != (0, 0)}
    draws = {**outcome.draws, **density.kept(several)}
    coarse = coarseness(draws, dtype) if outcome.status else ()
    return replace(outcome, draws=draws, status=outcome.status + Status(warnings=coarse))


def _resumed(
    folder: str | PathLike[str],
    run: Callable[..., Outcome],
    density: Density,
    data: Data,
    method: Method,
    key: Array,
    rows: str,
) -> Outcome:
    """Return the outcome of a run in a folder, which is begun, continued or read."""
    with ExitStack() as stack:
        with raised_by_all():
            stack.enter_context(held(folder))
        store = Store(folder, identity(density, data, method, key, rows))
        if method.draws_chains:  # these are on disk already, and may be continued
            return run(store=store)
        return store.outcome(method, partial(run, store=store))
