"""Fits on disk: one file, which ArviZ reads as well, and from which a fit predicts as before. It contains no code.

The file is NetCDF. Its groups are posterior and sample_stats, as in `Fit.to_datatree`, other recorded statistics, and
the probe: a few rows with their densities, by which the model is recognised. An attribute holds, as JSON, all other
parts of a fit and a digest of everything.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute, trace

from .blocks import Seconds
from .checks import Layout
from .contract import read_sites, structure_of
from .datatree import names_in_tree, renamed, to_datatree
from .density import Density
from .files import atomic_write
from .fingerprint import digest, plain_settings, same_log_density, settings_in_words
from .kept import widened
from .kinds import response_of
from .labels import RowCounts
from .method import ARRAYS, Kind, Outcome
from .processes import is_first
from .rows import Rows, Weights
from .seen import Seen
from .sites import NumPyroModel, is_weighted, undrawn, unmasked
from .status import Status
from .structure import Structure

VERSION = 1
"""The version of the format of the file."""
ATTRIBUTE = "flatprior"
PROBE_ROWS = 4


@dataclass(frozen=True)
class SavedMethod:
    """The method of a fit that was read from a file. It can be printed, but not run again."""

    name: str
    kind: Kind
    draws_chains: bool
    words: str
    """The method with all settings."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its settings that are numbers, words or tuples of these."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """The digests of all others; see `settings_in_words`."""
    leaves_out: str = ""
    """What its draws leave out of the posterior; see `Method.leaves_out`."""
    streams: ClassVar[bool] = False
    spreads_rows: ClassVar[bool] = False
    growing: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return self.words

    def run(self, *_: Any, **__: Any) -> Outcome:
        """Raise TypeError: settings may be functions, which are not in the file."""
        raise TypeError(f"A method that was read from a file cannot be run. Construct it again: {self.words}.")


