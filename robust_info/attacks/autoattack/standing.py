"""Which examples still stand in an ensemble of attacks, and what broke them.

Everything is NumPy on the host. Shape letters: N examples, C classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from robust_info.attacks import results
from robust_info.attacks.autoattack import pool


class Data(NamedTuple):
  """The data set on the host: [N, ...], [N], [N] bool, and twice [N].

  `epsilon` are the radii, one per example.
  """

  x: np.ndarray
  y: np.ndarray
  where: np.ndarray
  ids: np.ndarray
  epsilon: np.ndarray


class Standing:
  """Which examples still stand, and what broke the others."""

  def __init__(self, data: Data, clean: np.ndarray):
    self._data = data
    self.x_adv = data.x.copy()
    self.logits = clean.copy()
    self.robust = results.correct(clean, data.y) & data.where
    self.by = np.full(len(data.x), -1)

  def accuracy(self) -> float:
    """Share of the unmasked examples that stand."""
    return float(self.robust.sum() / max(self._data.where.sum(), 1))

  def begin(self, number: int) -> None:
    """A new attack, to be given all that stands."""
    self._number = number
    self._given = self.robust.copy()
    self.finished = np.zeros_like(self.robust)
    self.dry = np.zeros_like(self.robust)
    self.lost = np.zeros_like(self.robust)

  def todo(self) -> np.ndarray:
    """Indices the attack has yet to be run on."""
    return np.flatnonzero(self._given & ~self.finished)

  def finish(self, finished: pool.Finished) -> None:
    """Takes in examples the attack is done with."""
    self.finished[finished.index] = True
    self.dry[finished.index] = finished.no_gradient
    self.lost[finished.index] = finished.nonfinite_gradient
    broken = finished.index[finished.found]
    self.x_adv[broken] = finished.x_found[finished.found]
    self.robust[broken] = False
    self.by[broken] = self._number

  def confirm(self, forward: Callable[[np.ndarray], np.ndarray]) -> None:
    """Only what the plain forward pass gets wrong is broken.

    A point may sit on the boundary to the last digit, and fall on the other
    side in a program compiled without gradients.
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
