"""Each example at its worst: what several attacks found together.

The three numbers of the epsilon lens want different worst cases [ours]:

* *Robust accuracy* asks whether any point found is misclassified: a question
  to each example alone.
* *Robust information* `I(K;Y^(x_adv))` and *robust CCKL* belong to the
  predictions of all examples together, at one point each. What survives is the
  least over all choices of points, which no rule for single examples finds; but
  the value at *any* choice is an upper bound. Two choices are followed: the
  point of the largest label loss, a misclassified one before any other, and
  the point whose prediction is farthest from the clean one, by
  `KL(p(x) || p(x'))`.

Both choices accumulate: they are made among all points of all attacks so far,
the clean one included, so every attack added only makes them worse.

Shapes: `N` examples, `C` classes. Information in nats.
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
# What starts the randomness of each, beside that of the evaluator.
_ENSEMBLE, _SANITY = 3, 4


class Choice(NamedTuple):
  """A point for each example, by two rules; logits there, NumPy [N, C].

  Attributes:
    label: at the largest label loss, misclassified points first.
    divergence: at the largest divergence from the clean prediction.
  """

  label: np.ndarray
  divergence: np.ndarray


@dataclasses.dataclass(frozen=True)
class Strength:
  """The worst case over all attacks up to one.

  Attributes:
    attack: the strongest so far; all before it count as well.
    choice: logits at the worst points.
  """

  attack: str
  choice: Choice


def accumulate(
  clean: np.ndarray,
  labels: np.ndarray,
  groups: Sequence[tuple[str, Sequence[np.ndarray]]],
) -> Iterator[Strength]:
  """The worst case after each of several attacks.

  Args:
    clean: logits [N, C] at the clean inputs.
    labels: [N].
    groups: names, and logits [N, C] at the points found under that name; from
      weak to strong.

  Yields:
    A `Strength` for each. From one to the next no example becomes correct at
    `choice.label`, the label loss rises where the example was and is correct
    or was and is misclassified, and the divergence falls nowhere.
  """
  choice = Choice(clean, clean)
  for attack, found in groups:
    for logits in found:
      choice = Choice(*jax.device_get(_worse(choice, logits, clean, labels)))
    yield Strength(attack, choice)


@jax.jit
def _worse(choice, found, clean, labels):
  """A choice, with the points found where they are worse."""

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

  Runs on one device; of several processes each does all of it.

  Args:
    evaluator: the split, the norm of its ball, and the seed.
    variables: of the network.
    epsilon: radius of the ball, >= 0.
    version: "standard" or "plus".
    names: instead of the attacks of the version.
    state_dir: folder of its state; a killed evaluation goes on from there.
    progress: called now and then.
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
) -> attacks.SanityReport:
  """Whether a robust accuracy of this network in this ball can be believed.

  `attacks.sanity_report` on a sample of the split, drawn by the seed alone.
  Cost: about 250 gradients and 600 forward passes on at most
  `settings.sanity_examples` examples.

  Args:
    evaluator: the split, the norm of its ball, and the seed.
    variables: of the network.
    epsilon: radius of the ball, > 0.
    evaluated: what `auto_attack` found, for one more check.

  Raises:
    ValueError: epsilon is not above 0.
  """
  split, settings = evaluator.split, evaluator.settings
  rows = evaluator_lib.random_rows(
    split, settings.sanity_examples, evaluator.seed
  )
  # The network is called uncompiled too: one that draws its random numbers on
  # the host draws them once in a compiled program.
  return attacks.sanity_report(
    evaluator.logits_fn(sharding.local_copy(variables)),
    data.to_float(split.images[rows]),
    split.labels[rows],
    _key(evaluator, _SANITY),
    epsilon=epsilon,
    norm=settings.norm,
    evaluated=evaluated,
  )


def after_prefix(
  result: attacks.EnsembleResult, clean: np.ndarray, number: int
) -> np.ndarray:
  """Logits [N, C] as the first attacks of an ensemble left them.

  Args:
    result: of the ensemble.
    clean: logits [N, C]; those of examples that these attacks did not break.
    number: how many attacks, of those in `result.attacks`.
  """
  _validate.positive_int("number", number)
  broken = result.broken_by < number
  return np.where(broken[:, None], result.logits, clean)


def _key(evaluator: evaluator_lib.Evaluator, number: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(evaluator.seed), number)
