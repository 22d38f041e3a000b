"""Arguments that the figures share, and their one-line refusals."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from robust_info import _validate


def drawing(name: str) -> ModuleType:
  """A module of `drawing`, which imports matplotlib."""
  try:
    return importlib.import_module(f"robust_info.plots.drawing.{name}")
  except ImportError as error:
    raise ImportError(
      f"Expected matplotlib to be installed, got {error}; run pip install "
      "'robust-info[plots]'."
    ) from error


def theme(name: str) -> Any:
  """The colours that a theme names."""
  themes = drawing("style").THEMES
  _validate.one_of("theme", name, tuple(themes))
  return themes[name]


def is_report(value: Any) -> bool:
  """Whether this is a report, as `report.build` and `report.load` return."""
  return isinstance(value, Mapping) and {"schema", "runs"} <= value.keys()


def run_names(report: Mapping[str, Any]) -> list[str]:
  """Names of the runs of a report."""
  return [run["name"] for run in report["runs"]]


def by_network(argument: str, value: Any) -> dict[str, Any]:
  """Results by name of the network; a single network has an empty name."""
  if not (
    isinstance(value, Mapping) and all(isinstance(k, str) for k in value)
  ):
    return {"": value}
  if not value:
    raise ValueError(f"Expected {argument} of at least one network, got none.")
  return dict(value)


def same_networks(
  argument: str, found: Mapping[str, Any], other: str, names: list[str]
) -> None:
  """Requires results of the same networks."""
  if list(found) != names:
    raise ValueError(
      f"Expected {argument} of the networks of {other}, {names}, in this "
      f"order, got {list(found)}."
    )


def of_network(argument: str, name: str) -> str:
  """The argument of one of several networks, for errors."""
  return f"{argument}[{name!r}]" if name else argument


def array(argument: str, value: Any) -> np.ndarray:
  """Numbers as float64."""
  try:
    return np.asarray(value, np.float64)
  # NumPy and JAX have several errors for what is no array.
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"Expected {argument} to be an array of numbers, got "
      f"{type(value).__name__}."
    ) from error


def refuse(argument: str, value: Any, expected: str, fix: str) -> TypeError:
  """The error of a result of another kind."""
  return TypeError(
    f"Expected {argument} to be {expected}, got {type(value).__name__}; {fix}."
  )
