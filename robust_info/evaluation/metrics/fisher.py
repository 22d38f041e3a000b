"""Norms of the Fisher information at the examples, and beside them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import config as config_lib
from robust_info import fisher
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.evaluation import sample_statistics
from robust_info.evaluation.metrics import rows, subject
from robust_info.runtime import progress

# Field of `fisher.FisherNorms` and of a report -> label in the table.
_NORMS = {
  "trace": "trace",
  "frobenius": "Frobenius norm",
  "spectral_norm": "largest eigenvalue",
}
_LABEL = "Fisher information"
_BESIDE = "Fisher information beside the images"
# For more than `fisher.AUTO_CLASSES` classes.
_ESTIMATE = {"num_steps": 16, "num_probes": 16}
# Half the distance between two images of 8 bits, in each pixel.
_HALF_STEP = 0.5 / 255
# Norms beside the images that differ more from those at them are noted.
_FACTOR = 1.5
_NOISE = np.uint32(2**32 - 1)  # No example has this number.
# Quantiles of validation, in addition to the mean.
_FOLLOWED = {"median": 0.5, "q95": 0.95}


def norms(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  *,
  tick: progress.Tick | None = None,
) -> fisher.FisherNorms:
  """`fisher.fisher_norms` of every example, NumPy [N].

  Cost per example: one forward and C - 1 backward passes up to
  `fisher.AUTO_CLASSES` classes; for the estimates for more classes, and
  their errors, see `fisher.fisher_norms`.
  """
  return evaluator.over_examples(
    _norms, variables, evaluator.keys.probes, 0.0, tick=tick
  )


def beside_images(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  at: np.ndarray,
  *,
  tick: progress.Tick | None = None,
) -> dict[str, float]:
  """Compares Frobenius norms at images with norms half a step of 8 bits away.

  A network can be flat, or steep, just at images of 8 bits, and no attack
  notices, since it moves away from them.

  Args:
    evaluator: evaluator on the split.
    variables: variables of the network.
    at: Frobenius norms [N] at the images of the split.
    tick: function called with the numbers (done, total) of examples.

  Returns:
    Means over the first `num_examples`, whole batches of at least
    `settings.sanity_examples`, or all: `frobenius` at images with uniform noise
    of half a step in each pixel, and `frobenius_at_images`; and the
    `standard_error` of their difference. Cost as `norms`, of these examples.
  """
  wanted = min(evaluator.settings.sanity_examples, len(at))
  found: list[np.ndarray] = []
  batches = evaluator.by_batch(
    _norms, variables, evaluator.keys.probes, _HALF_STEP
  )
  while (done := sum(map(len, found))) < wanted:
    if tick is not None:
      tick(done, wanted)
    found.append(next(batches).frobenius)
  if tick is not None:
    tick(wanted, wanted)
  beside = np.concatenate(found)[: len(at)].astype(np.float64)
  at = at[: len(beside)].astype(np.float64)
  return {
    "frobenius": float(beside.mean()),
    "frobenius_at_images": float(at.mean()),
    "standard_error": sample_statistics.describe(beside - at)["standard_error"],
    "num_examples": len(at),
  }


def measure(network: subject.Subject) -> dict[str, Any]:
  """`fisher`: sample statistics of the norms over examples.

  `estimation_error` is the mean over examples of the possible error of each
  value, which is rounding only where the norms are exact. For `beside_images`
  see the function of this name.
  """

  def described():
    found = norms(
      network.evaluator,
      network.variables,
      tick=network.ticks(_LABEL),
    )
    beside = beside_images(
      network.evaluator,
      network.variables,
      found.frobenius,
      tick=network.ticks(_BESIDE),
    )
    return {
      name: {
        **sample_statistics.describe(getattr(found, name)),
        "estimation_error": float(
          getattr(found, f"{name}_error").mean(dtype=np.float64)
        ),
      }
      for name in _NORMS
    } | {"beside_images": beside}

  return {"fisher": network.cache.get("fisher and beside", described)}


def work(
  settings: config_lib.EvaluationConfig, num_examples: int, num_classes: int
) -> Iterator[progress.Work]:
  """The work of `measure`."""
  passes = num_classes
  if num_classes > fisher.AUTO_CLASSES:
    # A product with F is a JVP and a VJP.
    passes = 1 + 3 * (_ESTIMATE["num_steps"] + 1 + _ESTIMATE["num_probes"])
  yield progress.Work(_LABEL, num_examples, passes)
  few = min(num_examples, settings.sanity_examples)
  yield progress.Work(_BESIDE, few, passes)


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The part of the table."""

  def cell(name):
    return lambda run: (
      f"{rows.sampled(run['fisher'][name])} "
      f"({rows.number(run['fisher'][name]['median'])})"
    )

  found = rows.section(
    "Fisher information at the samples, mean (median)",
    runs,
    [
      *((label, cell(name)) for name, label in _NORMS.items()),
      ("beside the images / at them", _ratio),
    ],
  )
  yield found._replace(notes=[note for run in runs if (note := _note(run))])


def _note(run: rows.Run) -> str | None:
  """A line on norms that hold only at the images."""
  found = run["fisher"]["beside_images"]
  at, beside = found["frobenius_at_images"], found["frobenius"]
  if not max(at, beside) > _FACTOR * min(at, beside):
    return None
  return (
    f"{run['name']}: the mean Frobenius norm is {rows.number(at)} at images, "
    f"{rows.number(beside)} half a step of 8 bits away; these norms and lens 1 "
    "hold only at images"
  )


def _ratio(run: rows.Run) -> str:
  found = run["fisher"]["beside_images"]
  scale = found["frobenius_at_images"]
  if not scale > 0:  # No slope at all, or a report of an older version.
    return "n/a"
  return rows.number(
    found["frobenius"] / scale, found["standard_error"] / scale
  )


def follow(network: subject.Followed) -> Mapping[str, float]:
  """The numbers of validation: mean and quantiles of each norm."""
  found = norms(network.subset, network.variables)
  numbers = {}
  for name in _NORMS:
    values = getattr(found, name)
    numbers[f"fisher_{name}"] = float(values.mean(dtype=np.float64))
    for statistic, level in _FOLLOWED.items():
      numbers[f"fisher_{name}_{statistic}"] = float(np.quantile(values, level))
  return numbers


def _norms(logits_fn, examples, key, radius):
  """Norms at the examples, moved by uniform noise of this radius in [0, 1]."""

  def noise(x, number):
    own = jax.random.fold_in(jax.random.fold_in(key, _NOISE), number)
    return jax.random.uniform(own, x.shape, x.dtype, minval=-1.0, maxval=1.0)

  x = examples.x + radius * jax.vmap(noise)(examples.x, examples.ids)
  return fisher.fisher_norms(
    logits_fn,
    jnp.clip(x, 0.0, 1.0),
    key=jax.random.fold_in(key, examples.start),
    **_ESTIMATE,
  )
