"""Chains, members and restarts spread over the devices of the machine."""

import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import numpy as np
from flatprior.inference import MAP, MCLMC, NUTS, Ensemble, fit
from flatprior.inference.devices import Sharding
from flatprior.models import MLP, Model, Normal
methods = {
    "chains": MCLMC(num_warmup=30, num_samples=5, thinning=2, num_chains=4),
    "trajectories": NUTS(num_warmup=5, num_samples=3, num_chains=2, max_tree_depth=2),
    "members": Ensemble(base=MAP(num_steps=40, polish=False), num_members=4),
    "batches": MAP(num_steps=40, num_restarts=2, batch_size=10, polish=False),
    "validated": MAP(num_steps=200, num_restarts=2, validation_fraction=0.2),
    "one on each of three": Ensemble(base=MAP(num_steps=40, polish=False), num_members=3),
    "five members": Ensemble(base=MAP(num_steps=40, polish=False), num_members=5),
    "five chains": MCLMC(num_warmup=30, num_samples=5, thinning=2, num_chains=5),
}
x = np.linspace(-1, 1, 40)[:, None]
model = Model(MLP((3,), "tanh"), Normal("network"))
print(*(Sharding.of(count).mesh.size for count in range(1, 8)))
compiled = []


def listener(name, seconds, fun_name="", **_):
    if name.endswith("backend_compile_duration"):
        compiled.append(fun_name)


jax.monitoring.register_event_duration_secs_listener(listener)
fits = {name: fit(model, method, x, np.sin(3 * x[:, 0]), key=0, progress=False) for name, method in methods.items()}
print(sum(name in ("jit(_block)", "jit(on_shares)") for name in compiled))
np.savez(sys.argv[2], **{name: found.draws["w1"] for name, found in fits.items()})
"""


USED = {"1": "1 1 1 1 1 1 1", "2": "1 2 2 2 2 2 2", "3": "1 2 3 2 3 3 3"}
"""Devices -> how many of them 1 to 7 chains are spread over: four chains are on two of three, where each has two."""
PROGRAMS = 9
"""Of blocks, on any number of devices: one for each descent, and one for chains that begin at its end. Ensembles share
those of the descents at whose ends as many chains begin."""


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """Number of devices -> method -> draws of a weight."""
    folder = tmp_path_factory.mktemp("devices")
    for devices, used in USED.items():
        command = [sys.executable, "-c", SCRIPT, devices, str(folder / f"{devices}.npz")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert output.splitlines() == [used, str(PROGRAMS)]
    return {devices: dict(np.load(folder / f"{devices}.npz")) for devices in USED}


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["2", "3"])
def test_more_devices_give_the_draws_of_one(devices: str, draws: dict[str, dict[str, np.ndarray]]) -> None:
    for method, expected in draws["1"].items():
        np.testing.assert_allclose(draws[devices][method], expected, rtol=1e-2, atol=1e-3, err_msg=method)
