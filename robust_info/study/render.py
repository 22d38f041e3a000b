"""Writes the results of a study: study.json, tables and figures."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from robust_info.runtime import files
from robust_info.study import answers, plan, recipes, records

SCHEMA = 1
RESULTS = "study.json"


def collect(study: plan.Study, output: pathlib.Path) -> records.Records:
  """The records of a study that exist, of its present configurations.

  They lie in files of their own, or in the results of an earlier call; records
  of other configurations or data are left out.
  """
  stored = _stored(output)
  found = []
  for job in plan.jobs(study):
    record = plan.record_of(study, output, job)
    if record is None and (old := stored.get(tuple(job))):
      record = old if plan.is_of(study, job, old) else None
    if record is not None:
      found.append(record)
  return records.Records(found)


def _stored(output: pathlib.Path) -> dict[tuple, records.Record]:
  """The records in the results of an earlier call, by key."""
  try:
    # Files of older versions have no checksum.
    content, _ = files.read_sealed(output / RESULTS)
    found = [records.Record.from_json(entry) for entry in content["records"]]
  except FileNotFoundError:
    return {}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"Expected results of a study in {output / RESULTS}, got "
      f"{type(error).__name__}: {error}; remove it to make them again."
    ) from error
  return {record.key: record for record in found}


@dataclasses.dataclass(frozen=True)
class Results:
  """The answers of a study.

  Attributes:
    findings: name of each question -> its criteria with their statistics.
    verdicts: name of each question -> verdict.
    tables: lines in Markdown: `verdicts`, `recipes`, and per question its
      name.
  """

  findings: Mapping[str, Sequence[answers.Finding]]
  verdicts: Mapping[str, str]
  tables: Mapping[str, Sequence[str]]


def judge(study: plan.Study, found: records.Records) -> Results:
  """Answers the questions of a study from its records; writes nothing."""
  given = {q.name: q.answer(found) for q in study.questions}
  findings = answers.judge(given)
  verdicts = {name: answers.verdict(of) for name, of in findings.items()}
  tables = {
    "verdicts": [*_verdicts(study, findings, verdicts)],
    **{
      name: [*_tables(given[name], findings[name], verdicts[name])]
      for name in given
    },
    "recipes": [*_titled(recipes.tables(found))],
  }
  return Results(findings, verdicts, tables)


def write(
  study: plan.Study,
  found: records.Records,
  results: Results,
  output: pathlib.Path,
) -> None:
  """Writes `study.json`, the tables, and a figure per question.

  The same records give the same files. Records of an earlier `study.json` that
  the study does not have, as after a change of its recipes, move to files of
  their own. Tables and figures of its former questions are removed.

  Args:
    study: the study, with its questions.
    found: its records.
    results: answers of `judge`.
    output: directory of the results.
  """
  output.mkdir(parents=True, exist_ok=True)
  _remove_others(results, output)
  (output / "tables").mkdir(exist_ok=True)
  (output / "figures").mkdir(exist_ok=True)
  for name, lines in results.tables.items():
    text = "\n".join(lines) + "\n"
    files.write_whole(output / "tables" / f"{name}.md", text)
  for question in study.questions:
    if results.findings[question.name]:
      question.draw(found, output / "figures" / question.name)
  content = {
    "schema": SCHEMA,
    "title": study.title,
    "answers": [
      {
        "name": question.name,
        "question": question.title,
        "verdict": results.verdicts[question.name],
        "thresholds": _thresholds(question),
        "criteria": [_finding(f) for f in results.findings[question.name]],
      }
      for question in study.questions
    ],
  }
  entries = [
    dataclasses.replace(record, seconds=None).to_json() for record in found
  ]
  _keep_others(found, output)
  seal = files.seal({**content, "records": entries})["crc32"]
  # One line per record.
  head = json.dumps(content, indent=1)[:-2]
  lines = ",\n".join(map(json.dumps, entries))
  files.write_whole(
    output / RESULTS,
    f'{head},\n "records": [\n{lines}\n ],\n "crc32": {seal}\n}}\n',
  )


def _remove_others(results: Results, output: pathlib.Path) -> None:
  """Removes what an earlier `study.json` has drawn and these results do not."""
  try:
    content, _ = files.read_sealed(output / RESULTS)
    former = [answer["name"] for answer in content["answers"]]
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return
  for name in filter(plan.is_name, former):
    if name not in results.tables:
      (output / "tables" / f"{name}.md").unlink(missing_ok=True)
    if not results.findings.get(name):
      for suffix in ("png", "svg"):
        figure = output / "figures" / f"{name}.{suffix}"
        figure.unlink(missing_ok=True)


def _keep_others(found: records.Records, output: pathlib.Path) -> None:
  """Gives the stored records that are not among those found their own files."""
  for key, record in _stored(output).items():
    if found.get(*key) is None and plan.is_name(record.case, record.recipe):
      path = plan.record_path(output, plan.Job(*key))
      if not path.exists():
        records.write(record, path)


def _verdicts(study, findings, verdicts):
  yield "| question | verdict | criteria that hold |"
  yield "|---|---|---|"
  for question in study.questions:
    of = findings[question.name]
    holding = sum(f.status == answers.HOLDS for f in of)
    yield (
      f"| {question.title} | **{verdicts[question.name]}** | {holding} of "
      f"{len(of)} |"
    )


def _tables(answer, findings, verdict):
  yield f"Verdict: **{verdict}**"
  yield ""
  yield (
    "| case | criterion | threshold | estimate | 95 % interval | p, corrected "
    "| status |"
  )
  yield "|---|---|---|---|---|---|---|"
  for f in findings:
    yield (
      f"| {f.criterion.case} | {f.criterion.text} | > "
      f"{_number(f.criterion.threshold)} | {_number(f.estimate)} | "
      f"[{_number(f.low)}, {_number(f.high)}], n = {len(f.criterion.values)} | "
      f"{_p_value(f.corrected)} | {f.status} |"
    )
  yield ""
  yield from _titled(answer.tables)


def _titled(tables):
  for number, table in enumerate(tables):
    if number:
      yield ""
    yield f"{table.title}:"
    yield ""
    yield from markdown(table)


def markdown(table: answers.Table) -> Sequence[str]:
  """Lines of a table in Markdown."""
  return [
    "| " + " | ".join(map(str, table.columns)) + " |",
    "|---" * len(table.columns) + "|",
    *("| " + " | ".join(map(str, row)) + " |" for row in table.rows),
  ]


def _number(value: float) -> str:
  return f"{value:.3g}" if math.isfinite(value) else "n/a"


def _p_value(value: float) -> str:
  if math.isnan(value):
    return "n/a"
  return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _finding(finding: answers.Finding) -> dict[str, Any]:
  content = dataclasses.asdict(finding)
  criterion = content.pop("criterion")
  return records.rounded({**criterion, **content})


def _thresholds(question: plan.Question) -> Mapping[str, Any]:
  content = dataclasses.asdict(question)
  return {k: v for k, v in content.items() if k not in ("name", "title")}
