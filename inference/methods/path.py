"""The path from the prior to the MLE: MAP under priors of growing scale, with the flat prior as their limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

from ..checks import Layout, as_key, check_labels, check_like, check_problem
from ..density import Density
from ..labels import labelled
from ..pointwise import log_likelihood
from ..report import Printed, Report, columns_of
from ..rows import Data, Weights
from ..sites import NumPyroModel
from ..status import Status
from ..surface import Surface
from .descent import descend
from .finish import MAX_GAIN, Ending, finish
from .point import MAP
from .progress import Descent

if TYPE_CHECKING:  # importing it takes a tenth of a second or more
    import pandas as pd

MULTIPLES = tuple(np.geomspace(0.1, 100.0, 19).tolist())
"""The scales of the prior, as multiples of the model's own."""
SWEEPS = 4
"""The largest number of descents of all members, each from the best weights of any member so far."""


@dataclass(frozen=True, eq=False, repr=False)
class PriorPath(Printed):
    """MAP estimates under priors of growing scale, the MLE last; see `prior_path`. Prints as a table."""

    multiples: np.ndarray
    """The scales of the prior as multiples of the model's, increasing, (m,); the last is infinite, the flat prior."""
    weights: Mapping[str, np.ndarray]
    """The estimates by latent site, (m, *shape)."""
    log_likelihood: np.ndarray
    """Log p(y | x, w) of the training rows, in nats, (m,)."""
    num_rows: float
    """The number of training rows, or the sum of their weights."""
    test_log_likelihood: np.ndarray | None
    """Log p(y | x, w) of the test rows, in nats, (m,)."""
    num_test_rows: int
    statuses: tuple[Status, ...]
    """The status of each estimate."""

    @property
    def limit(self) -> Status:
        """The status of the estimate under the flat prior, the MLE: failed where none exists, and the path diverges."""
        return self.statuses[-1]

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per estimate: log likelihoods in nats per row, root mean square of each site, status."""
        import pandas as pd

        columns: dict[str, Any] = {"log_likelihood": self.log_likelihood / self.num_rows}
        if self.test_log_likelihood is not None:
            columns["test_log_likelihood"] = self.test_log_likelihood / self.num_test_rows
        for site, value in self.weights.items():
            columns[site] = np.sqrt((value.reshape(len(value), -1) ** 2).mean(axis=1))
        columns["status"] = [status.level for status in self.statuses]
        return pd.DataFrame(columns, index=pd.Index(self.multiples, name="prior_scale"))

    @property
    def _report(self) -> Report:
        table = self.to_dataframe()
        table.index = table.index.map("{:.4g}".format)
        notes = [f"prior scale {self.multiples[i]:.3g}: {s}" for i, s in enumerate(self.statuses) if s.level != "ok"]
        return Report(table, columns_of(table, "{:.4g}"), [self._units, *notes], printed_nan=tuple(table))

    @property
    def _units(self) -> str:
        return (
            "Log likelihood in nats per row; prior scale in multiples of the model's, inf is the flat prior; sites: "
            "root mean square."
        )


def prior_path(
    model: NumPyroModel,
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    key: Any,
    multiples: Sequence[float] = MULTIPLES,
    x_test: Any = None,
    y_test: Any = None,
    method: MAP | None = None,
    progress: bool = True,
) -> PriorPath:
    """Follow the MAP estimate as the prior's scale grows, to the MLE.

    The member with multiple c maximises ``log p(y | x, w) + log p(w) / c^2``. For Normal priors around 0 this is the
    model with c times their scale, since the log prior is ``-|w|^2 / (2 (c s)^2)`` up to a constant; other priors are
    flattened by the power 1 / c^2. The limit of infinite c is the flat prior, and its estimate the MLE: where that
    exists, the path converges to it like 1 / c^2 (the gradient g of the log prior moves the optimum by ``H^-1 g``).

    The model is first fitted without changes; from there all members descend in parallel, with the settings of
    `method`. Where the members of a network end in different modes, so that the weights of one are better under the
    prior of another, they descend again from the better ones. Small convex problems are finished by Newton's method.

    Args:
        model: a NumPyro model with a prior.
        x: n rows, as for `fit`.
        y: n rows, as for `fit`.
        weights: the weight of each row, (n,), as for `fit`.
        key: a typed JAX key or an integer seed.
        multiples: scales of the prior as multiples of the model's own, increasing; the flat prior is added.
        x_test: test rows, on which the estimates are scored as well.
        y_test: the y of the test rows.
        method: the settings of the fits; by default ``MAP()``.
        progress: show progress bars.

    Raises:
        TypeError, ValueError: when data, model or multiples are invalid, or the prior is flat.
        KeyboardInterrupt: at Ctrl-C before the descents along the path.

    Example:
        >>> import numpy as np
        >>> from flatprior.inference.methods import prior_path
        >>> from flatprior.models import MLP, Model, Normal, gaussian
        >>> x = np.array([[-1.0], [0.0], [1.0]])
        >>> line = Model(MLP(), Normal(1.0), gaussian(1.0))
        >>> path = prior_path(line, x, 2 * x[:, 0], key=0, multiples=(0.5, 1.0, 2.0))
        >>> print(path.weights["w1"][:, 0, 0].round(3))  # 2 / (1 + 1 / (2 c^2)), which converges to 2
        [0.667 1.333 1.778 2.   ]
    """
    density, data = check_problem(model, x, y, weights, caller="prior_path")
    if density.structure.flat:
        raise ValueError("prior_path: expected a model with a prior; its prior is flat, and there is no path from it.")
    if density.structure.of_prior:
        raise ValueError(
            f"prior_path: expected a prior whose scales are numbers, which the path multiplies; the model learns "
            f"{sorted(density.structure.of_prior)}. Give numbers, such as those of tune(model, x, y)."
        )
    scales = _as_multiples(multiples)
    test = _as_test(density, Layout.of(x, data.x), x_test, y_test)
    method, key, data = method or MAP(), as_key(key), data.on_device()
    # The factors of the log prior of the members: 1 / c^2, and 0 for the flat prior, the last.
    power = jax.device_put(np.append(scales**-2.0, 0.0))
    u, descent = _descend(method, density, data, power, key=key, progress=progress)

    def end(i: int) -> Ending:
        member = jax.tree.map(lambda leaf: leaf[i], u)
        if i < len(scales):
            return finish(method, density, member, data, power[i])
        return finish(method, density.flattened(), member, data)

    ends = [end(i) for i in range(len(power))]
    surface = method.surface(density, data)
    draws = jax.tree.map(lambda *leaves: np.stack(leaves), *(surface.constrain(end.u, data) for end in ends))
    return PriorPath(
        multiples=np.append(scales, np.inf),
        weights=draws,
        log_likelihood=_score(density, draws, data),
        num_rows=data.total_weight,
        test_log_likelihood=None if test is None else _score(density, draws, test),
        num_test_rows=0 if test is None else test.num_rows,
        statuses=tuple(descent.status + end.status for end in ends),
    )


def _descend(
    method: MAP, density: Density, data: Data, power: Array, *, key: Array, progress: bool
) -> tuple[Weights, Descent]:
    """Return the end points of all members, (member, *shape), and their last descent."""
    first = descend(method, density, data, key=key, progress=progress)
    if first.status.is_interrupted:
        raise KeyboardInterrupt  # there is no path yet
    u = finish(method, density, first.member(first.best), data).u
    start = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(power), *leaf.shape)), u)
    members = replace(method, num_restarts=len(power))
    for _ in range(SWEEPS):
        descent = descend(members, density, data, key=key, progress=progress, start=start, prior_power=power)
        start, has_moved = _exchange(method.surface(density, data), descent.weights, power, data)
        if not has_moved or not descent.status or descent.status.is_interrupted:
            break
    return start, descent


def _exchange(surface: Surface, u: Weights, power: Array, data: Data) -> tuple[Weights, bool]:
    """Give each member the weights of the member that are best under its own prior.

    If every member has the best of all weights, the likelihood increases with the scale. The members of a network may
    be in different modes; this gives the worse ones a better starting point.

    Returns:
        The weights, (member, *shape), and whether any member has improved.
    """
    one = jax.vmap(surface.loss, in_axes=(0, None, None))
    losses = data.num_rows * np.stack([np.asarray(one(u, data, each), float) for each in power])
    best = np.nanargmin(losses, axis=1)
    own = np.arange(len(best))
    better = losses[own, best] < losses[own, own] - MAX_GAIN
    chosen = np.where(better, best, own)
    return jax.tree.map(lambda leaf: leaf[chosen], u), bool(better.any())


def _score(density: Density, draws: Weights, data: Data) -> np.ndarray:
    return log_likelihood(density, draws, data).sum(axis=1, dtype=np.float64)


def _as_multiples(multiples: Sequence[float]) -> np.ndarray:
    scales = np.asarray(multiples, float)
    if scales.ndim != 1 or not scales.size or not (np.diff(scales, prepend=0.0) > 0).all() or np.isinf(scales).any():
        raise ValueError(
            f"prior_path: expected increasing positive numbers as multiples, such as (0.1, 1, 10); got {multiples!r}. "
            f"The flat prior is added to them."
        )
    return scales


def _as_test(density: Density, layout: Layout, x: Any, y: Any) -> Data | None:
    if (x is None) != (y is None):
        raise TypeError("prior_path: expected x_test and y_test together, or neither.")
    if x is None:
        return None
    x, y, _ = labelled(check_like(layout, x, "x_test"), y).scored
    return check_labels(density.model, x, y, "y_test").in_memory("prior_path").on_device()