@dataclass(frozen=True, eq=False, repr=False)
class Parts:
    """The parts of a fit, which are saved and joined."""

    density: Density
    """The density that was fitted."""
    method: Any
    """The method of the fit, with all its settings."""
    layout: Layout
    """The structure of the rows of x."""
    outcome: Outcome
    """The result of the method: draws, status and statistics."""
    seconds: Seconds
    """The wall time: `seconds.compile` and `seconds.run`."""
    rows: str | None = None
    """A digest of the rows that were fitted; None where no rows were. See `Fit.was_fitted_to`."""
    absent: tuple[int, ...] = ()
    """The classes, or kinds of tokens, that occur in none of these rows: only the prior informs their probabilities."""
    counts: RowCounts | None = None
    """The rows that were fitted, counted, and those that were left out; None for `Prior`, which fits none."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """The same three for each of several observed sites, by site."""
    weights: str | None = None
    """A digest of the weights of the rows; None where they have none."""
    keys: tuple[str, ...] = ()
    """The keys of the runs from which the draws are, in words: one, or those of all fits that were joined."""


def write(path: str | os.PathLike[str], parts: Parts, attrs: Mapping[str, Any]) -> Path:
    """Write a fit to a file, atomically, and return the path; of several processes the first writes it."""
    if not is_first():
        return Path(path)
    outcome, layout = parts.outcome, parts.layout
    model, structure = parts.density.model, parts.density.structure
    names = names_in_tree([*outcome.draws, *outcome.sample_stats, *outcome.stats, *outcome.linearized_at])
    written = Outcome(
        {names[site]: np.asarray(value) for site, value in outcome.draws.items()},
        outcome.status,
        {names[name]: np.asarray(value) for name, value in outcome.sample_stats.items()},
    )
    tree = to_datatree(written, renamed(structure, names), layout.columns, attrs=dict(attrs))
    stats = {names[name]: np.asarray(value) for name, value in outcome.stats.items()}
    tree["stats"] = _group(stats)
    at = {names[site]: np.asarray(value) for site, value in outcome.linearized_at.items()}
    tree["linearized_at"] = _group(at)
    y, densities = probe(model, structure, layout, first_draw(outcome.draws))
    tree["probe"] = _group({f"y{i}": value for i, value in enumerate(y)})
    about = {
        "version": VERSION,
        "model": str(model),
        "names": names,
        **{kind: list(getattr(outcome, kind)) for kind in ARRAYS},
        "narrow": {site: value.dtype.name for site, value in outcome.draws.items() if value.dtype == np.float16},
        "log_evidence": outcome.log_evidence,
        "status": outcome.status.to_json(),
        "method": asdict(as_saved(parts.method)),
        "observed": list(structure.observed_sites),
        "sites": [[site, list(shape)] for site, shape in structure.sites],
        "layout": _layout_to_json(layout),
        "seconds": [parts.seconds.compile, parts.seconds.run],
        "rows": parts.rows,
        "absent": list(parts.absent),
        "counts": _counts_to_json(parts.counts),
        "seen": {
            site: [seen.rows, list(seen.absent), _counts_to_json(seen.counts)] for site, seen in parts.seen.items()
        },
        "weights": parts.weights,
        "keys": list(parts.keys),
        "densities": densities,
    }
    about["digest"] = _digest(about, *(getattr(outcome, kind) for kind in ARRAYS), _named(y))
    tree.attrs[ATTRIBUTE] = json.dumps(about)
    return atomic_write(path, lambda file: tree.to_netcdf(file, engine="netcdf4"))


def read(path: str | os.PathLike[str], model: NumPyroModel) -> Parts:
    """Return the parts of a fit that `write` wrote, for the same model.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when the file is damaged, not a fit, of a later release, or of another model.
    """
    from xarray import open_datatree

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected a file; {path} does not exist.")
    try:
        tree = open_datatree(path, engine="netcdf4").load()
        tree.close()
    except Exception as error:
        raise ValueError(
            f"{path}: expected a fit, a NetCDF file; it cannot be read: it is damaged, truncated or another file "
            f"({type(error).__name__}: {error})."
        ) from error
    if ATTRIBUTE not in tree.attrs:
        raise ValueError(f"{path}: expected a fit that was saved by Fit.save; got a NetCDF file of another kind.")
    about = json.loads(tree.attrs[ATTRIBUTE])
    if about["version"] != VERSION:
        raise ValueError(
            f"{path}: expected version {VERSION} of the format; got {about['version']}. Read it with the release "
            f"of flatprior that wrote it, or a later one."
        )
    written, names = about.pop("digest"), about["names"]
    draws_group = "prior" if about["method"]["kind"] == "prior" else "posterior"
    groups = {"draws": draws_group, **{name: name for name in ("sample_stats", "stats", "linearized_at")}}
    arrays = {
        kind: {name: tree[group][names[name]].to_numpy() for name in about[kind]}
        for kind, group in groups.items()
        if about[kind]
    }
    for site, dtype in about.get("narrow", {}).items():  # NetCDF has no float16
        arrays["draws"][site] = arrays["draws"][site].astype(dtype)
    draws, sample_stats, stats, linearized_at = (arrays.get(kind, {}) for kind in groups)
    y = [tree["probe"][f"y{i}"].to_numpy() for i in range(len(about["observed"]))]
    if written != _digest(about, draws, sample_stats, stats, linearized_at, _named(y)):
        raise ValueError(f"{path}: the file is damaged: its digest does not agree with its contents.")
    layout = _layout_from_json(about["layout"])
    structure = _check_model(path, model, about, layout, draws, y)
    status, evidence = Status.from_json(about["status"]), about["log_evidence"]
    outcome = Outcome(draws, status, sample_stats, stats, evidence, linearized_at)
    method, seconds, rows = SavedMethod(**about["method"]), Seconds(*about["seconds"]), about.get("rows")
    absent, counts = tuple(about.get("absent", ())), _counts_from_json(about["counts"])
    seen = {site: Seen(of, tuple(lacking), _counts_from_json(c)) for site, (of, lacking, c) in about["seen"].items()}
    density, weights, keys = Density.of(model, structure), about.get("weights"), tuple(about.get("keys", ()))
    return Parts(density, method, layout, outcome, seconds, rows, absent, counts, seen, weights, keys)


def probe(
    model: NumPyroModel,
    structure: Structure,
    layout: Layout,
    weights: Mapping[str, np.ndarray],
    y: Sequence[np.ndarray] | None = None,
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Return rows of y from the model at one draw, for rows of x that are always the same, and their log densities.

    Args:
        model: the model.
        structure: its structure.
        layout: the layout of x.
        weights: one draw.
        y: the rows of each observed site; by default they are drawn.

    Returns:
        The rows of each observed site, and the summed log density of each site in nats.
    """
    rng = np.random.default_rng(0)

    def leaf(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        values = rng.normal(size=(PROBE_ROWS, *shape))
        return (values if jnp.issubdtype(dtype, jnp.floating) else 0 * values).astype(dtype)

    x = jax.tree.unflatten(layout.tree, list(map(leaf, layout.shapes, layout.dtypes)))

    @partial(jax.jit, static_argnums=0)
    def run(model: NumPyroModel, values: Weights, x: Rows) -> tuple[list[Any], dict[str, Any]]:
        sites = trace(seed(substitute(model, data=values), jax.random.key(0))).get_trace(x)
        used = {name: sites[name] for name in (*structure.latents, *structure.observed_sites)}
        densities = {name: jnp.sum(unmasked(site["fn"]).log_prob(site["value"])) for name, site in used.items()}
        return [used[name]["value"] for name in structure.observed_sites], densities

    given = dict(weights) if y is None else {**weights, **dict(zip(structure.observed_sites, y, strict=True))}
    given = jax.tree.map(jnp.asarray, given)
    try:
        result = run(model, given, x)
    except (NotImplementedError, ImportError):  # not every distribution of y can be drawn from
        result = run(undrawn(model), given, x)
    rows, densities = jax.device_get(result)
    return rows, {site: float(value) for site, value in densities.items()}


def _check_model(
    path: Path,
    model: NumPyroModel,
    about: Mapping[str, Any],
    layout: Layout,
    draws: Mapping[str, np.ndarray],
    y: Sequence[np.ndarray],
) -> Structure:
    """Return the structure of the model; raise where it is not the one that was fitted."""
    sites = tuple((site, tuple(shape)) for site, shape in about["sites"])
    cure = f"Give the model that was fitted: {about['model']}."
    traced, params = read_sites(model, layout.abstract(PROBE_ROWS))
    observed = about["observed"]
    structure = None
    if all(name in traced for name in observed):
        responses = tuple(response_of(name, unmasked(traced[name]["fn"])) for name in observed)
        weighted = frozenset(name for name in observed if is_weighted(traced[name]))
        structure = structure_of(traced, responses, params=params, weighted=weighted)
        structure = structure.given(structure.of_prior - dict(sites).keys())
    if structure is None or structure.sites != sites:
        got = f"the sites {list(traced)}" if structure is None else dict(structure.sites)
        raise ValueError(
            f"{path}: expected a model with the observed site {', '.join(map(repr, observed))} and the latent sites "
            f"{dict(sites)}; got {got}. {cure}"
        )
    _, now = probe(Density.of(model, structure).model, structure, layout, first_draw(draws), y)
    for site, then in about["densities"].items():
        if not same_log_density(now[site], then):
            raise ValueError(
                f"{path}: the model has changed: at the first draw the log density of site {site!r} was {then:.6g}, "
                f"and is now {now[site]:.6g}. {cure}"
            )
    return structure


def as_saved(method: Any) -> SavedMethod:
    """Return a method as it is saved."""
    if isinstance(method, SavedMethod):
        return method
    digests = settings_in_words(method)
    words = digests.pop("method")
    about = method.name, method.kind, method.draws_chains, words
    return SavedMethod(*about, plain_settings(method), digests, method.leaves_out)


def first_draw(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first draw of the first chain, by site."""
    return {site: widened(np.asarray(value[0, 0])) for site, value in draws.items()}


def _group(arrays: Mapping[str, np.ndarray]) -> Any:
    """Return arrays as a group of a tree."""
    from xarray import Dataset, DataTree

    dims = {name: [f"{name}_dim{i}" for i in range(np.ndim(array))] for name, array in arrays.items()}
    return DataTree(Dataset({name: (dims[name], array) for name, array in arrays.items()}))


def _counts_to_json(counts: RowCounts | None) -> dict[str, Any] | None:
    return None if counts is None else asdict(counts)


def _counts_from_json(saved: Mapping[str, Any] | None) -> RowCounts | None:
    return None if saved is None else RowCounts(**saved)


def _named(y: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the rows of the probe under names, for the digest."""
    return {f"the probe {i}": value for i, value in enumerate(y)}


def _digest(about: Mapping[str, Any], *arrays: Mapping[str, np.ndarray]) -> str:
    named = (item for each in arrays for item in sorted(each.items()))
    return digest(named, json.dumps(about, sort_keys=True))


def _layout_to_json(layout: Layout) -> dict[str, Any]:
    def plain(node: Any) -> Any:
        match node:
            case dict() if all(isinstance(key, str) for key in node):
                return {"dict": {key: plain(value) for key, value in node.items()}}
            case list() | tuple() if type(node) in (list, tuple):
                return {type(node).__name__: [plain(value) for value in node]}
            case int():
                return node
        raise TypeError(
            f"save: expected x to be an array, or dicts with names as keys, tuples and lists of arrays; got "
            f"{layout.tree}."
        )

    tree = plain(jax.tree.unflatten(layout.tree, list(range(layout.tree.num_leaves))))
    columns = [names if names is None else list(names) for names in layout.columns_by_leaf]
    return {"tree": tree, "shapes": list(map(list, layout.shapes)), "dtypes": list(layout.dtypes), "columns": columns}


def _layout_from_json(saved: Mapping[str, Any]) -> Layout:
    def node(plain: Any) -> Any:
        if isinstance(plain, int):
            return plain
        ((kind, parts),) = plain.items()
        if kind == "dict":
            return {key: node(part) for key, part in parts.items()}
        return {"tuple": tuple, "list": list}[kind](map(node, parts))

    columns = tuple(names if names is None else tuple(names) for names in saved["columns"])
    shapes = tuple(map(tuple, saved["shapes"]))
    return Layout(jax.tree.structure(node(saved["tree"])), shapes, columns, tuple(saved["dtypes"]))
