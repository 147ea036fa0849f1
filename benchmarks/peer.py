"""Posteriors of one network by this library and by posteriors and laplace-torch, on the same rows, network and prior.

    python benchmarks/peer.py [--torch PYTHON] [--work 1.0] [--keys 3] [--only NAME ...]

PYTHON is an interpreter with PyTorch, posteriors 0.1.3 and laplace-torch 0.3, in an environment of its own; without it
the peers are skipped. The rows are scikit-learn's digits, 1,000 to fit and 797 to test, and the network has 16 silu
units (1,210 weights), each Normal with a standard deviation of 1 over the root of its inputs. Pairs of methods have the
same numbers of steps, batches, chains and draws:

- ensemble: ten members, Adam by batches; in PyTorch all members at once, by `torch.func.vmap`.
- SGMCMC: ten chains from ten such members, a thousand draws in all; the peer is `baoa` of posteriors, the splitting of
  ours, with all chains at once. Ours sets step and scales itself; the step of the peer is the best of three by the test
  elpd of short chains, and the search is not counted.
- mean field: `vi.diag` of posteriors, from one member, and 200 draws.
- Laplace: the Kronecker-factored matrix of laplace-torch, ours of low rank, both linearised, from one member.

Seconds are processor seconds: `first` is with compilation, `again` a fit under another key. The peer compiles nothing,
and has one thread, which is faster for tensors of this size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, CLASSES, BATCH, CHAINS, RATE = 16, 10, 100, 10, 0.01
DESCENT, GUIDE, WARMUP, DRAWS, THINNING, SAMPLES = 1000, 5000, 4000, 100, 40, 200
"""Steps of a descent, a guide and a warm-up; draws per chain, steps between them, and draws of a guide."""
SEARCH, FRICTION = (0.005, 0.01, 0.02), 5.0
"""The steps of the peer's chains that are tried, and their friction."""
NAMES = ("ensemble", "SGMCMC", "mean field", "Laplace")


