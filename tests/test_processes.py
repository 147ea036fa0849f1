"""Rows that are sharded over devices and processes: the numbers of one device that has all rows.

The default tests start two processes once. Slow ones start four, kill one of them, and use a mesh of chains and rows.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jax import Array

from flatprior.inference import MAP, MCLMC, Ensemble, Fit, compare, fit
from flatprior.inference.methods import orders
from flatprior.inference.methods.orders import order_of
from flatprior.inference.status import Status
from flatprior.models import MLP, Model, Normal, gaussian

SCRIPT = Path(__file__).with_name("several.py")
FAST = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
"""Half the time to compile."""
ALL = (
    "full,batches,validated,members,NUTS,MCLMC,SGMCMC,Variational,"
    "members on all,NUTS on all,MCLMC on all,full where they are"
)
MODEL = Model(MLP((2,), "tanh"), Normal(0.3), gaussian(1.0))
MEMBERS = Ensemble(MAP(num_steps=40, batch_size=8, polish=False), num_members=3)
CHAINS = MCLMC(num_warmup=20, num_samples=4, thinning=2, num_chains=2, start=None)


def start(
    folder: Path, processes: int, devices: int, methods: str, *, ended_by: tuple[int, str] | None = None
) -> list[Any]:
    """Start processes that fit together, one of which may send itself a signal."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for process in range(processes):
        command = [sys.executable, str(SCRIPT), str(folder), *map(str, (port, process, processes, devices)), methods]
        command += ["0.1", ended_by[1]] if ended_by is not None and process == ended_by[0] else []
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, env=os.environ | FAST, text=True, **pipes))
    return started


