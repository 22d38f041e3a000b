"""The pages of the studies have the numbers, and verdicts, of their results."""

import json
import pathlib
import re

import pytest

from robust_info.config import registry
from robust_info.study import page, plan, render

ROOT = pathlib.Path(__file__).parents[2]
# Name of the study file -> name of the page and of the folder of results, and
# number of runs.
STUDIES = {
  "paper": ("study", 216),
  "masked": ("study_masked", 50),
  "controlled": ("study_controlled", 72),
  "cifar10_jpeg": ("study_cifar10_jpeg", 18),
}


@pytest.fixture(scope="module", params=STUDIES)
def results(request):
  """Study, results, page, folder of the results, number of runs."""
  name, number = STUDIES[request.param]
  with registry.using(()):
    study = plan.load(ROOT / "configs" / "study" / f"{request.param}.py")
    folder = ROOT / "docs" / "results" / name
    judged = render.judge(study, render.collect(study, folder))
  return study, judged, ROOT / "docs" / f"{name}.md", folder, number


def test_results_are_of_the_committed_plan(results):
  study, judged, _, folder, number = results
  content = json.loads((folder / "study.json").read_text(encoding="utf-8"))
  assert len(content["records"]) == number == len([*plan.jobs(study)])
  verdicts = {
    answer["name"]: answer["verdict"] for answer in content["answers"]
  }
  assert verdicts == judged.verdicts
  for answer in content["answers"]:
    assert (folder / f"{answer['name']}.png").exists()


def test_tables_are_those_of_the_results(results):
  _, judged, path, *_ = results
  text = path.read_text(encoding="utf-8")
  assert page.fill(text, judged.tables) == text, "see CONTRIBUTING.md"


def test_numbers_in_the_text_are_in_a_table(results):
  text = results[2].read_text(encoding="utf-8")
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
  assert len(known) > 50
