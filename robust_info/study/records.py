"""The numbers of a run that a study keeps."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from robust_info.runtime import files

_DIGITS = 6
_NORMS = ("trace", "frobenius", "spectral_norm")
_STATISTICS = ("mean", "median", "q05", "q25", "q75", "q95")
# Field of a record -> its types in JSON.
_TYPES = {
  "case": str,
  "recipe": str,
  "seed": int,
  "digest": str,
  "numbers": dict,
  "trajectory": dict,
  "doubts": list,
  "about": dict,
  "seconds": float | int | None,
}


@dataclasses.dataclass(frozen=True)
class Record:
  """The numbers of one run.

  Attributes:
    case: name of its case.
    recipe: name of its recipe.
    seed: seed of its training.
    digest: identifier of its configuration, see `plan.digest`.
    numbers: numbers at the end of training, by name; see `numbers_of`.
    trajectory: numbers of validation, by name, one per validation; `step` and
      `epoch` are among them.
    doubts: names of the sanity checks that fail; the robust accuracy of such a
      run is not to be trusted.
    about: description: attack, cost, versions of data, libraries and code.
    seconds: wall-clock seconds that the run took, including earlier starts of
      its training; None if unknown. Not part of the results, which are the same
      after any interruption.
  """

  case: str
  recipe: str
  seed: int
  digest: str
  numbers: Mapping[str, float]
  trajectory: Mapping[str, Sequence[float]]
  doubts: Sequence[str]
  about: Mapping[str, Any]
  seconds: float | None = None

  @property
  def key(self) -> tuple[str, str, int]:
    """Case, recipe and seed."""
    return self.case, self.recipe, self.seed

  def to_json(self) -> dict[str, Any]:
    """Content of a file; NaN is null, numbers have six digits."""
    return rounded(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, content: Any) -> "Record":
    """Inverts `to_json`.

    Raises:
      ValueError: not the content of a record.
    """
    if not isinstance(content, Mapping):
      raise ValueError(f"Expected a record, got {type(content).__name__}.")
    given = {"seconds": None, **content}
    if given.keys() != _TYPES.keys():
      raise ValueError(
        f"Expected the fields {', '.join(_TYPES)} of a record, got "
        f"{', '.join(content)}."
      )
    for name, types in _TYPES.items():
      _require(given[name], types, name)
    for values in given["trajectory"].values():
      _require(values, list, "trajectory")
    return cls(
      **{
        **given,
        "numbers": {k: _stored(v) for k, v in given["numbers"].items()},
        "trajectory": {
          name: [_stored(value) for value in values]
          for name, values in given["trajectory"].items()
        },
      }
    )


class Records:
  """The records of a study, by case, recipe and seed."""

  def __init__(self, found: Iterable[Record]):
    """Stores the records."""
    self._by_key = {record.key: record for record in found}

  def __iter__(self) -> Iterator[Record]:
    return iter(self._by_key.values())

  def __len__(self) -> int:
    return len(self._by_key)

  def cases(self) -> list[str]:
    """Names of the cases that have records."""
    return list(dict.fromkeys(record.case for record in self))

  def recipes(self, case: str) -> list[str]:
    """Names of the recipes of a case that have records."""
    return list(dict.fromkeys(r.recipe for r in self if r.case == case))

  def get(self, case: str, recipe: str, seed: int) -> Record | None:
    """One record, or None."""
    return self._by_key.get((case, recipe, seed))

  def of(self, case: str, recipe: str) -> dict[int, Record]:
    """The records of a recipe, by seed."""
    return {r.seed: r for r in self if (r.case, r.recipe) == (case, recipe)}

  def seeds(self, case: str, recipes: Sequence[str]) -> list[int]:
    """The seeds for which each of these recipes has a record."""
    if not recipes:
      return []
    common = set.intersection(*({*self.of(case, r)} for r in recipes))
    return sorted(common)


def read(path: pathlib.Path) -> Record | None:
  """The record of a file; None if there is none, or if it is damaged."""
  try:
    content, _ = files.read_sealed(path)
    return Record.from_json(content)
  except (OSError, ValueError):
    return None


def write(record: Record, path: pathlib.Path) -> None:
  """Writes a record with its checksum, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_sealed(path, record.to_json())


def numbers_of(run: Mapping[str, Any]) -> dict[str, float]:
  """The numbers of a run of a report that a study keeps.

  Names: `fisher_<norm>_<statistic>`; `local_*` and `path_*` for lenses 1 and 2;
  `epsilon_*` for lens 3 under all attacks: the least information that is left,
  by whichever choice of points; `robust_accuracy` of the worst case over all
  attacks, and `robust_accuracy_pgd` of PGD alone.
  """
  found = {
    name: run["performance"][name]
    for name in ("accuracy", "cross_entropy", "calibration_error")
  }
  for name in (
    "cckl",
    "label_information",
    "mutual_information",
    "lautum_information",
  ):
    found[name] = run["information"][name]
  for norm in _NORMS:
    for statistic in _STATISTICS:
      found[f"fisher_{norm}_{statistic}"] = run["fisher"][norm][statistic]
  for lens in ("local", "path"):
    entry = run[f"{lens}_lens"]
    for part in ("non_robust", "robust"):
      found[f"{lens}_{part}"] = entry[part]["mean"]
    found[f"{lens}_share"] = entry["non_robust_share"]
  left = run["strength_curve"][-1] if run["strength_curve"] else None
  for quantity in ("cckl", "label_information"):
    lens = (left or run["epsilon_lens"])[quantity]
    found[f"epsilon_{quantity}_robust"] = lens["robust"]
    found[f"epsilon_{quantity}_non_robust"] = lens["non_robust"]
    found[f"epsilon_{quantity}_share"] = lens["non_robust_share"]
  found["robust_accuracy"] = run["robustness"]["accuracy"]
  found["robust_accuracy_pgd"] = run["robustness"]["steps"][0]["accuracy"]
  for step in run["robustness"]["steps"][1:]:
    found[f"robust_accuracy_after_{step['attack']}"] = step["accuracy"]
  return {name: _number(value) for name, value in found.items()}


def trajectory_of(history: Iterable[Mapping[str, Any]]) -> dict[str, list]:
  """The validations of a run, by name."""
  rows = [row for row in history if row["kind"] == "validation"]
  names = [name for name in (rows[0] if rows else {}) if name != "kind"]
  return {
    name: [_number(row.get(name)) for row in rows]
    for name in names
    if name != "seconds"
  }


def _require(value: Any, types: Any, name: str) -> None:
  if not isinstance(value, types):
    raise ValueError(
      f"Expected other values in {name} of a record, got {value!r}."
    )


def _stored(value: Any) -> float:
  """A number of a file; null is NaN."""
  _require(value, float | int | None, "the numbers")
  return _number(value)


def _number(value: Any) -> float:
  return math.nan if value is None else float(value)


def rounded(value: Any) -> Any:
  """Content of JSON: floats of six digits, null where they are not finite."""
  if isinstance(value, Mapping):
    return {key: rounded(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [rounded(item) for item in value]
  if isinstance(value, float):
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
  return value
