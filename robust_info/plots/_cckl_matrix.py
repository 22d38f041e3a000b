"""The divergence between each pair of classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Real

from robust_info import information
from robust_info.plots import arguments

if TYPE_CHECKING:
  import matplotlib.figure

_Matrix = information.InformationSummary | Real[ArrayLike, "C C"]


def cckl_matrix(
  matrices: _Matrix | Mapping[str, _Matrix] | Mapping[str, Any],
  *,
  label_names: Sequence[str] | None = None,
  theme: str = "light",
) -> "matplotlib.figure.Figure":
  """Draws the class-by-class CCKL matrix of each network, on one colour scale.

  Row a, column b: mean of KL(p(x) || p(x')) over x of class a and x' of class
  b, in nats. The diagonal is not part of CCKL; it is the divergence within a
  class and is outlined. Entries that are not finite (a class without examples)
  are grey. Up to 30 classes are named; more are numbered.

  Args:
    matrices: result of `summarize`, or a matrix [C, C] in nats, for example
      `lens.cckl_matrix.robust`. Or a dictionary of these by name; or a report.
    label_names: C names of classes; by default their numbers.
    theme: see the module docstring.

  Returns:
    The figure.

  Raises:
    ValueError: a matrix is not square, or the numbers of classes differ.
    TypeError: a result of another kind.
    ImportError: matplotlib is not installed.
  """
  colours = arguments.theme(theme)
  draw = arguments.drawing("matrices").cckl
  if arguments.is_report(matrices):
    names = arguments.run_names(matrices)
    found = [run["cckl_matrix"] for run in matrices["runs"]]
    label_names = label_names or matrices["data"]["label_names"]
  else:
    by_name = arguments.by_network("matrices", matrices)
    names, found = [*by_name], [*by_name.values()]
  read = [
    _matrix(arguments.of_network("matrices", name), value)
    for name, value in zip(names, found, strict=True)
  ]
  num_classes = len(read[0])
  for name, matrix in zip(names, read, strict=True):
    if len(matrix) != num_classes:
      raise ValueError(
        f"Expected matrices of one number of classes, got {num_classes} of "
        f"{names[0]!r} and {len(matrix)} of {name!r}."
      )
  if label_names is None:
    label_names = [str(label) for label in range(num_classes)]
  if len(label_names) != num_classes:
    raise ValueError(
      f"Expected {num_classes} label_names, one per class, got "
      f"{len(label_names)}."
    )
  return draw(read, names, label_names, colours)


def _matrix(argument: str, value: Any) -> np.ndarray:
  """Float [C, C], NaN where it is not finite."""
  value = getattr(value, "cckl_matrix", value)
  matrix = arguments.array(argument, value)
  if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
    raise ValueError(
      f"Expected {argument} of shape [C, C], got shape {matrix.shape}."
    )
  return np.where(np.isfinite(matrix), matrix, np.nan)
