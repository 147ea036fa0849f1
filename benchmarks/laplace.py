"""Laplace beside laplace-torch on the same weights, prior and data, and beside chains where that has no likelihood.

    python benchmarks/laplace.py [--torch PYTHON] [--parts same;cost;chains]

PYTHON is an interpreter with PyTorch and laplace-torch 0.3, in an environment of its own; without it the peer is
skipped. Three tables:

- same: the largest relative difference of covariance, variance of the function at 20 rows (of differences of logits)
  and evidence, at one mode, in float64;
- cost: seconds (compilation apart) and peak memory of the curvature, each in a process of its own, at random weights;
- chains: the linearised predictive against `MCLMC` in function space, for observations that laplace-torch lacks.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NOISE, HIDDEN, FEATURES, ROWS = 0.3, 10, 3, 60
STRUCTURES = ("full", "diagonal", "last_layer")
COSTS = ("full, 1,001 weights, 10,000 rows", "last layer, CNN", "diagonal, CNN", "low rank 20, CNN")
NUM_IMAGES = 100


def same(python: str, folder: Path) -> None:
    """Print the differences from the peer at one mode."""
    import jax

    from flatprior.inference import MAP, Laplace, fit
    from flatprior.models import MLP, Categorical, Model, Normal, gaussian

    rng = np.random.default_rng(0)
    x, probes = rng.normal(size=(ROWS, FEATURES)), rng.normal(size=(20, FEATURES))
    signal = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
    cases: dict[str, tuple[Any, np.ndarray]] = {
        "regression": (Normal(NOISE), signal + NOISE * rng.normal(size=ROWS)),
        "3 classes": (Categorical(3), np.digitize(signal + 0.3 * rng.normal(size=ROWS), [-0.5, 0.5])),
    }
    print("| | structure | covariance | variance of the function | evidence |\n|---|---|---|---|---|")
    for name, (observation, y) in cases.items():
        for structure in STRUCTURES:
            with jax.enable_x64(True):
                model = Model(MLP((HIDDEN,), "tanh"), observation, gaussian(1.0))
                method = Laplace(base=MAP(num_steps=500), num_samples=2, structure=structure, predictive="linearized")
                found, covariance = _with_covariance(lambda m=model, a=method, b=y: fit(m, a, x, b, key=0))
                ours = _ours(found, covariance, probes, structure)
            weights = {site: np.asarray(value, float) for site, value in found.outcome.linearized_at.items()}
            np.savez(folder / "case.npz", x=x, y=y, probes=probes, structure=structure, **weights)
            theirs = _peer(python, "same", folder / "case.npz")
            differences = [_difference(np.asarray(ours[key]), np.asarray(theirs[key])) for key in ours]
            print(f"| {name} | {structure} | " + " | ".join(f"{value:.1e}" for value in differences) + " |", flush=True)


def _with_covariance(run: Callable[[], Any]) -> tuple[Any, np.ndarray]:
    """Return a fit and the covariance of its Gaussian."""
    from unittest.mock import patch

    from flatprior.inference.methods.gaussian import Gaussian, LowRank

    seen: list[np.ndarray] = []
    full, low = Gaussian.at, LowRank.at

    def of_full(centre: Any, slope: Any, h: Any) -> Any:
        seen.append(np.linalg.inv(h))
        return full(centre, slope, h)

    def of_diagonal(centre: Any, slope: Any, diagonal: Any) -> Any:
        seen.append(np.diag(1 / diagonal))
        return low(centre, slope, diagonal)

    with patch.object(Gaussian, "at", of_full), patch.object(LowRank, "at", of_diagonal):
        return run(), seen[-1]


def _order(weights: dict[str, np.ndarray], sites: tuple[str, ...]) -> np.ndarray:
    """Return the places of PyTorch's parameters in our vector of some sites."""
    sizes = np.cumsum([0] + [weights[site].size for site in sorted(sites)])
    places = {
        s: np.arange(a, b).reshape(weights[s].shape) for s, a, b in zip(sorted(sites), sizes, sizes[1:], strict=False)
    }
    return np.concatenate([places[s].T.ravel() for s in ("w1", "b1", "w2", "b2") if s in sites])


