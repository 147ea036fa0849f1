"""The notebooks run at small settings, and are kept with what they print at full ones."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])

CLEAN = """
import gc, os, warnings
import jax
import matplotlib.pyplot as plt

def update(name, value, config=jax.config):
    if name != "jax_num_cpu_devices":
        type(config).update(config, name, value)

jax.config.update = update
os.chdir({folder!r})
plt.close("all")
plt.rcdefaults()
%config InlineBackend.figure_formats = []
gc.collect()
gc.freeze()
gc.set_threshold(50_000)
warnings.resetwarnings()
%reset -f
"""
"""Before each notebook. The number of devices is that of the kernel, since JAX takes no other once it has begun.
Figures are made, and become no images."""

Run = Callable[[Path], None]


@pytest.fixture(scope="module")
def run_notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All in one kernel: JAX and the rest are imported, and what two of them share is compiled, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATPRIOR_SMALL", "1")  # fewer draws; the notebook says what it changes
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")  # as in other tests, which share what is compiled
        manager, client = start_new_kernel(kernel_name="python3")

    def run(path: Path) -> None:
        clean = CLEAN.format(folder=str(tmp_path_factory.mktemp("notebook")))
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for source in (clean, *cells):
            reply = client.execute_interactive(source, timeout=300, allow_stdin=False, output_hook=lambda message: None)
            assert reply["content"]["status"] == "ok", "\n".join(reply["content"]["traceback"])

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    client.context.destroy()


@every_notebook
def test_notebooks_run_without_what_others_define(path: Path, run_notebook: Run) -> None:
    run_notebook(path)


@pytest.mark.slow
def test_a_notebook_runs_by_nbconvert(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `make notebooks` runs it: in a kernel of its own, whose devices it sets itself."""
    monkeypatch.setenv("FLATPRIOR_SMALL", "1")
    convert = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path)]
    subprocess.run([*convert, str(NOTEBOOKS[0])], check=True, capture_output=True)


@every_notebook
def test_notebooks_are_kept_with_their_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
