"""The pages of the study have the numbers, and the verdicts, of its results."""

import pathlib
import re

import pytest

from robust_info.study import page, plan, render

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "study"
PAGES = ("docs/study.md", "docs/results/objectives.md")


@pytest.fixture(scope="module")
def results():
  study = plan.load(ROOT / "configs" / "study" / "paper.py")
  found = render.collect(study, RESULTS)
  return study, found, render.judge(study, found)


def test_results_are_of_the_committed_plan(results):
  study, found, _ = results
  assert {record.case for record in found} == {c.name for c in study.cases}
  assert len(found) > 100


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_those_of_the_results(results, name):
  text = (ROOT / name).read_text(encoding="utf-8")
  assert page.fill(text, results[2].tables) == text, (
    f"python -m robust_info.study configs/study/paper.py --only=render "
    f"--output={RESULTS.relative_to(ROOT)} --page={name}"
  )


@pytest.mark.parametrize("name", PAGES)
def test_numbers_in_the_text_are_in_a_table(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  lines = re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
  prose = "\n".join(line for line in lines if not line.startswith("|"))
  tables = "\n".join(line for line in lines if line.startswith("|"))
  known = {*re.findall(r"\d+\.\d+", tables), "1906.02494"}
  assert {*re.findall(r"\d+\.\d+", prose)} <= known
