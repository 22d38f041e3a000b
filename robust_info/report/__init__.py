"""Reports on runs: report.json, a table, figures."""

from robust_info.report._build import build, draw
from robust_info.report.store import SCHEMA, load, save

__all__ = ["SCHEMA", "build", "draw", "load", "save"]