def _ours(found: Any, covariance: np.ndarray, probes: np.ndarray, structure: str) -> dict[str, Any]:
    """Return the covariance in PyTorch's order, the variance of the function, and the evidence."""
    at = {site: np.asarray(value) for site, value in found.outcome.linearized_at.items()}
    sites = ("w2", "b2") if structure == "last_layer" else ("w1", "b1", "w2", "b2")
    order = _order(at, sites)
    root, names = np.linalg.cholesky(covariance), sorted(sites)
    moved = np.concatenate([at[site].ravel() for site in names]) + np.c_[np.zeros(len(root)), root].T
    parts = np.split(moved, np.cumsum([at[site].size for site in names])[:-1], axis=1)
    draws = {site: np.broadcast_to(value, (len(moved), *value.shape)) for site, value in at.items()}
    draws |= {site: part.reshape(-1, *at[site].shape) for site, part in zip(names, parts, strict=True)}
    import jax

    predictive = found.predictive(jax.tree.map(jax.numpy.asarray, draws), probes)
    values = predictive.component_means  # linear in the weights, up to the normaliser of classes
    values = values if values.ndim == 2 else np.log(values[..., 1:]) - np.log(values[..., :1])
    variance = ((values[1:] - values[0]) ** 2).sum(axis=0)
    return {"covariance": covariance[np.ix_(order, order)], "variance": variance, "evidence": found.log_evidence}


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs.reshape(ours.shape)).max() / np.abs(theirs).max())


def cost(python: str) -> None:
    """Print seconds and peak memory of curvature."""
    print("| | flatprior | compilation | laplace-torch |\n|---|---|---|---|")
    for name in COSTS:
        ours, theirs = _peer(sys.executable, "cost of ours", name), _peer(python, "cost", name)
        other = f"{theirs['seconds']:.1f} s, {theirs['megabytes']:,.0f} MB" if theirs.get("seconds") else "not there"
        print(
            f"| {name} | {ours['seconds']:.1f} s, {ours['megabytes']:,.0f} MB | {ours['compile']:.1f} s | {other} |",
            flush=True,
        )


def _cost_of_ours(name: str) -> dict[str, float]:
    import jax
    from flax import nnx
    from jax.flatten_util import ravel_pytree

    from flatprior.inference import Laplace
    from flatprior.inference.checks import check_problem
    from flatprior.inference.methods.layers import last_layer
    from flatprior.inference.rows import in_double
    from flatprior.inference.surface import potential_surface_of
    from flatprior.models import MLP, Categorical, Lift, Model, Normal, gaussian

    rng = np.random.default_rng(0)
    if name.startswith("full"):
        x, y = rng.normal(size=(10_000, 18)), rng.normal(size=10_000)
        density, data = check_problem(Model(MLP((50,), "tanh"), Normal(NOISE), gaussian(1.0)), x, y)
    else:
        x, y = rng.normal(size=(NUM_IMAGES, 28, 28, 1)), rng.integers(0, 10, NUM_IMAGES)
        layers = [
            nnx.Conv(1, 16, (3, 3), rngs=nnx.Rngs(0)),
            nnx.relu,
            _pool,
            nnx.Conv(16, 32, (3, 3), rngs=nnx.Rngs(1)),
        ]
        layers += [
            nnx.relu,
            _pool,
            lambda h: h.reshape(h.shape[0], -1),
            nnx.Linear(1568, 64, rngs=nnx.Rngs(2)),
            nnx.relu,
        ]
        module = nnx.Sequential(*layers, nnx.Linear(64, 10, rngs=nnx.Rngs(3)))
        density, data = check_problem(Model(Lift(module), Categorical(10), gaussian(1.0)), x, y)
    weights = {site: 0.1 * rng.normal(size=shape) for site, shape in density.structure.latents.items()}
    if name.startswith("last"):
        _, density, data, weights = last_layer(density, data).at(jax.tree.map(jax.numpy.asarray, weights), data)
    seconds = []
    with jax.enable_x64(True):
        weights, data = jax.tree.map(in_double, (weights, data))
        u = np.asarray(ravel_pytree(weights)[0])
        structure = {"full": "full", "last": "full", "diag": "diagonal", "low ": "low_rank"}[name[:4]]
        method = Laplace(structure=structure, rank=20)  # type: ignore[arg-type]
        surface = method._surface(density, data)
        for _ in range(2):
            start = time.perf_counter()
            if structure == "full":
                potential_surface_of(density, data, "ggn").curvature(u, weights, data).block_until_ready()
            else:
                method._gaussian(surface, u, np.zeros_like(u), weights, data)
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1], "compile": seconds[0] - seconds[1], "megabytes": _peak()}


