"""The page of the study has the numbers, and the verdicts, of its results."""

import json
import pathlib
import re

import pytest

from robust_info.study import page, plan, render

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "study"
PAGE = ROOT / "docs" / "study.md"


@pytest.fixture(scope="module")
def results():
  study = plan.load(ROOT / "configs" / "study" / "paper.py")
  found = render.collect(study, RESULTS)
  return study, found, render.judge(study, found)


def test_results_are_of_the_committed_plan(results):
  study, found, judged = results
  content = json.loads((RESULTS / "study.json").read_text(encoding="utf-8"))
  assert len(found) == len(content["records"]) > 100
  verdicts = {
    answer["name"]: answer["verdict"] for answer in content["answers"]
  }
  assert verdicts == judged.verdicts
  assert {record.case for record in found} <= {c.name for c in study.cases}


def test_tables_are_those_of_the_results(results):
  text = PAGE.read_text(encoding="utf-8")
  assert page.fill(text, results[2].tables) == text, "see CONTRIBUTING.md"


def test_numbers_in_the_text_are_in_a_table():
  text = PAGE.read_text(encoding="utf-8")
  # Code, links, versions, and the radii of the attacks.
  text = re.sub(r"```.*?```|`.*?`", "", text, flags=re.DOTALL)
  text = re.sub(
    r"\[arXiv.*?\)|(Python|jax) [\d.]+|linf 0\.15?", "", text, flags=re.DOTALL
  )
  lines = text.splitlines()
  prose = "\n".join(line for line in lines if not line.startswith("|"))
  tables = "\n".join(line for line in lines if line.startswith("|"))
  known = {*re.findall(r"\d+\.\d+", tables)}
  assert {*re.findall(r"\d+\.\d+", prose)} <= known
  assert len(known) > 500
