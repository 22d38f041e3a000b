"""Reasons to doubt the result of an ensemble of attacks, one line per reason.

These are the warning flags of AutoAttack (Croce & Hein 2020) and a few more.
They use numbers that the ensemble computes anyway, and two passes over one
batch. `sanity_report` measures more. Shape letters: N examples, B rows of one
batch, C classes.
"""

import functools
import re
from typing import Any

import jax
import numpy as np

from robust_info.attacks import checks

# Largest difference of outputs of unit length between two calls.
_REPEATS = 1e-4


class AttackWarning(UserWarning):
  """A robust accuracy may be misleading."""


def of_outputs(clean: np.ndarray) -> list[str]:
  """Reports clean logits [N, C] that look like probabilities."""
  if not len(clean) or not checks.look_like_probabilities(clean):
    return []
  return [
    "the outputs look like probabilities (in [0, 1] with sum 1), whose "
    "gradients vanish: return logits, before the softmax."
  ]


def of_repeats(
  first: np.ndarray, again: np.ndarray, redrawn: bool
) -> list[str]:
  """Reports outputs [B, C] that differ between two calls.

  Args:
    first: [B, C] outputs of the first call.
    again: [B, C] outputs of the second call.
    redrawn: whether two traces gave two networks.
  """
  moved = checks.largest_change(first, again)
  if not redrawn and not moved > _REPEATS:
    return []
  amount = f"by {moved:.2g} of their size" if moved > 0 else "between programs"
  return [
    f"the outputs change from call to call ({amount}): the network is random, "
    "and an attack on one draw says little of the next; pass logits_fn(x, key) "
    "with version='rand', or switch the randomness off."
  ]


def redrawn(logits_fn: jax.tree_util.Partial, x: jax.ShapeDtypeStruct) -> bool:
  """Whether tracing the network twice gives two networks.

  Randomness of the host (for example, NumPy's, or a counter) is drawn while a
  function is traced. The compiled function repeats that draw, so its outputs
  alone look deterministic.
  """

  def trace():
    found = jax.make_jaxpr(lambda network, rows: network(rows))(logits_fn, x)
    # Remove the addresses of functions, which differ between traces of one
    # network.
    text = re.sub("0x[0-9a-f]+", "", str(found))
    return text, [np.asarray(value) for value in found.consts]

  (text, values), (other_text, other_values) = trace(), trace()
  return (
    text != other_text
    or len(values) != len(other_values)
    or not all(map(np.array_equal, values, other_values))
  )


@functools.lru_cache(maxsize=64)
def _kept_redrawn(structure: Any, leaves: Any, x: Any) -> bool:
  return redrawn(jax.tree.unflatten(structure, leaves), x)


def kept_redrawn(
  logits_fn: jax.tree_util.Partial, x: jax.ShapeDtypeStruct
) -> bool:
  """`redrawn`, computed once per function and shapes of its parameters."""
  leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: logits_fn))
  return _kept_redrawn(structure, tuple(leaves), x)


def of_logits(nonfinite: np.ndarray, where: np.ndarray) -> list[str]:
  """Reports unmasked rows, [N] bool, whose logits are not finite."""
  if not nonfinite.any():
    return []
  return [
    f"{nonfinite.sum()} of {where.sum()} examples have NaN or infinite logits, "
    f"row {np.argmax(nonfinite)} the first: they count as misclassified though "
    "nothing is predicted; mend the network."
  ]


def of_gradients(
  dry: dict[str, int], lost: dict[str, int], given: dict[str, int]
) -> list[str]:
  """Reports zero and non-finite gradients.

  Args:
    dry: number of examples with a zero gradient at a start, by attack.
    lost: number of examples with a non-finite gradient, by attack.
    given: number of examples that each attack received.
  """

  def spell(counts):
    return ", ".join(
      f"{count} of {given[name]} examples in {name}"
      for name, count in counts.items()
      if count
    )

  lines = []
  if any(lost.values()):
    lines.append(
      f"NaN or infinite gradients ({spell(lost)}) count as 0: the attacks may "
      "be weaker than they seem; mend the layer that makes them."
    )
  if any(dry.values()):
    lines.append(
      f"zero gradients at the start ({spell(dry)}): gradient attacks do not "
      "look anywhere there; gradients are masked or the loss is saturated."
    )
  return lines


def of_accuracies(
  names: tuple[str, ...], accuracies: dict[str, float]
) -> list[str]:
  """Reports a random search that beats the gradient attacks before it."""
  taken = checks.taken_by_square(names, accuracies)
  if not taken > checks.SQUARE_TOLERANCE:
    return []
  return [
    f"Square takes {100 * taken:.2g} points more than the attacks before it, "
    "which see gradients: gradients are masked."
  ]


def of_targets(
  names: tuple[str, ...], num_targets: int, expected: int
) -> list[str]:
  """Reports targeted attacks with fewer targets than the protocol."""
  targeted = [name for name in names if name.endswith("-t")]
  if not targeted or num_targets >= expected:
    return []
  return [
    f"{', '.join(targeted)}: {num_targets} targets, as there are no more wrong "
    f"classes, where the protocol has {expected}."
  ]