def _pool(h: Any) -> Any:
    from flax import nnx

    return nnx.max_pool(h, (2, 2), strides=(2, 2))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def chains() -> None:
    """Print the linearised predictive beside long chains, in function space."""
    import numpyro.distributions as dist

    from flatprior.inference import MCLMC, Laplace, fit
    from flatprior.models import MLP, Bernoulli, Model, Normal, Poisson, gaussian

    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(200, 1))
    signal, probes = np.sin(2 * x[:, 0]), np.linspace(-2, 2, 41)[:, None]
    cases: dict[str, tuple[Any, np.ndarray]] = {
        "Normal, scale of the network": (Normal("network"), signal + 0.2 * np.exp(x[:, 0] / 2) * rng.normal(size=200)),
        "Normal, learned scale": (Normal(dist.HalfNormal(1.0)), signal + 0.3 * rng.normal(size=200)),
        "Bernoulli": (Bernoulli(), (3 * signal + rng.logistic(size=200) > 0).astype(int)),
        "Poisson": (Poisson(), rng.poisson(np.exp(1 + signal))),
    }
    print("| observation | mean | spread | elpd, Laplace | elpd, MCLMC | status |\n|---|---|---|---|---|---|")
    for name, (observation, y) in cases.items():
        model = Model(MLP((8,), "tanh"), observation, gaussian(1.0))
        train, test = np.arange(200) % 2 == 0, np.arange(200) % 2 == 1
        ours, exact = (fit(model, m, x[train], y[train], key=0, progress=False) for m in (Laplace(), MCLMC()))
        (a, b) = (found.predict(probes).component_means for found in (ours, exact))
        sd = b.std(axis=0)
        shift, ratio = np.sqrt((((a.mean(axis=0) - b.mean(axis=0)) / sd) ** 2).mean()), (a.std(axis=0) / sd)
        elpd = [found.predict(x[test]).log_prob(y[test]).mean() for found in (ours, exact)]
        print(
            f"| {name} | {shift:.2f} sd | {np.median(ratio):.2f} | {elpd[0]:.3f} | {elpd[1]:.3f} | "
            f"{ours.status.level}, {exact.status.level} |",
            flush=True,
        )


