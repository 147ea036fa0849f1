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
        "a text counts as one row",
        "inference/methods/effort.py",
        "FREE_WORK / weights / values)",
        "FREE_WORK / weights)",
        "test_effort.py::test_texts_count_as_their_tokens",
    ),
    Bug(
        "a tail of weights that underflows passes for equal weights",
        "inference/methods/gaussian.py",
        "is_determined = np.isfinite(k) and np.isfinite(smoothed).all()",
        "is_determined = np.isfinite(k)",
        "test_linearized.py::test_weights_that_underflow_do_not_pass_for_equal_ones",
    ),
    Bug(
        "arrays reach the device by a program for each shape",
        "inference/second_order.py",
        "data = to_device(jax.tree.map(in_double, data))",
        "data = jax.tree.map(lambda leaf: jnp.asarray(in_double(leaf)), data)",
        "test_programs.py::test_a_first_fit_compiles_no_program_for_trifles",
    ),
    Bug(
        "the row that fills the last part counts",
        "inference/second_order.py",
        "part.weighted(count * is_new)",
        "part.weighted(np.full(part.num_rows, float(count)))",
        "test_effort.py",
    ),
    Bug(
        "the rows of a few further steps say what these gain",
        "inference/methods/further.py",
        "return for_gain.num_rows * float(surface.loss(there, for_gain, prior_power))",
        "return for_steps.num_rows * float(surface.loss(there, for_steps, prior_power))",
        "test_further.py",
    ),
    Bug(
        "a part of the rows stands for itself alone",
        "inference/methods/further.py",
        "np.full(len(each), 2.0)",
        "np.full(len(each), 1.0)",
        "test_further.py",
    ),
    Bug(
        "what is cut off a sum is lost",
        "inference/sums.py",
        "(blocks - multiples).sum()",
        "jnp.zeros((), values.dtype)",
        "test_sums.py",
    ),
    Bug(
        "curvature of some rows counts as that of as many",
        "inference/second_order.py",
        "np.full(count, n / count)",
        "np.ones(count)",
        "test_effort.py",
    ),
    Bug(
        "each shard takes its rows in the order of the first",
        "inference/methods/batches.py",
        "np.stack([of_shard(i) for i in each[index[0]]])",
        "np.stack([of_shard(0) for i in each[index[0]]])",
        "test_processes.py",
    ),
    Bug(
        "distances from a reference are those at the rows of one process",
        "inference/criticism/rows.py",
        "return own if self.order is None else rows_of_all(own)[np.argsort(rows_of_all(places))]",
        "return own",
        "test_processes.py",
    ),
    Bug(
        "each process judges offsets by its own rows",
        "inference/spread.py",
        "lambda leaf: rows_of_all(np.asarray(leaf)[chosen])",
        "lambda leaf: np.asarray(leaf)[chosen]",
        "test_processes.py",
    ),
    Bug(
        "draws that stay on disk are read chain after draw, not draw after chain",
        "inference/chunks.py",
        "np.divmod(numbers, self.values.shape[1])",
        "(numbers % self.values.shape[0], numbers // self.values.shape[0])",
        "test_memory.py",
    ),
    Bug(
        "the bound lacks the entropy of the guide",
        "inference/methods/bound.py",
        "-self.density.prior_potential(u, row) - log_q",
        "-self.density.prior_potential(u, row)",
        "test_variational.py",
    ),
    Bug(
        "the noise of Langevin steps has half the variance",
        "inference/methods/noise.py",
        "* 2**-0.5",
        "* 0.5",
        "test_sgmcmc.py",
    ),
    Bug(
        "the log density of the draws of SGMCMC lacks the prior",
        "inference/methods/stochastic.py",
        " - self.density.prior_potential(u, row)",
        "",
        "test_sgmcmc.py",
    ),
    Bug(
        "chains by batches take steps that throw them far out",
        "inference/methods/stochastic.py",
        "self.compiled.max_kinetic if first >= calibrated[-1] else MAX_KINETIC_BEFORE",
        "MAX_KINETIC_BEFORE",
        "test_sgmcmc.py",
    ),
    Bug(
        "the batches of two epochs are gone through in the same order",
        "inference/methods/orders.py",
        "order[:: 1 - 2 * (epoch % 2)]",
        "order",
        "test_sgmcmc.py",
    ),
    Bug(
        "the prior counts once in each batch",
        "inference/density.py",
        "return num_rows * potential_energy(self.per_row, (batch, num_rows), {}, u)",
        "return num_rows / batch.num_rows * self.potential(u, batch)",
        "test_sgmcmc.py",
    ),
    Bug(
        "the total variation is not halved",
        "inference/criticism/distance.py",
        "np.abs(one.astype(float) - other).sum(axis=-1) / 2",
        "np.abs(one.astype(float) - other).sum(axis=-1)",
        "test_distance.py",
    ),
    Bug(
        "sets of different sizes are compared by the quantiles of one",
        "inference/criticism/distance.py",
        "other[ends[:-1] // s]",
        "other[np.minimum(ends[:-1] // t, t - 1)]",
        "test_distance.py",
    ),
    Bug(
        "weights replace those of a scale handler",
        "inference/handlers.py",
        'msg["scale"] = self.weights if msg["scale"] is None else msg["scale"] * self.weights',
        'msg["scale"] = self.weights',
        "test_weights.py",
    ),
    Bug(
        "a factor over rows has no weights",
        "inference/handlers.py",
        "return is_factor(d) and d.batch_shape == jnp.shape(self.weights)",
        "return False",
        "test_weights.py",
    ),
    Bug(
        "leave-one-out leaves all of the equal rows out",
        "inference/criticism/left_out.py",
        "np.minimum(weights, 1.0)",
        "weights",
        "test_weights.py",
    ),
    Bug(
        "a missing element of a Normal vector adds its constant",
        "inference/distributions.py",
        "+ num_missing * (math.log(2 * math.pi) / 2)",
        "",
        "test_missing.py",
    ),
    Bug(
        "a batch has the known values of other rows",
        "inference/rows.py",
        "return replace(self, x=x, y=y, weights=weights, known=known)",
        "return replace(self, x=x, y=y, weights=weights, known=None if known is None else known[::-1])",
        "test_missing.py",
    ),
    Bug(
        "a weight of one observed site counts at all",
        "inference/density.py",
        "(part.row_weights(weights, some) * part.row_log_probs(weights, some) for part, some in parts)",
        "(parts[-1][0].row_weights(weights, parts[-1][1]) * p.row_log_probs(weights, some) for p, some in parts)",
        "test_several_sites.py",
    ),
    Bug(
        "the weights of one head are those of all",
        "inference/methods/heads.py",
        "own = {site: ~np.any([each[site] != 0 for each in others], axis=0) for site in u}",
        "own = dict.fromkeys(u, np.True_)",
        "test_several_sites.py::test_separable_classes_of_one_site_have_no_maximum",
    ),
    Bug(
        "rows without a value at one of several sites have a score there",
        "inference/criticism/scores.py",
        "weights=has_y.astype(float)",
        "weights=np.ones(len(has_y))",
        "test_several_sites.py::test_a_comparison_is_of_whole_rows_and_of_each_site",
    ),
    Bug(
        "all heads have the first outputs",
        "models/heads.py",
        "            start = stop\n",
        "",
        "test_several_sites.py::test_a_model_of_two_observations_is_two_models_of_one",
    ),
    Bug(
        "a saddle counts as a minimum",
        "inference/newton.py",
        "if values[0] >= NEGATIVE else math.inf",
        "if True else math.inf",
        "test_finish.py",
    ),
    Bug(
        "a row fills up the last part of the Gauss-Newton matrix",
        "inference/gauss_newton.py",
        "slopes = jnp.where((some < num_rows)[:, None, None], slopes, 0.0)",
        "slopes = jnp.where((some < num_rows + size)[:, None, None], slopes, 0.0)",
        "test_finish.py",
    ),
    Bug(
        "the only start that reached the best mode is not mentioned",
        "inference/methods/finish.py",
        "gap = losses[1] - losses[0] if len(losses) > 1 else 0.0",
        "gap = 0.0",
        "test_finish.py",
    ),
    Bug(
        "a loss in float32 is compared with itself",
        "inference/methods/finish.py",
        "lost = data.num_rows * float(surface.loss(end.u, data)) - end.loss",
        "lost = 0.0",
        "test_finish.py",
    ),
    Bug(
        "draws of a learned scale's weights stay in units of the scale",
        "inference/density.py",
        "            weights = self.model.weights(weights, data.x, **data.given)\n",
        "            pass\n",
        "test_prior_scales.py",
    ),
    Bug(
        "a prior's scale is a site of the likelihood",
        "inference/handlers.py",
        'if msg["infer"].get("of_prior"):',
        "if False:",
        "test_prior_scales.py",
    ),
    Bug(
        "the ray of a collapsing scale leaves the weights where they are",
        "inference/methods/collapse.py",
        "return {**u, scale: lower, **{site: moved[site] for site in sites}}, log_det",
        "return {**u, scale: lower}, log_det",
        "test_prior_scales.py",
    ),
    Bug(
        "the gradient of the evidence forgets that the mode moves",
        "inference/methods/evidence.py",
        "mode = u - step  # in its value a step that hardly matters, in its derivative that of the mode",
        "mode = u",
        "test_tuning.py",
    ),
    Bug(
        "only the first model is cross-validated",
        "inference/criticism/validation.py",
        "result, forecast = _leave_out(*pair, rows, fold, fold_key)",
        "result, forecast = _leave_out(next(iter(fits.values()))[0], pair[1], rows, fold, fold_key)",
        "test_validation.py::test_models_are_scored_on_the_same_folds_and_differences_are_paired",
    ),
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
        "return log_probs * row_weights(self.density, self.draws, data)",
        "return log_probs",
        "test_handlers.py",
    ),
    Bug(
        "a model whose rows depend on y is fitted",
        "inference/supported.py",
        'if reached.by(("parameters", name)) & of_y:',
        "if False:",
        "test_handlers.py",
    ),
    Bug(
        "every epoch of rows on disk has the batches of the first",
        "inference/methods/orders.py",
        "self._number, self._first = number, 0",
        "self._number, self._first, self._order = number, 0, self._epochs.numbered(0)",
        "test_stored.py::TestFits::test_every_row_of_an_epoch_is_in_one_batch",
    ),
    Bug(
        "labels beside rows on disk are converted all at once",
        "inference/stored.py",
        "if not is_stored(others):",
        "if True:",
        "test_memory.py",
    ),
    Bug(
        "the order of an epoch stays whole while the next is made",
        "inference/methods/orders.py",
        "left = slice(0, begin + size) if self._epochs.turns else slice(begin, None)",
        "left = slice(0, None)",
        "test_memory.py",
    ),
    Bug(
        "the rows that stand for all on disk stand for themselves alone",
        "inference/methods/representative.py",
        "weights[len(extreme) :] *= (n - len(extreme)) / max(1, len(spaced))",
        "pass",
        "test_stored.py::TestFits::test_the_rows_that_stand_for_all_have_their_log_likelihood",
    ),
    Bug(
        "rows on disk are numbered from the part that is checked",
        "inference/stored.py",
        "return _FIRST_ROW.get() + int(row)",
        "return int(row)",
        "test_stored.py::TestMessages",
    ),
    Bug(
        "a class that a fit has not seen is not named",
        "inference/run.py",
        '"absent": absent_classes(density.structure.response, data.y),',
        '"absent": (),',
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
        "return potential_energy(self.model_of(data), (data.x, data.y), data.given, u)",
        "return -log_density(self.model, self.constrain(u, data), data.x, data.y)",
        "test_laplace.py test_oracles.py::test_nuts_draws_a_learned_scale",
    ),
    Bug(
        "chains of a model written by hand may disagree on its weights",
        "inference/methods/mixing.py",
        "        if not apart or (self.is_network and self._shown_by_predictions(apart) <= MAX_NATS):\n"
        "            return ()\n",
        "        return ()\n",
        "test_mixing.py::test_chains_in_different_modes_of_slopes_are_named_and_their_predictions_agree",
    ),
    Bug(
        "the units of a network are not marked as exchangeable",
        "models/weights.py",
        "if len(matrices) > 1 else {}",
        "if len(matrices) > 9 else {}",
        "test_mixing.py::test_the_weights_of_networks_with_hidden_units_are_marked",
    ),
    Bug(
        "the last layer of a network has no order even where the units are fixed",
        "inference/structure.py",
        "exchangeable=frozenset() if names & self.exchangeable else self.exchangeable,",
        "exchangeable=self.exchangeable - names,",
        "test_mixing.py::test_the_weights_of_networks_with_hidden_units_are_marked",
    ),
    Bug(
        "a network whose predictions still move has settled",
        "inference/methods/mclmc.py",
        "        if mixing.error <= MAX_NATS:\n            return []\n",
        "        return []\n",
        "test_mixing.py::test_predictions_that_are_still_moving_are_an_error_and_weights_that_only_shrink_are_not",
    ),
    Bug(
        "trajectories that are cut short are never reported",
        "inference/methods/nuts.py",
        ' and mixing.smallest_ess() >= MIN_ESS * len(stats["lp"])',
        "",
        "test_mixing.py::test_cut_trajectories_are_reported_unless_weights_mix_or_predictions_are_right",
    ),
    Bug(
        "what is to come does not depend on the length of the warm-up",
        "inference/methods/mixing.py",
        "max(DRIFT, math.log(2) / math.log(second / first))",
        "DRIFT",
        "test_mixing.py::test_what_is_to_come_goes_with_the_log_of_the_steps",
    ),
    Bug(
        "a slope beside a network may differ between chains",
        "inference/methods/mixing.py",
        "error = float(np.mean(changes)) / self._shape[0] ** 0.5",
        "error = 0.0",
        "test_mixing.py::test_a_slope_beside_a_network_is_asked_even_where_predictions_agree",
    ),
    Bug(
        "tune goes on where the evidence jumps",
        "inference/criticism/search.py",
        "raise StopIteration",
        "pass",
        "test_tuning.py::test_the_search_ends_at_a_jump_and_at_a_smooth_maximum_to_the_last_digits",
    ),
    Bug(
        "Laplace's draws for a network may be where the posterior is not",
        "inference/methods/gaussian.py",
        " and self.divergence <= MAX_DIVERGENCE_PER_ROW * num_rows",
        "",
        "test_linearized.py::test_a_gaussian_stands_for_the_rows_of_a_network_unless_its_mass_is_elsewhere",
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
        "inference/methods/gaussian.py",
        "log_det = 2 * (np.log(np.diagonal(self.root)).sum()",
        "log_det = len(self.root) * math.log(2) + 2 * (np.log(np.diagonal(self.root)).sum()",
        "test_laplace.py",
    ),
    Bug(
        "a linearised model is the model at its own weights",
        "inference/tangent.py",
        "at_centre, slopes = jax.jvp(parameters, (centre,), (moves,))",
        "at_centre, slopes = jax.jvp(parameters, (here,), (jax.tree.map(jnp.zeros_like, here),))",
        "test_linearized.py",
    ),
    Bug(
        "Laplace scores draws by the network and not by its tangent",
        "inference/result.py",
        "        values = log_likelihood(self._predicting, self._mixture(), data)",
        "        values = log_likelihood(self.density, self._mixture(), Data(data.x, data.y))",
        "test_linearized.py",
    ),
    Bug(
        "draws of a low-rank Gaussian are too wide along its directions",
        "inference/methods/gaussian.py",
        "(1 - 1 / np.sqrt(1 + self.values))",
        "(1 - 1 / (1 + self.values))",
        "test_linearized.py",
    ),
    Bug(
        "the diagonal leaves out the Fisher information",
        "inference/methods/rowwise.py",
        "roots = (vectors * jnp.sqrt(jnp.maximum(values, 0.0))).T",
        "roots = vectors.T",
        "test_linearized.py",
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
        "inference/methods/batches.py",
        "self._epochs.order(first + i, shard)",
        "self._epochs.order(0, shard)",
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
        "return data.choose(order[count:]), data.take(order[:count]).on_device()",
        "return data, data.take(order[:count]).on_device()",
        "test_ensemble.py test_blocks.py",
    ),
    Bug(
        "the validation rows are as many as were asked for, whatever they cost",
        "inference/methods/descent.py",
        "min(count, max(1, int(SCORED * per_check)), max(1",
        "min(count, max(1",
        "test_blocks.py",
    ),
    Bug(
        "a continued run has the batches of another epoch",
        "inference/methods/batches.py",
        "number, first = divmod(begin, together)",
        "number, first = begin // together, 0",
        "test_resume.py",
    ),
    Bug(
        "an interrupted fit is read as a finished one",
        "inference/store.py",
        "if not outcome.status.is_interrupted:",
        "if True:",
        "test_resume.py",
    ),
    Bug(
        "the state of an optimiser is written after each block, whatever that takes",
        "inference/checkpoint.py",
        ">= max(INTERVAL, self._cost / SHARE)",
        ">= INTERVAL",
        "test_resume.py",
    ),
    Bug(
        "draws of an interrupted write stay",
        "inference/store.py",
        "file.truncate(first * self._bytes(self.arrays[i]))",
        "pass",
        "test_store.py",
    ),
    Bug(
        "fits under one key are joined",
        "inference/joined.py",
        "if equal := set(one.keys) & set(other.keys):",
        "if equal := set(one.keys) - {*one.keys}:",
        "test_join.py",
    ),
    Bug(
        "chains that are joined are not judged together",
        "inference/joined.py",
        "return status + settings.judged(density, draws, stats, data)",
        "return status",
        "test_join.py",
    ),
    Bug(
        "fan_in divides by the outputs",
        "models/prior.py",
        "return math.prod(shape[:-1])",
        "return math.prod(shape[1:])",
        "test_models.py",
    ),
    Bug(
        "an ordered class is as wide as the line",
        "models/ordinal.py",
        "widths = jnp.log(-jnp.expm1(-jnp.asarray(self.gaps)))",
        "widths = jnp.zeros_like(self.gaps)",
        "test_observations.py",
    ),
    Bug(
        "a narrow interval is a difference of cdfs",
        "models/censored.py",
        "(24 * jnp.finfo(difference.dtype).eps) ** (1 / 3)",
        "0.0",
        "test_observations.py",
    ),
    Bug(
        "an exposure is added and not its log",
        "models/offsets.py",
        "shift + jnp.log(jnp.asarray(x[exposure], float))",
        "shift + jnp.asarray(x[exposure], float)",
        "test_observations.py",
    ),
    Bug(
        "soft labels are normalised over rows",
        "models/classes.py",
        "jnp.sum(value * jax.nn.log_softmax(self.logits), axis=-1)",
        "jnp.sum(value * jax.nn.log_softmax(self.logits, axis=0), axis=-1)",
        "test_models.py test_information.py",
    ),
    Bug(
        "the shape of y is not checked",
        "inference/contract.py",
        "        check_observation(name, site, count_rows(x))\n",
        "        pass\n",
        "test_rows.py test_bad_input.py",
    ),
    Bug(
        "the standard error is that of a single row",
        "inference/criticism/scores.py",
        "math.sqrt(squares / (total - 1) / total)",
        "math.sqrt(squares / (total - 1))",
        "test_scores.py",
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
        "a memory map is taken for the file that now has its name",
        "inference/remembered.py",
        "if not is_that or system not in",
        "if system not in",
        "test_remembered.py",
    ),
    Bug(
        "what was found about some rows is taken for that of others of the same file",
        "inference/remembered.py",
        "return device, number, times, offset, source.shape",
        "return device, number, times, source.shape[1:]",
        "test_remembered.py",
    ),
    Bug(
        "a change of one number is no change of the rows",
        "inference/digests.py",
        "total += int(numbers.view(np.uint32).sum(dtype=np.uint64))",
        "total += numbers.size",
        "test_fingerprint.py",
    ),
    Bug(
        "other rows are left out than those of the fit",
        "inference/criticism/left_out.py",
        "if fit.was_fitted_to(x, y, weights) is False:",
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
        "inference/methods/finish.py",
        "warnings = raw_units(surface, end.u, data) or warnings",
        "pass",
        "test_units.py",
    ),
    Bug(
        "raw units are named wherever the data are raw",
        "inference/methods/scales.py",
        "return far > FAR * move or is_steep",
        "return True",
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
        "inference/methods/gaussian.py",
        "    if stands:\n",
        "    if True:\n",
        "test_linearized.py",
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
        "inference/methods/finish.py",
        "is_suspect = bool(warnings) and is_examined",
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
        "inference/labels.py",
        "return widened(in_default_precision(name, y)), known",
        "return in_default_precision(name, y), known",
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
        "return substitute(model, substitute_fn=value)",
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
        "the transform of a count is that of a continuous y",
        "inference/marginals.py",
        "below, cdf = cdf_of(d, jnp.stack([y - 1, y]))",
        "below, cdf = cdf_of(d, jnp.stack([y, y]))",
        "test_summaries.py test_marginals.py",
    ),
    Bug(
        "the CRPS forgets that y is a step",
        "inference/crps.py",
        "jnp.square(jnp.where(self.left >= y[..., None], 1 - cdf, cdf))",
        "jnp.square(cdf)",
        "test_crps.py",
    ),
    Bug(
        "bands of counts are those of random transforms",
        "inference/criticism/transforms.py",
        "share = np.where(high > low, np.clip(share, 0.0, 1.0), 1.0)",
        "share = np.ones_like(share)",
        "test_calibration.py::test_right_forecasts_of_counts_are_found_right",
    ),
    Bug(
        "a count outside of the alphabet is read as its neighbour",
        "inference/information/compression.py",
        "labels[symbols == self.size] = outside",
        "pass",
        "test_compression.py::test_counts_are_as_short_as_the_code_length_says_and_any_count_is_read_exactly",
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
        "scales are rounded as weights are",
        "inference/density.py",
        "narrowed(v, dtype) if site in self.structure.real else v",
        "narrowed(v, dtype)",
        "test_kept.py::test_draws_are_those_of_the_fit_rounded_to_the_type",
    ),
    Bug(
        "draws in half precision are evaluated in it",
        "inference/chunks.py",
        "widened(value).reshape(count",
        "value.reshape(count",
        "test_kept.py::test_they_are_evaluated_in_the_precision_of_the_fit",
    ),
    Bug(
        "draws on disk in half precision are evaluated in it",
        "inference/chunks.py",
        "Stored(Flattened(value), wide(value.dtype))",
        "Stored(Flattened(value), value.dtype)",
        "test_kept.py::test_they_are_evaluated_in_the_precision_of_the_fit",
    ),
    Bug(
        "a run is continued in another type of draws",
        "inference/store.py",
        '**({"draws_dtype": density.draws_dtype} if density.draws_dtype else {}),',
        "",
        "test_kept.py::test_files_are_half_as_large_and_runs_continue_to_the_same_bits",
    ),
    Bug(
        "a weight beyond half precision is infinite",
        "inference/kept.py",
        "xp.clip(values, -largest, largest)",
        "values",
        "test_kept.py::test_numbers_beyond_the_type_are_its_largest",
    ),
    Bug(
        "rounding is measured by the weight that has least of it",
        "inference/kept.py",
        "np.maximum(spread, error)).max(initial=0.0)",
        "np.maximum(spread, error)).min(initial=1.0)",
        "test_kept.py::test_rounding_of_one_weight_is_enough",
    ),
    Bug(
        "every prediction traces the model again",
        "inference/chunks.py",
        "@lru_cache(maxsize=256)\n",
        "",
        "test_programs.py::test_a_model_is_traced_for_what_is_new_alone",
    ),
    Bug(
        "amounts in parentheses and after a minus are positive",
        "tables/numerals.py",
        "values.where(~minus, -values)",
        "values",
        "test_reading.py",
    ),
    Bug(
        "a line inside quotes is a comment",
        "tables/dialect.py",
        "if self.is_start and self.dialect.has_comments and",
        "if self.dialect.has_comments and",
        "test_reading.py",
    ),
    Bug(
        "missing numbers become 0",
        "tables/columns.py",
        "np.where(gaps, self.fill, numbers)",
        "np.where(gaps, 0.0, numbers)",
        "test_encoder.py",
    ),
    Bug(
        "classes that are equally frequent are counts",
        "tables/target.py",
        "and frequencies[-1] <= 0.2 * frequencies[most]",
        "",
        "test_target.py",
    ),
    Bug(
        "the features of new rows are in the order of their columns",
        "tables/encoder.py",
        "parts = [column.transform(named[column.name]) for column in used]",
        "parts = [c.transform(named[c.name]) for c in sorted(used, key=lambda c: list(named).index(c.name))]",
        "test_encoder.py",
    ),
    Bug(
        "an estimator predicts in standard deviations of y",
        "estimators/standard.py",
        "self.units.mean[0] + self.units.sd[0] * values",
        "self.units.mean[0] + values",
        "test_estimators.py",
    ),
    Bug(
        "an estimator leaves out numbers that look like identifiers",
        "estimators/base.py",
        "Encoder.fit(X, keep=X.columns.map(str))",
        "Encoder.fit(X)",
        "test_estimators.py",
    ),
    Bug(
        "a quarter begins with its last month",
        "tables/cells.py",
        "quarters.astype(float) - 2",
        "quarters.astype(float)",
        "test_reading.py",
    ),
    Bug(
        "the evidence of an estimator is that of the standardised y",
        "estimators/standard.py",
        "outcome.log_evidence - log_unit",
        "outcome.log_evidence",
        "test_estimators.py",
    ),
    Bug(
        "the units of y leave out the weights of rows",
        "inference/units.py",
        "mean = np.average(columns, axis=0, weights=weights)",
        "mean = np.average(columns, axis=0)",
        "test_estimators.py",
    ),
]


def outcome(bug: Bug) -> str:
    """Return the first test that detects a bug, or a sentence on its survival."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("tests", "docs"):  # some tests read pages
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        package = copy / "flatprior"  # it comes before the installed one
        for part in ("models", "inference", "tables", "estimators", "command"):
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
