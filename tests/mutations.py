"""Planted bugs, one at a time: for each of them a test must fail. Run after changes to the density or to the tests.

    python tests/mutations.py [--only WORD] [--processes 2]

Each bug changes one line in a copy of the library, and the tests listed with it run on that copy. Prints a table, and
exits with an error if a bug survives or its line no longer exists.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Bug(NamedTuple):
    """A line, its replacement, and the tests that should detect it."""

    name: str
    file: str
    line: str
    instead: str
    tests: str


BUGS = [
    Bug(
        "a parameter keeps its initial value outside of the optimiser",
        "inference/density.py",
        "return cls(params_as_sites(model) if has_params else model, structure)",
        "return cls(model, structure)",
        "test_handlers.py",
    ),
    Bug(
        "weights of rows are in the fit but not in the scores",
        "inference/predictive.py",
        "return log_probs * _row_weights(self.density, self.draws, data)",
        "return log_probs",
        "test_handlers.py",
    ),
    Bug(
        "a model whose rows depend on y is fitted",
        "inference/supported.py",
        'if "y" in reached.by(("parameters",)):',
        "if False:",
        "test_handlers.py",
    ),
    Bug(
        "a class that a fit has not seen is not named",
        "inference/run.py",
        "absent = absent_classes(density.structure.response, data.y)",
        "absent = ()",
        "test_compare.py::test_a_class_that_a_fit_has_not_seen_is_named",
    ),
    Bug(
        "the prior has the wrong sign",
        "inference/handlers.py",
        "            return self.latent\n",
        "            return -1.0\n",
        "test_identities.py",
    ),
    Bug(
        "a batch is not scaled to all rows",
        "inference/density.py",
        "scaled(num_rows / data.num_rows, prior_power)",
        "scaled(1.0, prior_power)",
        "test_identities.py",
    ),
    Bug(
        "a flat prior does not change the prior",
        "inference/handlers.py",
        'msg["fn"] = msg["fn"].mask(False)',
        'msg["fn"] = msg["fn"].mask(True)',
        "test_identities.py",
    ),
    Bug(
        "the potential omits the Jacobian",
        "inference/density.py",
        "return potential_energy(self.model, (data.x, data.y), _given(data), u)",
        "return -log_density(self.model, self.constrain(u, data), data.x, data.y)",
        "test_laplace.py test_oracles.py::test_nuts_draws_a_learned_scale",
    ),
    Bug(
        "MCLMC accepts every step",
        "inference/methods/langevin.py",
        "moved = jnp.where(i < schedule.cooling_ends, valid, metropolis)",
        "moved = valid",
        "test_mclmc.py",
    ),
    Bug(
        "Laplace uses pi for 2 pi in the evidence",
        "inference/methods/laplace.py",
        "len(self.centre) * math.log(2 * math.pi) - log_det",
        "len(self.centre) * math.log(math.pi) - log_det",
        "test_laplace.py",
    ),
    Bug(
        "chains and draws are exchanged",
        "inference/result.py",
        "return values.reshape(*self._chains_and_draws, -1)",
        "return values.reshape(*self._chains_and_draws[::-1], -1).swapaxes(0, 1)",
        "test_contract.py",
    ),
    Bug(
        "the mixture is the mean of the logs",
        "inference/mixture.py",
        "return jax.nn.logsumexp(log_values, axis=0) - jnp.log(log_values.shape[0])",
        "return log_values.mean(axis=0)",
        "test_contract.py",
    ),
    Bug(
        "the variance leaves out that of the means",
        "inference/mixture.py",
        "return moments[0].mean(axis=0), within + between",
        "return moments[0].mean(axis=0), within",
        "test_contract.py",
    ),
    Bug(
        "every epoch has the same batches: a stale key",
        "inference/methods/steps.py",
        "np.random.default_rng([*seed, first + i])",
        "np.random.default_rng([*seed, 0])",
        "test_blocks.py",
    ),
    Bug(
        "every restart has the same starting point: a reused key",
        "inference/methods/steps.py",
        "keys = jax.random.split(jax.random.fold_in(key, START_KEY), self.num_restarts)",
        "keys = jnp.stack([key] * self.num_restarts)",
        "test_ensemble.py",
    ),
    Bug(
        "validation rows are fitted as well",
        "inference/methods/descent.py",
        "return data.take(order[count:]), data.take(order[:count])",
        "return data, data.take(order[:count])",
        "test_ensemble.py test_blocks.py",
    ),
    Bug(
        "fan_in divides by the outputs",
        "models/prior.py",
        "return math.prod(shape[:-1])",
        "return math.prod(shape[1:])",
        "test_models.py",
    ),
    Bug(
        "soft labels are normalised over rows",
        "models/observation.py",
        "jnp.sum(value * jax.nn.log_softmax(self.logits), axis=-1)",
        "jnp.sum(value * jax.nn.log_softmax(self.logits, axis=0), axis=-1)",
        "test_models.py test_information.py",
    ),
    Bug(
        "the shape of y is not checked",
        "inference/contract.py",
        "    check_observation(observed_name, observed_site, count_rows(x))\n",
        "",
        "test_rows.py test_bad_input.py",
    ),
    Bug(
        "the standard error is that of a single row",
        "inference/criticism/scores.py",
        "values.std(ddof=1, dtype=np.float64) / math.sqrt(len(values))",
        "values.std(ddof=1, dtype=np.float64)",
        "test_contract.py",
    ),
    Bug(
        "threads share NumPyro's stack of handlers",
        "inference/threads.py",
        "names[STACK] = separate",
        "names[STACK] = shared",
        "test_threads.py",
    ),
    Bug(
        "what other threads compile is counted",
        "inference/blocks.py",
        "if get_ident() == thread and event.startswith",
        "if event.startswith",
        "test_threads.py::test_compiling_in_another_thread_is_not_counted",
    ),
    Bug(
        "scores of large counts are computed in float32",
        "inference/distributions.py",
        'return set(element(d).arg_constraints) != {"logits"}',
        "return False",
        "test_oracles.py::test_scores_of_large_numbers_are_those_of_scipy",
    ),
    Bug(
        "a change of one number is no change of the rows",
        "inference/fingerprint.py",
        "total += int(numbers.view(np.uint64).sum())",
        "total += numbers.size",
        "test_fingerprint.py",
    ),
    Bug(
        "other rows are left out than those of the fit",
        "inference/criticism/convergence.py",
        "if fit.was_fitted_to(x, y) is False:",
        "if False:",
        "test_convergence.py::test_loo_of_other_rows_is_refused",
    ),
    Bug(
        "a comparison on the rows of a fit says nothing",
        "inference/criticism/compare.py",
        "any(fit.rows == rows for fit in members)",
        "False",
        "test_compare.py",
    ),
    Bug(
        "a partial fit codes its block",
        "inference/information/sequential.py",
        "if result.status.is_interrupted:",
        "if False:",
        "test_sequential.py::test_an_interrupt_ends_it",
    ),
    Bug(
        "a part of a fit that was interrupted is scored",
        "inference/methods/conditional.py",
        'status = base_status + outcome.status.within(f"In {self.method.name} given the base")',
        "status = base_status",
        "test_validation.py::test_an_interrupt_inside_of_a_conditional_ends_it_all",
    ),
    Bug(
        "two fits write to one folder",
        "inference/store.py",
        "fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "test_store.py::test_a_folder_is_that_of_one_fit_at_a_time",
    ),
    Bug(
        "standardised y keeps the density of the standardised units",
        "inference/distributions.py",
        "- log_factor.sum(axis=tuple(range(-self.event_dim, 0)))",
        "- 0 * log_factor.sum(axis=tuple(range(-self.event_dim, 0)))",
        "test_units.py",
    ),
    Bug(
        "raw units are not named",
        "inference/methods/point.py",
        "warnings = raw_units(surface, end.u, data) or warnings",
        "pass",
        "test_units.py",
    ),
    Bug(
        "raw units are named wherever the data are raw",
        "inference/methods/scales.py",
        "if far > FAR * move or is_steep else ()",
        "if raw else ()",
        "test_units.py",
    ),
    Bug(
        "what the prior costs in likelihood does not count",
        "inference/methods/scales.py",
        "float(sum(drops.values())) + likelihood_lost",
        "float(sum(drops.values()))",
        "test_units.py",
    ),
    Bug(
        "Laplace does not look at its draws",
        "inference/methods/laplace.py",
        "status += _status_of_draws(draws, importance)",
        "pass",
        "test_units.py",
    ),
    Bug(
        "a tempered wreck is silent",
        "inference/criticism/temperature.py",
        'notes = [note] if self.fit.status.level == "ok" else',
        "notes = [note] if True else",
        "test_units.py",
    ),
    Bug(
        "a loss that falls for ever counts as a maximum",
        "inference/methods/recession.py",
        "    if step is None or (np.abs(step) <= 1e-6 * np.abs(vector)).all():\n",
        "    if True:\n",
        "test_mode.py",
    ),
    Bug(
        "a gradient that is rounded to 0 counts as a maximum",
        "inference/methods/recession.py",
        " & (slope != 0)",
        "",
        "test_mode.py::test_the_likelihood_of_any_family_may_have_no_maximum",
    ),
    Bug(
        "many maxima count as one",
        "inference/methods/recession.py",
        "    if not basis.shape[1]:\n        return ()\n",
        "    return ()\n",
        "test_mode.py",
    ),
    Bug(
        "a posterior without a finite integral is sampled",
        "inference/methods/point.py",
        "    if not density.structure.flat:\n        return ()\n",
        "    return ()\n",
        "test_failures.py",
    ),
    Bug(
        "only a scale that is small already can shrink to 0",
        "inference/methods/point.py",
        "is_suspect = bool(warnings) and minimum is not None",
        "is_suspect = False",
        "test_mode.py",
    ),
    Bug(
        "booleans of x become integers on the way",
        "inference/arrays.py",
        "    dtype = jax.dtypes.canonicalize_dtype(array.dtype)\n",
        "    dtype = jax.dtypes.canonicalize_dtype(array.dtype if array.dtype != bool else int)\n",
        "test_rows.py::test_masks_and_unsigned_integers_are_computed_with_as_such",
    ),
    Bug(
        "narrow integers of y are not widened",
        "inference/arrays.py",
        "return widened(as_rows(name, value))",
        "return as_rows(name, value)",
        "test_rows.py::test_narrow_counts_are_scored_by_a_fit",
    ),
    Bug(
        "new rows keep their own type",
        "inference/checks.py",
        "return layout.converted(name, rows)",
        "return rows",
        "test_rows.py::test_masks_and_unsigned_integers_are_computed_with_as_such",
    ),
    Bug(
        "an index beyond the last one passes",
        "inference/lookups.py",
        "(indices > np.asarray(place.last))",
        "(indices > 2 + np.asarray(place.last))",
        "test_indices.py",
    ),
    Bug(
        "lookups within loops are not found",
        "inference/lookups.py",
        'OPAQUE = ("cond", "while", "pallas_call")',
        'OPAQUE = ("cond", "while", "pallas_call", "scan")',
        "test_indices.py",
    ),
    Bug(
        "a clipped index is taken for a mistake",
        "inference/lookups.py",
        "mode == GatherScatterMode.CLIP and not numbers.collapsed_slice_dims",
        "mode == GatherScatterMode.CLIP",
        "test_indices.py",
    ),
    Bug(
        "latent sites are drawn to find their shapes",
        "inference/sites.py",
        "return substitute(model, substitute_fn=central_value)",
        "return model",
        "test_starts.py",
    ),
    Bug(
        "bounds that differ between rows are not checked",
        "inference/bounds.py",
        "    if outside.any():",
        "    if False:",
        "test_bad_input.py::test_misuse_raises_before_anything_is_compiled",
    ),
    Bug(
        "quantiles are never negative",
        "inference/mixture.py",
        "return jnp.sign(places).astype(dtype) * jax.lax",
        "return jax.lax",
        "test_predictive.py::test_quantiles_are_those_of_scipy",
    ),
    Bug(
        "errors do not name what a distribution lacks",
        "inference/words.py",
        "        clear = gap_of(error)\n",
        "        clear = None\n",
        "test_response.py::test_what_a_distribution_does_not_have_is_named",
    ),
    Bug(
        "every prediction traces the model again",
        "inference/chunks.py",
        "@lru_cache(maxsize=256)\n",
        "",
        "test_programs.py::test_a_model_is_traced_for_what_is_new_alone",
    ),
]


def outcome(bug: Bug) -> str:
    """Return the first test that detects a bug, or a sentence on its survival."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        package = copy / "flatprior"  # a package of that name comes before the installed one, which has no __init__
        for part in ("models", "inference", "command"):
            shutil.copytree(ROOT / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
        (package / "__init__.py").touch()
        file = package / bug.file
        text = file.read_text()
        if text.count(bug.line) != 1:
            return f"SURVIVES: its line occurs {text.count(bug.line)} times in {bug.file}"
        file.write_text(text.replace(bug.line, bug.instead))
        paths = [str(copy / "tests" / test) for test in bug.tests.split()]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-m", "slow or not slow", "-p", "no:cacheprovider", *paths],
            env={**os.environ, "PYTHONPATH": folder},
            cwd=copy,
            capture_output=True,
            text=True,
        )
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", ran.stdout, flags=re.MULTILINE)
    return failed[1] if ran.returncode == 1 and failed else f"SURVIVES: pytest ended with {ran.returncode}"


def main() -> None:
    """Print the test that detects each bug."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only bugs whose name contains this")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    bugs = [bug for bug in BUGS if chosen.only in bug.name]
    survivors = 0
    with ThreadPoolExecutor(chosen.processes) as pool:
        for bug, result in zip(bugs, pool.map(outcome, bugs), strict=True):
            survivors += result.startswith("SURVIVES")
            print(f"{bug.name:60}{result}", flush=True)
    sys.exit(f"{survivors} of {len(bugs)} bugs survive" if survivors else 0)


if __name__ == "__main__":
    main()