def ended(started: list[Any]) -> list[tuple[int, str]]:
    """Return the codes and words with which processes end."""
    outputs = [process.communicate(timeout=400)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def results(folder: Path, processes: int, devices: int, methods: str) -> list[dict[str, Any]]:
    """Return what each process has found."""
    for code, output in ended(start(folder, processes, devices, methods)):
        assert code == 0, output
    return [dict(np.load(folder / f"{process} of {processes}.npz")) for process in range(processes)]


def of_method(found: dict[str, Any], method: str) -> dict[str, np.ndarray]:
    """Return the draws of a method by site."""
    paths = {path.partition("/")[2]: value for path, value in found.items() if path.startswith(f"{method}/")}
    return {site: value for site, value in paths.items() if site != "about"}


def about(found: dict[str, Any], method: str) -> tuple[Any, ...]:
    """Return what a fit has seen of its rows, and the codes of its status, whose numbers differ by rounding."""
    words = json.loads(str(found[f"{method}/about"]))
    return words["rows"], words["counts"], Status.from_json(words["status"]).codes


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of all processes."""
    x = np.linspace(-1, 1, 80)[:, None].astype(np.float32)
    return x, np.sin(3 * x[:, 0])


def order_of_shards(shards: int, size: int, key: Array, epoch: int, num_rows: int, *_: Any) -> np.ndarray:
    """Return the order in which one device uses the rows of an epoch, if each batch has as many of each shard."""
    each, share = num_rows // shards, size // shards
    orders = [shard * each + order_of(key, epoch, each, shard=shard) for shard in range(shards)]
    return np.concatenate(
        [order[i : i + share] for i in range(0, each - each % share, share) for order in orders], dtype=np.int32
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has found."""
    return results(tmp_path_factory.mktemp("two"), 2, 1, "members,MCLMC")


def check(found: list[dict[str, Any]], method: str, expected: Fit) -> None:
    """Check that all processes have one result, that of a fit on one device up to rounding."""
    for site, value in of_method(found[0], method).items():
        for other in found[1:]:
            np.testing.assert_array_equal(other[f"{method}/{site}"], value)
        np.testing.assert_allclose(value, expected.draws[site], rtol=1e-4, atol=1e-5, err_msg=f"{method}, {site}")
    assert about(found[0], method)[:2] == (expected.rows, str(expected.counts))


def test_batches_of_shards_are_those_of_one_device(two: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "order_of", partial(order_of_shards, 2, 8))
    check(two, "members", fit(MODEL, MEMBERS, *rows(), key=0, progress=False))


@pytest.fixture(scope="module")
def chains() -> Fit:
    """The chains of one process."""
    return fit(MODEL, CHAINS, *rows(), key=0, progress=False)


def test_chains_over_rows_of_two_processes_are_those_of_one(two: list[dict[str, Any]], chains: Fit) -> None:
    check(two, "MCLMC", chains)


def test_scores_are_those_of_the_rows_of_all_processes(two: list[dict[str, Any]], chains: Fit) -> None:
    first, second = two
    assert str(first["compare"]) == str(second["compare"])
    fitted = replace(chains, outcome=replace(chains.outcome, draws=of_method(first, "MCLMC")))
    table = compare({"fit": fitted}, *rows())
    expected = table.to_dataframe()[["elpd", "elpd_se", "rmse", "crps", "coverage"]].iloc[0].tolist()
    np.testing.assert_allclose(json.loads(str(first["compare"])), expected, rtol=1e-5)
    np.testing.assert_allclose(first["compare/log_probs"], table.log_probs["fit"], rtol=1e-4, atol=1e-5)
    for note in ("80 rows.", "Fitted to these rows: fit."):
        assert note in str(first["compare/notes"])


def test_distances_from_a_reference_are_those_at_the_rows_of_all_processes(
    two: list[dict[str, Any]], chains: Fit
) -> None:
    first, second = two
    np.testing.assert_array_equal(first["distances"], second["distances"])
    members = fit(MODEL, MEMBERS, *rows(), key=0, progress=False)
    ours = [
        replace(one, outcome=replace(one.outcome, draws=of_method(first, name)))
        for one, name in ((members, "members"), (chains, "MCLMC"))
    ]
    table = compare({"first": ours[0]}, *rows(), reference=ours[1])
    measures = ["w2", "w2_mean", "spread", "w2_se", "w2_mean_se", "spread_se"]
    expected = [*table.to_dataframe()[measures].iloc[0], *table.floor.values()]
    np.testing.assert_allclose(first["distances"], expected, rtol=1e-4)


ERRORS = {
    "a bad row": "Process 1: x, row 78, column 0: expected finite numbers; got nan",
    "an offset": "^x, column 0: expected .mean. < 2,896 sd in float32; got mean 1e.06, sd 0.58",
    "other rows": "process 1 has others than process 0. Join the rows of all by jax.make_array_from_process_local_data",
    "a method": "Laplace: expected all rows on every device; got rows in 2 shards",
    "columns": r"x: expected rows sharded along the first axis alone.*got P\(None, 'rows'\)",
    "a batch": "MAP: expected batch_size to be a multiple of 2, the shards of the rows.*got 9",
    "predict": "x: expected rows of this process; got an array that is sharded over processes",
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_raised_by_all_processes(name: str, two: list[dict[str, Any]]) -> None:
    first, second = (str(found[f"error/{name}"]) for found in two)
    assert first == second
    assert re.search(ERRORS[name], first)


@pytest.mark.slow
def test_four_processes_give_the_numbers_of_four_devices(tmp_path: Path) -> None:
    found, (expected,) = results(tmp_path, 4, 1, ALL), results(tmp_path, 1, 4, ALL)
    for method in ALL.split(","):
        for site, value in of_method(expected, method).items():
            for each in found:
                np.testing.assert_allclose(each[f"{method}/{site}"], value, rtol=1e-4, atol=1e-4, err_msg=method)
        assert {about(each, method) for each in found} == {about(expected, method)}
    for each in found:
        np.testing.assert_allclose(each["distances"], expected["distances"], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["resumed", "resumed descent"])
@pytest.mark.parametrize("killed", [0, 1])
def test_a_run_of_which_one_process_was_killed_is_resumed(method: str, killed: int, tmp_path: Path) -> None:
    folder, other = tmp_path / "killed", tmp_path / "whole"
    folder.mkdir(), other.mkdir()
    codes = ended(start(folder, 2, 1, method, ended_by=(killed, "SIGKILL")))
    assert codes[killed][0] == -signal.SIGKILL
    code, output = codes[1 - killed]
    assert code != 0
    assert killed == 0 or "one of them has ended or cannot be reached" in output
    run = folder / f"{method} of 2"
    assert any(run.glob("*.npz"))
    again, whole = results(folder, 2, 1, method), results(other, 2, 1, method)
    for site, value in of_method(whole[0], method).items():
        for found in again:
            np.testing.assert_array_equal(found[f"{method}/{site}"], value)


@pytest.mark.slow
def test_a_key_press_in_one_process_ends_all_with_the_result_so_far(tmp_path: Path) -> None:
    method = "resumed descent"
    for code, output in ended(start(tmp_path, 2, 1, method, ended_by=(1, "SIGINT"))):
        assert code == 0, output
    first, second = (dict(np.load(tmp_path / f"{process} of 2.npz")) for process in range(2))
    for site, value in of_method(first, method).items():
        np.testing.assert_array_equal(second[f"{method}/{site}"], value)
        assert np.isfinite(value).all()
    assert "INTERRUPTED" in str(about(first, method)[2])


@pytest.mark.slow
def test_chains_and_rows_lie_along_the_axes_of_a_mesh(tmp_path: Path) -> None:
    methods = ["full", "NUTS", "MCLMC"]
    (found,) = results(
        tmp_path, 1, 4, ",".join(f"{name}{where}" for name in methods for where in (" on all", " on a mesh"))
    )
    for method in methods:
        for site, value in of_method(found, f"{method} on all").items():
            on_mesh = found[f"{method} on a mesh/{site}"]
            np.testing.assert_allclose(on_mesh, value, rtol=1e-4, atol=1e-5, err_msg=f"{method}, {site}")


@pytest.mark.slow
def test_rows_of_weight_0_fill_up_shards(tmp_path: Path) -> None:
    (found,) = results(tmp_path, 1, 4, "full of few,full filled up")
    for site, value in of_method(found, "full of few").items():
        np.testing.assert_allclose(found[f"full filled up/{site}"], value, rtol=1e-4, atol=1e-5, err_msg=site)


@pytest.mark.slow
def test_a_step_exchanges_the_gradient_and_the_loss_once(tmp_path: Path) -> None:
    (found,) = results(tmp_path, 1, 4, "batches on a mesh")
    num_weights = sum(value[0, 0].size for value in of_method(found, "batches on a mesh").values())
    assert list(found["exchanges"]) == [f"all-reduce {num_weights + 1}"]


PAGE = (Path(__file__).parents[1] / "docs" / "machines.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the code of the page on several machines."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_scripts_of_the_documentation_can_be_read() -> None:
    slurm, ssh = blocks("bash")
    for script in (slurm, ssh):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert all(re.match(r"#SBATCH( --[a-z-]+(=\S+)?)+$", line) for line in slurm.splitlines() if "SBATCH" in line)
    (yaml_of_job,) = blocks("yaml")
    service, job = yaml.safe_load_all(yaml_of_job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    about = {each["name"]: each["value"] for each in container["env"]}
    assert int(about["PROCESSES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert about["COORDINATOR"].startswith(f"{job['metadata']['name']}-0.{service['metadata']['name']}:")
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    subprocess.run(["sh", "-n"], input=container["command"][-1], text=True, check=True)


@pytest.mark.slow
def test_the_ssh_script_of_the_documentation_runs_in_two_processes(tmp_path: Path) -> None:
    """With a stand-in for ssh that runs the command here."""
    script, ssh = tmp_path / "rows.py", tmp_path / "ssh"
    script.write_text(next(block for block in blocks("python") if "COORDINATOR" in block))
    ssh.write_text('#!/bin/sh\ncd "$(dirname "$0")" && exec sh -c "$2"\n')
    ssh.chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    lines, here = (
        blocks("bash")[1],
        {"python": sys.executable, "/data/run": str(tmp_path), "node0:1234": f"localhost:{port}"},
    )
    for word, own in (("node0 node1 node2 node3", "here here"), *here.items()):
        assert word in lines
        lines = lines.replace(word, own)
    environment = os.environ | FAST | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=lines, env=environment, capture_output=True, text=True, check=True)
    assert "2048 rows in 2 processes" in done.stdout, done.stderr
    assert (tmp_path / "fit.nc").exists()
