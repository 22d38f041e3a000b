"""Metrics of the steps between two rows of the log."""

from collections.abc import Mapping


class Window:
  """Sums of the metrics of all steps since the last row of the log.

  Attributes:
    sums: name -> sum, including `count`, the number of examples; part of a
      checkpoint, so that a resumed run logs the same rows as an uninterrupted
      one.
  """

  def __init__(self, sums: Mapping[str, float] | None = None):
    """Opens a window, empty or with the sums of a checkpoint."""
    self.sums = dict(sums or {})

  def add(self, values: Mapping[str, float]) -> None:
    """Adds the metrics of a step, see `step.StepMetrics`."""
    for name, value in values.items():
      self.sums[name] = self.sums.get(name, 0.0) + value

  def take_means(self) -> dict[str, float]:
    """Returns means over the examples, nothing without them; empties it."""
    sums, self.sums = self.sums, {}
    if not sums:
      return {}
    count = sums.pop("count")
    return {name: total / count for name, total in sums.items()}
