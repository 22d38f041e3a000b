"""Deterministic stratified hold-outs."""

import math
import numbers

import numpy as np


def check_fraction(value: float) -> None:
  """Requires `validation_fraction` to be a number in (0, 1)."""
  if not isinstance(value, numbers.Real):
    raise TypeError(
      "Expected validation_fraction to be a number in (0, 1), got "
      f"validation_fraction={value!r} of type {type(value).__name__}."
    )
  if value == 0:
    raise ValueError(
      "Expected validation_fraction in (0, 1), got validation_fraction=0: the "
      "best checkpoint is chosen on validation data, never on test data."
    )
  if not (math.isfinite(value) and 0 < value < 1):
    raise ValueError(
      "Expected validation_fraction in (0, 1), got "
      f"validation_fraction={value}."
    )


def holdout_size(num_examples: int, fraction: float) -> int:
  """Number of held-out examples: `round(fraction * N)`, halves to even.

  Raises:
    ValueError: the hold-out, or the remainder, would be empty.
  """
  size = round(fraction * num_examples)
  if not 0 < size < num_examples:
    raise ValueError(
      f"Expected validation_fraction to leave examples on both sides, got "
      f"validation_fraction={fraction}: {size} of {num_examples} examples."
    )
  return size


def stratified(
  labels: np.ndarray, size: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Splits rows into kept and held-out ones, class by class.

  Each class gives its proportional share `size * n_c / N`, rounded by the
  method of largest remainders (ties to the lower class), so that the total is
  exact and every share is within one of proportional. A class that would lose
  all its rows by rounding leaves its turn to the next. The counter-based
  generator Philox4x64 with key (seed, 1), whose raw stream is stable across
  NumPy versions, chooses the rows of each class.

  Args:
    labels: integers [N].
    size: number of rows to hold out, in (0, N).
    seed: seed of the choice, in [0, 2^64).

  Returns:
    Row indices, kept [N - size] and held out [size], each ascending.

  Raises:
    ValueError: too few classes can give a row and keep another.
  """
  classes, counts = np.unique(labels, return_counts=True)
  shares, remainders = np.divmod(counts * size, len(labels))
  missing = size - int(shares.sum())
  turns = np.argsort(-remainders, kind="stable")
  keeps_some = shares + 1 < counts
  givers = turns[keeps_some[turns]][:missing]
  if len(givers) < missing:
    emptied = np.setdiff1d(turns[:missing], givers)
    label = int(classes[emptied[0]])
    raise ValueError(
      f"Expected validation_fraction to hold out fewer: {size} of "
      f"{len(labels)} examples leave none of class {label} behind."
    )
  shares[givers] += 1
  draws = np.random.Philox(key=np.array([seed, 1], np.uint64))
  order = np.argsort(draws.random_raw(len(labels)), kind="stable")
  held_out = np.zeros(len(labels), bool)
  for label, share in zip(classes, shares, strict=True):
    held_out[order[labels[order] == label][:share]] = True
  return np.flatnonzero(~held_out), np.flatnonzero(held_out)
