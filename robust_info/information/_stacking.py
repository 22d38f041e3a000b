"""Checks of whether statistics are of one set of examples, or of several.

Fields of one set are [...], stacked fields of G groups [G, ...]. With as many
groups as classes the two broadcast, and an operation on the wrong kind would
give numbers instead of an error.
"""

from typing import Any


def require_one_set(name: str, stats: Any) -> None:
  """Requires statistics of one set of examples.

  Raises:
    TypeError: no `InformationStats`.
    ValueError: stacked statistics.
  """
  shape = _shape(name, stats)
  if len(shape) != 2:
    raise ValueError(
      f"Expected {name} of one set of examples, got stacked ones with "
      f"confusion of shape {shape}; use jax.vmap for each group, or "
      "merge_groups for their union."
    )


def require_groups(name: str, stats: Any) -> None:
  """Requires stacked statistics.

  Raises:
    TypeError: no `InformationStats`.
    ValueError: statistics of one set.
  """
  shape = _shape(name, stats)
  if len(shape) != 3:
    raise ValueError(
      f"Expected {name} with fields [G, ...], as of grouped_information_stats, "
      f"got confusion of shape {shape}."
    )


def _shape(name: str, stats: Any) -> tuple[int, ...]:
  """The shape of the confusion matrices."""
  if not hasattr(stats, "confusion"):
    raise TypeError(
      f"Expected {name} to be InformationStats, got {type(stats).__name__}."
    )
  return stats.confusion.shape
