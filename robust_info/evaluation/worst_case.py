"""The worst case of each example over several attacks.

The three numbers of the epsilon lens have different worst cases [ours]:

* *Robust accuracy* depends on whether any point found is misclassified, for
  each example separately.
* *Robust information* `I(K;Y^(x_adv))` and *robust CCKL* depend on the
  predictions of all examples together, at one point per example. The value that
  survives is the minimum over all choices of points. No rule for single
  examples finds it, but the value at *any* choice is an upper bound. Two
  choices are computed: the point of the largest label loss, where misclassified
  points come first, and the point whose prediction is farthest from the clean
  one, by `KL(p(x) || p(x'))`.

Both choices accumulate: they are made among all points of all attacks so far,
the clean point included, so that a further attack can only make them worse.

Shapes: `N` examples, `C` classes. Information is in nats.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import _validate, attacks, data
from robust_info.attacks import losses, results
from robust_info.evaluation import evaluator as evaluator_lib
from robust_info.information import divergences
from robust_info.runtime import sharding

APGD = ("apgd-ce", "apgd-t")
# Numbers folded into the key of the evaluator, one per purpose.
_ENSEMBLE, _SANITY = 3, 4


class Choice(NamedTuple):
  """Logits at one point per example, chosen by two rules; NumPy [N, C].

  Attributes:
    label: logits at the largest label loss, misclassified points first.
    divergence: logits at the largest divergence from the clean prediction.
  """

  label: np.ndarray
  divergence: np.ndarray


@dataclasses.dataclass(frozen=True)
class Strength:
  """The worst case over all attacks up to a given one.

  Attributes:
    attack: name of the strongest attack so far; all attacks before it count as
      well.
    choice: logits at the worst points.
  """

  attack: str
  choice: Choice


def accumulate(
  clean: np.ndarray,
  labels: np.ndarray,
  groups: Sequence[tuple[str, Sequence[np.ndarray]]],
) -> Iterator[Strength]:
  """Yields the worst case after each of several attacks.

  Args:
    clean: logits [N, C] at the clean inputs.
    labels: labels [N].
    groups: pairs of a name and logits [N, C] at the points found under this
      name, from weak to strong.

  Yields:
    A `Strength` per attack. From one attack to the next, no misclassified
    example becomes correct at `choice.label`, the label loss never decreases
    while the example stays correct or stays misclassified, and the divergence
    never decreases.
  """
  choice = Choice(clean, clean)
  for attack, found in groups:
    for logits in found:
      choice = Choice(*jax.device_get(_worse(choice, logits, clean, labels)))
    yield Strength(attack, choice)


@jax.jit
def _worse(choice, found, clean, labels):
  """Updates a choice with the points found, where they are worse."""

  def success(logits):
    return ~results.correct(logits, labels)

  sides = (choice.label, found)
  better = results.worst_try(
    jnp.stack([success(side) for side in sides]),
    jnp.stack([losses.cross_entropy(side, labels) for side in sides]),
  )
  farther = divergences.kl_divergence(clean, found) > divergences.kl_divergence(
    clean, choice.divergence
  )
  return Choice(
    results.select(better == 1, found, choice.label),
    results.select(farther, found, choice.divergence),
  )


def auto_attack(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  *,
  epsilon: float,
  version: str = "standard",
  names: tuple[str, ...] | None = None,
  state_dir: str | os.PathLike[str] | None = None,
  progress: Callable[[attacks.Progress], None] | None = None,
) -> attacks.EnsembleResult:
  """`attacks.auto_attack` on every example of an evaluator's split.

  Runs on one device; with several processes, each does all of the work.

  Args:
    evaluator: evaluator with the split, the norm of the ball, and the seed.
    variables: variables of the network.
    epsilon: radius of the ball, >= 0.
    version: version of AutoAttack, "standard" or "plus".
    names: names of attacks to use instead of the attacks of the version.
    state_dir: folder of the progress of the attack; a killed evaluation resumes
      from it.
    progress: function called from time to time.
  """
  split, settings = evaluator.split, evaluator.settings
  if state_dir is not None and jax.process_count() > 1:
    state_dir = pathlib.Path(state_dir) / f"process-{jax.process_index()}"
  return attacks.auto_attack(
    evaluator.logits_fn(sharding.local_copy(variables)),
    data.to_float(split.images),
    split.labels,
    _key(evaluator, _ENSEMBLE),
    epsilon=epsilon,
    norm=settings.norm,
    version=version,
    attacks=names,
    batch_size=settings.batch_size,
    state_dir=state_dir,
    progress=progress,
  )


def sanity(
  evaluator: evaluator_lib.Evaluator,
  variables: Any,
  *,
  epsilon: float,
  evaluated: attacks.EnsembleResult | None = None,
  progress: Callable[[float], None] | None = None,
) -> attacks.SanityReport:
  """Checks whether a robust accuracy of this network can be trusted.

  `attacks.sanity_report` on a sample of the split, drawn by the seed only.
  Cost: about 180 gradients and 540 forward passes on at most
  `settings.sanity_examples` examples.

  Args:
    evaluator: evaluator with the split, the norm of the ball, and the seed.
    variables: variables of the network.
    epsilon: radius of the ball, > 0.
    evaluated: result of `auto_attack`, for one more check.
    progress: function called with the share of the work done.

  Raises:
    ValueError: epsilon is not positive.
  """
  split, settings = evaluator.split, evaluator.settings
  rows = evaluator_lib.random_rows(
    split, settings.sanity_examples, evaluator.seed
  )
  # The network is also called uncompiled: a network that draws random numbers
  # on the host would draw them only once in a compiled program.
  return attacks.sanity_report(
    evaluator.logits_fn(sharding.local_copy(variables)),
    data.to_float(split.images[rows]),
    split.labels[rows],
    _key(evaluator, _SANITY),
    epsilon=epsilon,
    norm=settings.norm,
    evaluated=evaluated,
    progress=progress,
  )


def after_prefix(
  result: attacks.EnsembleResult, clean: np.ndarray, number: int
) -> np.ndarray:
  """Logits [N, C] after the first attacks of an ensemble.

  Args:
    result: result of the ensemble.
    clean: clean logits [N, C], kept for examples that these attacks did not
      break.
    number: number of attacks, the first ones of `result.attacks`.
  """
  _validate.positive_int("number", number)
  broken = result.broken_by < number
  return np.where(broken[:, None], result.logits, clean)


def _key(evaluator: evaluator_lib.Evaluator, number: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(evaluator.seed), number)
