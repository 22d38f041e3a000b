"""The epsilon-ball lens: information that survives an adversary [ours].

For a threat model (norm, epsilon) and an attack, the label information and the
CCKL of the predictions at the attacked points are *robust*, and the difference
from the clean values is *non-robust*. An attack gives an upper bound on the
robust part; a stronger attack can only lower it, so always report the attack
with a number of this lens.
"""

import dataclasses

import jax
import numpy as np

from robust_info import _validate, information
from robust_info._xla import compiled, explicit_meshes
from robust_info.information import _stacking


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EpsilonComponents:
  """A quantity, its value under attack, and the difference.

  Attributes:
    total: the value of the clean predictions, nats.
    robust: the value of the attacked predictions, nats.
    non_robust: `total - robust`, nats; negative if the attack raised it.
  """

  total: jax.Array
  robust: jax.Array
  non_robust: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EpsilonLens:
  """The epsilon-ball lens of a set of examples.

  Attributes:
    accuracy: shares of correct predictions, not in nats.
    label_information: `I(K;Y^)` and robust information `I(K;Y^(x_adv))`.
    cckl: CCKL, clean and under attack.
    cckl_matrix: the same for every ordered pair of classes, [C, C].
  """

  accuracy: EpsilonComponents
  label_information: EpsilonComponents
  cckl: EpsilonComponents
  cckl_matrix: EpsilonComponents


@explicit_meshes.accepted(rows=False)
def epsilon_lens(
  clean: information.InformationStats,
  attacked: information.InformationStats,
) -> EpsilonLens:
  """Splits information and CCKL into a part that survives an attack and a rest.

  Args:
    clean: `information_stats` of the predictions at the clean inputs.
    attacked: `information_stats` of the predictions at the attacked inputs,
      with the same examples and labels, each attacked once.

  Returns:
    `EpsilonLens`. NaN where the summary of either side is NaN (no
    cross-category pair, a class without examples). Cost: two `summarize`.

  Raises:
    TypeError: an argument is no `InformationStats`.
    ValueError: they are stacked, the numbers of classes differ, or (where
      concrete) the numbers of examples in some class differ.
  """
  for name, stats in (("clean", clean), ("attacked", attacked)):
    _stacking.require_one_set(name, stats)
  if clean.num_classes != attacked.num_classes:
    raise ValueError(
      "Expected attacked statistics of the classes of the clean ones, got "
      f"num_classes={attacked.num_classes} and {clean.num_classes}."
    )
  found, counts = _split(clean, attacked)
  if all(map(_validate.is_concrete, counts)) and bool(
    (np.asarray(counts[0]) != np.asarray(counts[1])).any()
  ):
    before, after = (int(np.sum(count)) for count in counts)
    raise ValueError(
      "Expected attacked statistics of the same examples as the clean ones, "
      f"got {after} and {before} examples, or other labels."
    )
  return found


@compiled.once
def _split(clean, attacked):
  """The lens, and the examples by class of both sides."""
  before = information.summarize(clean)
  after = information.summarize(attacked)

  def split(name):
    total, robust = getattr(before, name), getattr(after, name)
    return EpsilonComponents(total, robust, total - robust)

  lens = EpsilonLens(
    accuracy=split("accuracy"),
    label_information=split("label_information"),
    cckl=split("cckl"),
    cckl_matrix=split("cckl_matrix"),
  )
  return lens, (before.class_count, after.class_count)
