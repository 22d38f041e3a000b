"""Studies: many runs, measured alike, that answer questions with verdicts.

A study file declares runs and questions; `python -m robust_info.study FILE`
trains what is missing, measures what is missing, and writes `study.json`,
tables and figures. The thresholds of the verdicts stand in the study file, so
that they can be committed before the first run.
"""

from robust_info.study.answers import Answer, Criterion
from robust_info.study.plan import Case, Recipe, Study, configuration
from robust_info.study.records import Record, Records

__all__ = [
  "Answer",
  "Case",
  "Criterion",
  "Recipe",
  "Record",
  "Records",
  "Study",
  "configuration",
]