def _peer(python: str, what: str, argument: Any) -> dict[str, Any]:
    """Return what a process prints as its last line."""
    command = [python, __file__, "--worker", what, str(argument)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# In the process of the peer: no library but PyTorch and laplace-torch.


def _same_by_torch(path: str) -> dict[str, Any]:
    import laplace
    import torch

    torch.set_default_dtype(torch.float64)
    case = np.load(path)
    x, probes, structure = torch.tensor(case["x"]), torch.tensor(case["probes"]), str(case["structure"])
    is_regression = case["y"].dtype.kind == "f"
    y = torch.tensor(case["y"][:, None] if is_regression else case["y"])
    net = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, case["w2"].shape[1])
    )
    with torch.no_grad():
        for layer, number in ((net[0], 1), (net[2], 2)):
            layer.weight.copy_(torch.tensor(case[f"w{number}"].T))
            layer.bias.copy_(torch.tensor(case[f"b{number}"]))
    found = laplace.Laplace(
        net,
        "regression" if is_regression else "classification",
        subset_of_weights="last_layer" if structure == "last_layer" else "all",
        hessian_structure="diag" if structure == "diagonal" else "full",
        prior_precision=1.0,
        **({"sigma_noise": NOISE} if is_regression else {}),
    )
    found.fit(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20))
    precision = found.posterior_precision.detach()
    covariance = torch.diag(1 / precision) if structure == "diagonal" else torch.linalg.inv(precision)
    _, variance = found._glm_predictive_distribution(probes)
    variance = variance.detach().numpy()
    if is_regression:
        variance = variance.reshape(len(probes))
    else:
        contrast = np.c_[-np.ones(2), np.eye(2)]
        variance = np.einsum("ik,nkl,il->ni", contrast, variance, contrast)
    evidence = found.log_marginal_likelihood().item()
    return {"covariance": covariance.numpy().tolist(), "variance": variance.tolist(), "evidence": evidence}


def _cost_by_torch(name: str) -> dict[str, float]:
    import laplace
    import torch

    if name.startswith("low rank"):
        return {}  # laplace-torch 0.3 has it only with a package that is on no index
    torch.manual_seed(0)
    if name.startswith("full"):
        torch.set_default_dtype(torch.float64)
        net: Any = torch.nn.Sequential(torch.nn.Linear(18, 50), torch.nn.Tanh(), torch.nn.Linear(50, 1))
        rows = torch.randn(10_000, 18), torch.randn(10_000, 1)
        kind = {"likelihood": "regression", "subset_of_weights": "all", "hessian_structure": "full"}
    else:
        torch.set_default_dtype(torch.float64)
        conv = [torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        conv += [torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten()]
        net = torch.nn.Sequential(*conv, torch.nn.Linear(1568, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        rows = torch.randn(NUM_IMAGES, 1, 28, 28), torch.randint(0, 10, (NUM_IMAGES,))
        part = ("last_layer", "full") if name.startswith("last") else ("all", "diag")
        kind = {"likelihood": "classification", "subset_of_weights": part[0], "hessian_structure": part[1]}
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*rows), batch_size=128 if len(rows[0]) > 1000 else 20
    )
    start = time.perf_counter()
    laplace.Laplace(net, **kind).fit(loader)
    return {"seconds": time.perf_counter() - start, "megabytes": _peak()}


WORKERS = {"same": _same_by_torch, "cost": _cost_by_torch, "cost of ours": _cost_of_ours}


def has_peer(python: str) -> bool:
    """Return whether an interpreter has laplace-torch."""
    check = [python, "-c", "import torch, laplace.baselaplace"]
    try:
        return subprocess.run(check, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="python3")
    parser.add_argument("--parts", default="same;cost;chains")
    parser.add_argument("--worker", nargs=2)
    arguments = parser.parse_args()
    if arguments.worker:
        sys.path.pop(0)  # this folder, in which this file has the name of the peer
        print(json.dumps(WORKERS[arguments.worker[0]](arguments.worker[1])))
        return
    parts = arguments.parts.split(";")
    if has_peer(arguments.torch):
        with tempfile.TemporaryDirectory() as folder:
            if "same" in parts:
                same(arguments.torch, Path(folder))
        if "cost" in parts:
            cost(arguments.torch)
    else:
        print(f"laplace-torch: skipped; {arguments.torch} does not have it.")
    if "chains" in parts:
        chains()


if __name__ == "__main__":
    main()
