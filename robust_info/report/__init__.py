"""Reports on runs: report.json, a table, figures, a page, cards."""

from robust_info.report._build import build, draw, measure
from robust_info.report.store import SCHEMA, json_schema, load, save

__all__ = [
  "SCHEMA",
  "build",
  "draw",
  "json_schema",
  "load",
  "measure",
  "save",
]
