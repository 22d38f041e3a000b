"""report.json: strict JSON, NaN in memory and null on disk."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from robust_info.runtime import files

SCHEMA = 1


# Fields of a run that are not numbers; null in them means "none".
_VERBATIM = ("objective", "checkpoint", "step", "config", "starts")
# Former names of fields, section -> old name -> new name: reports written with
# them stay readable.
_FORMER = {"fisher": {"spectral": "spectral_norm"}}
# Fields that older versions did not write, section -> fields.
_ADDED: dict[str, dict[str, Any]] = {
  "robustness": {"warnings": []},
  "fisher": {
    "beside_images": {
      "frobenius": math.nan,
      "frobenius_at_images": math.nan,
      "standard_error": math.nan,
      "num_examples": 0,
    }
  },
}


def json_schema() -> dict[str, Any]:
  """The JSON Schema of `report.json`, of draft 2020-12.

  It describes a report as this version writes it; reports may have more fields.
  """
  text = pathlib.Path(__file__).with_name("report.schema.json").read_text()
  return json.loads(text)


def save(report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
  """Writes a report as strict JSON, whole or not at all."""
  text = json.dumps(_nullified(report), indent=1, allow_nan=False)
  files.write_whole(path, text + "\n")


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a report written by `save`, also by an older version.

  Null numbers become NaN, fields with former names get their present ones, and
  fields that the older version did not write are empty or NaN.

  Raises:
    ValueError: the file is not a report of this schema.
    OSError: the file cannot be read.
  """
  try:
    found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except (UnicodeDecodeError, json.JSONDecodeError):
    found = None
  if not isinstance(found, dict) or found.get("schema") != SCHEMA:
    raise ValueError(f"Expected {path} to be a report of schema {SCHEMA}.")
  runs = [
    {
      k: v if k in _VERBATIM else _with_nan(_updated(k, v))
      for k, v in run.items()
    }
    for run in found["runs"]
  ]
  return {**found, "runs": runs}


def _updated(section: str, value: Any) -> Any:
  """A section of a run as the present version writes it."""
  if section not in _FORMER and section not in _ADDED:
    return value
  names = _FORMER.get(section, {})
  renamed = {names.get(name, name): item for name, item in value.items()}
  added = _ADDED.get(section, {})
  return renamed | {k: v for k, v in added.items() if k not in renamed}


def _nullified(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: _nullified(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_nullified(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _with_nan(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _with_nan(item) for name, item in value.items()}
  if isinstance(value, list):
    return [_with_nan(item) for item in value]
  return math.nan if value is None else value
