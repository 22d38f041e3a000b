"""The unbroken examples in an ensemble of attacks, and the outcome of the rest.

All arrays are NumPy on the host. Shape letters: N examples, C classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from robust_info.attacks import results
from robust_info.attacks.autoattack import pool


class Data(NamedTuple):
  """The data set on the host.

  Attributes:
    x: [N, ...] inputs.
    y: [N] labels.
    where: [N] bool, `False` in masked rows.
    ids: [N] ints that randomness follows.
    epsilon: [N] radii, one per example.
  """

  x: np.ndarray
  y: np.ndarray
  where: np.ndarray
  ids: np.ndarray
  epsilon: np.ndarray


class Standing:
  """The examples not broken so far, and the attack that broke each other one.

  Attributes:
    x_adv: [N, ...] misclassified points of broken examples, otherwise inputs.
    logits: [N, C] logits at `x_adv`.
    robust: [N] bool, unmasked, correct when clean and not broken so far.
    by: [N] number of the attack that broke the example, otherwise -1.
    finished: [N] bool, the current attack is done with the example.
    dry: [N] bool, the current attack had a zero gradient at a start.
    lost: [N] bool, the current attack had a non-finite gradient.
  """

  def __init__(self, data: Data, clean: np.ndarray):
    self._data = data
    self.x_adv = data.x.copy()
    self.logits = clean.copy()
    self.robust = results.correct(clean, data.y) & data.where
    self.by = np.full(len(data.x), -1)

  def accuracy(self) -> float:
    """Share of the unmasked examples that are robust so far; NaN of none."""
    count = self._data.where.sum()
    return float(self.robust.sum() / count) if count else float("nan")

  def begin(self, number: int) -> None:
    """Begins a new attack on the examples that are robust so far."""
    self._number = number
    self._given = self.robust.copy()
    self.finished = np.zeros_like(self.robust)
    self.dry = np.zeros_like(self.robust)
    self.lost = np.zeros_like(self.robust)

  def todo(self) -> np.ndarray:
    """Indices of the examples that the attack has not finished."""
    return np.flatnonzero(self._given & ~self.finished)

  def finish(self, finished: pool.Finished) -> None:
    """Records examples that the attack has finished."""
    self.finished[finished.index] = True
    self.dry[finished.index] = finished.no_gradient
    self.lost[finished.index] = finished.nonfinite_gradient
    broken = finished.index[finished.found]
    self.x_adv[broken] = finished.x_found[finished.found]
    self.robust[broken] = False
    self.by[broken] = self._number

  def confirm(self, forward: Callable[[np.ndarray], np.ndarray]) -> None:
    """Keeps an example broken only if the plain forward pass misclassifies it.

    A point may lie on the boundary to the last digit, and be on the other side
    in a program compiled without gradients.
    """
    claimed = np.flatnonzero(self._given & ~self.robust)
    if not len(claimed):
      return
    logits = forward(self.x_adv[claimed])
    wrong = ~results.correct(logits, self._data.y[claimed])
    self.logits[claimed[wrong]] = logits[wrong]
    back = claimed[~wrong]
    self.robust[back] = True
    self.by[back] = -1
    self.x_adv[back] = self._data.x[back]


def likely_targets(
  clean: np.ndarray, labels: np.ndarray, *, most: int
) -> np.ndarray:
  """The most probable other classes at the clean inputs.

  Args:
    clean: logits [N, C].
    labels: [N].
    most: largest number of targets per example.

  Returns:
    int [N, min(most, C - 1)], the most probable first.
  """
  is_label = np.eye(clean.shape[1], dtype=bool)[labels]
  order = np.argsort(-np.where(is_label, -np.inf, clean), axis=1, kind="stable")
  return order[:, : min(most, clean.shape[1] - 1)]