def rows() -> dict[str, np.ndarray]:
    """Return the digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.data / 16 - 0.3)[order].astype(np.float32), data.target[order]
    return {"x": x[:1000], "y": y[:1000], "x_test": x[1000:], "y_test": y[1000:]}


def ours(name: str, data: dict[str, np.ndarray], work: float, keys: int) -> list[dict[str, float]]:
    """Return elpd and processor seconds of fits by this library, by key."""
    from flatprior.inference import MAP, SGMCMC, Ensemble, Laplace, Variational, fit
    from flatprior.models import MLP, Categorical, Model, fan_in

    def count(steps: int) -> int:
        return max(10, int(steps * work))

    point = MAP(num_steps=count(DESCENT), batch_size=BATCH, polish=False)
    method: Any = {
        "ensemble": Ensemble(base=point, num_members=CHAINS),
        "SGMCMC": SGMCMC(
            num_warmup=count(WARMUP), num_samples=count(DRAWS), thinning=THINNING, batch_size=BATCH, start=point
        ),
        "mean field": Variational(num_steps=count(GUIDE), batch_size=BATCH, num_samples=SAMPLES, start=point),
        "Laplace": Laplace(base=point, structure="low_rank", num_samples=SAMPLES),
    }[name]
    model = Model(MLP((HIDDEN,), "silu"), Categorical(CLASSES), fan_in())
    results = []
    for key in range(keys + 1):  # the first compiles
        began = time.process_time()
        result = fit(model, method, data["x"], data["y"], key=max(0, key - 1), progress=False)
        seconds = time.process_time() - began
        elpd = float(result.predict(data["x_test"]).log_prob(data["y_test"]).mean(dtype=float))
        results.append({"elpd": elpd, "seconds": seconds})
    return results


# In the process of the peer: no library but PyTorch, posteriors and laplace-torch.


def theirs(name: str, data: dict[str, np.ndarray], work: float, keys: int) -> list[dict[str, float]]:
    """Return elpd and processor seconds of fits by the peer, by key."""
    import torch

    torch.set_num_threads(1)  # tensors this small are slower on two
    tensors = {key: torch.tensor(value) for key, value in data.items()}
    fits: dict[str, Any] = {"ensemble": _ensemble, "SGMCMC": _chains, "mean field": _mean_field, "Laplace": _laplace}
    results: list[dict[str, float]] = []
    for key in range(keys):
        torch.manual_seed(key)
        settings = {"step": results[0]["step"]} if name == "SGMCMC" and results else {}
        found = fits[name](tensors, work, **settings)
        results.append(found | {"elpd": float(found["elpd"])})
    return results


def _count(steps: int, work: float) -> int:
    return max(10, int(steps * work))


def _start(count: int) -> dict[str, Any]:
    import torch

    shapes = {"w1": (64, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    return {
        site: torch.randn(count, *shape) / (shape[0] ** 0.5 if len(shape) > 1 else np.inf)
        for site, shape in shapes.items()
    }


def _logits(weights: dict[str, Any], x: Any) -> Any:
    import torch

    hidden = torch.nn.functional.silu(x @ weights["w1"] + weights["b1"])
    return hidden @ weights["w2"] + weights["b2"]


def _log_density(weights: dict[str, Any], batch: tuple[Any, Any], num_rows: int) -> Any:
    """Return the log density of one set of weights, by a batch of rows."""
    import torch

    x, y = batch
    likelihood = -torch.nn.functional.cross_entropy(_logits(weights, x), y, reduction="sum") * (num_rows / len(y))
    of_site = {site: value.shape[0] if value.ndim > 1 else 1 for site, value in weights.items()}
    prior = sum((-0.5 * of_site[site] * value**2).sum() for site, value in weights.items())
    return likelihood + prior


def _of_all(weights: dict[str, Any], batch: tuple[Any, Any], num_rows: int) -> Any:
    """Return the sum of the log densities of all members, each with a batch of its own."""
    import torch

    return torch.func.vmap(lambda w, x, y: _log_density(w, (x, y), num_rows))(weights, *batch).sum()


def _batches(data: dict[str, Any], count: int, members: int) -> Any:
    """Yield batches by member, each member with partitions of its own."""
    import torch

    num_rows = len(data["y"])
    per_epoch = num_rows // BATCH
    for step in range(count):
        if step % per_epoch == 0:
            order = torch.stack([torch.randperm(num_rows) for _ in range(members)])
        rows = order[:, (step % per_epoch) * BATCH : (step % per_epoch + 1) * BATCH]
        yield data["x"][rows], data["y"][rows]


def _descended(data: dict[str, Any], work: float, members: int) -> dict[str, Any]:
    import torch

    count, num_rows = _count(DESCENT, work), len(data["y"])
    weights = {site: value.requires_grad_() for site, value in _start(members).items()}
    optimizer = torch.optim.Adam(weights.values(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    for batch in _batches(data, count, members):
        optimizer.zero_grad()
        (-_of_all(weights, batch, num_rows) / num_rows).backward()
        optimizer.step()
        schedule.step()
    return {site: value.detach() for site, value in weights.items()}


def _elpd(data: dict[str, Any], draws: dict[str, Any]) -> Any:
    """Return the elpd of the mixture of draws, (draw, ...)."""
    import torch

    with torch.no_grad():
        logits = torch.func.vmap(lambda w: _logits(w, data["x_test"]))(draws)
        probs = torch.softmax(logits, dim=-1).mean(dim=0)
        return torch.log(probs[torch.arange(len(probs)), data["y_test"]]).mean()


def _ensemble(data: dict[str, Any], work: float) -> dict[str, float]:
    began = time.process_time()
    weights = _descended(data, work, CHAINS)
    return {"seconds": time.process_time() - began, "elpd": _elpd(data, weights)}


def _chains(data: dict[str, Any], work: float, step: float | None = None) -> dict[str, float]:
    """Return elpd and seconds of chains; by default the step is that of `SEARCH` with which short chains score best."""
    import posteriors
    import torch

    if step is None:
        elpds = {one: float(_chains(data, work / 4, one)["elpd"]) for one in SEARCH}
        step = max(elpds, key=lambda one: np.nan_to_num(elpds[one], nan=-np.inf))
    num_rows, warmup = len(data["y"]), _count(WARMUP, work)
    began = time.process_time()
    weights = _descended(data, work, CHAINS)

    def log_posterior(weights: dict[str, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        return _of_all(weights, batch, num_rows), torch.zeros(())

    transform = posteriors.sgmcmc.baoa.build(log_posterior, lr=step, alpha=FRICTION)
    state, draws = transform.init(weights), []
    for i, batch in enumerate(_batches(data, warmup + _count(DRAWS, work) * THINNING, CHAINS)):
        state, _ = transform.update(state, batch)
        if i >= warmup and (i - warmup) % THINNING == THINNING - 1:
            draws.append({site: value.clone() for site, value in state.params.items()})
    seconds = time.process_time() - began
    stacked = {site: torch.cat([draw[site] for draw in draws]) for site in weights}
    return {"seconds": seconds, "elpd": _elpd(data, stacked), "step": step}


def _mean_field(data: dict[str, Any], work: float) -> dict[str, float]:
    import posteriors
    import torch
    import torchopt

    num_rows, count = len(data["y"]), _count(GUIDE, work)
    began = time.process_time()
    centre = {site: value[0] for site, value in _descended(data, work, 1).items()}

    def log_posterior(weights: dict[str, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        return _log_density(weights, batch, num_rows) / num_rows, torch.zeros(())

    rate = torchopt.schedule.linear_schedule(RATE, 0.0, count, 0)
    optimizer = torchopt.adam(lr=rate)
    transform = posteriors.vi.diag.build(log_posterior, optimizer, temperature=1 / num_rows, init_log_sds=-3.0)
    state = transform.init(centre)
    for x, y in _batches(data, count, 1):
        state, _ = transform.update(state, (x[0], y[0]))
    draws = {
        site: value + torch.exp(state.log_sd_diag[site]) * torch.randn(SAMPLES, *value.shape)
        for site, value in state.params.items()
    }
    return {"seconds": time.process_time() - began, "elpd": _elpd(data, draws)}


def _laplace(data: dict[str, Any], work: float) -> dict[str, float]:
    import torch
    from laplace import Laplace

    began = time.process_time()
    weights = {site: value[0] for site, value in _descended(data, work, 1).items()}
    net = torch.nn.Sequential(
        torch.nn.Linear(64, HIDDEN), torch.nn.SiLU(), torch.nn.Linear(HIDDEN, CLASSES)
    )  # parameters: w1, b1, w2, b2
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), weights.values(), strict=True):
            parameter.copy_(value.T)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data["x"], data["y"]), batch_size=BATCH)
    precision = torch.tensor([64.0, 1.0, float(HIDDEN), 1.0])  # of w1, b1, w2, b2
    la = Laplace(net, "classification", subset_of_weights="all", hessian_structure="kron", prior_precision=precision)
    la.fit(loader)
    seconds = time.process_time() - began
    probs = la(data["x_test"], pred_type="glm", link_approx="mc", n_samples=SAMPLES)
    elpd = torch.log(probs[torch.arange(len(probs)), data["y_test"]]).mean()
    return {"seconds": seconds, "elpd": elpd}


def has_peer(python: str) -> bool:
    """Return whether an interpreter has the peers."""
    try:
        done = subprocess.run([python, "-c", "import posteriors, laplace"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


WORKERS: dict[str, Callable[..., list[dict[str, float]]]] = {"ours": ours, "theirs": theirs}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="python3")
    parser.add_argument("--work", type=float, default=1.0)
    parser.add_argument("--keys", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        whose, name, path = arguments.worker
        sys.path.pop(0)  # this folder, whose files may have the names of libraries
        print(json.dumps(WORKERS[whose](name, dict(np.load(path)), arguments.work, arguments.keys)))
        return
    pythons = {"ours": sys.executable}
    if has_peer(arguments.torch):
        pythons["theirs"] = arguments.torch
    else:
        print(f"no peers: {arguments.torch} cannot import posteriors and laplace")
    print("| method | whose | elpd (se over keys) | processor seconds, first | again |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, **rows())
        for name in arguments.only:
            for whose, python in pythons.items():
                settings = ["--work", str(arguments.work), "--keys", str(arguments.keys)]
                command = [python, __file__, *settings, "--worker", whose, name, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{name}, {whose} failed:\n{done.stderr[-3000:]}")
                _print(name, whose, json.loads(done.stdout.splitlines()[-1]))


def _print(name: str, whose: str, results: list[dict[str, float]]) -> None:
    first, again = results[0]["seconds"], results[1:] or results
    elpds = np.array([one["elpd"] for one in (again if whose == "ours" else results)])
    error = elpds.std(ddof=1) / len(elpds) ** 0.5 if len(elpds) > 1 else np.nan
    seconds = np.mean([one["seconds"] for one in again])
    print(f"| {name} | {whose} | {elpds.mean():.3f} ({error:.3f}) | {first:.1f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
