"""Entries of RobustBench and model cards: fields, sections, hostile names."""

import copy
import json
import pathlib
import re

import page_report
import pytest

from robust_info.report import cards, store

STORED = pathlib.Path(__file__).parents[1] / "support" / "old_report.json"
# Fields of RobustBench's own entries; it leaves out those that do not apply.
ROBUSTBENCH = {
  "link", "name", "authors", "additional_data", "number_forward_passes",
  "dataset", "venue", "architecture", "eps", "clean_acc", "reported",
  "autoattack_acc", "external", "footnote", "unreliable",
}  # fmt: skip
# Sections of Hugging Face's template.
SECTIONS = [
  "Model Details", "Uses", "Bias, Risks, and Limitations",
  "How to Get Started with the Model", "Training Details", "Evaluation",
  "Technical Specifications", "Citation",
]  # fmt: skip


@pytest.fixture
def report():
  return store.load(STORED)


def test_an_entry_has_the_fields_of_robustbench(report):
  [run] = report["runs"]
  entry = cards.robustbench(report, run)
  assert entry.keys() <= ROBUSTBENCH
  assert ROBUSTBENCH - entry.keys() == {"external"}
  assert entry["dataset"] == "mnist"
  assert entry["eps"] == "0.1"
  assert float(entry["clean_acc"]) == pytest.approx(
    100 * run["performance"]["accuracy"], abs=0.005
  )
  # PGD is not AutoAttack.
  assert entry["autoattack_acc"] is None
  assert "PGD-20" in entry["footnote"]
  assert entry["unreliable"] is False


def test_autoattack_is_stated_if_its_standard_version_ran(report):
  report["settings"]["attack"] = "autoattack"
  [run] = report["runs"]
  run["robustness"]["epsilon"] = 8 / 255
  run["robustness"]["steps"].append({"attack": "square", "accuracy": 0.123})
  entry = cards.robustbench(report, run)
  assert (entry["eps"], entry["autoattack_acc"]) == ("8/255", "12.30")
  run["robustness"]["warnings"] = ["zero gradients"]
  report["settings"]["autoattack_version"] = "plus"
  entry = cards.robustbench(report, run)
  assert entry["autoattack_acc"] is None
  assert entry["unreliable"] is True


def test_nothing_is_said_of_the_training_of_other_networks(report):
  [run] = page_report.without_a_run(report)["runs"]
  assert cards.robustbench(report, run)["additional_data"] is None
  card = cards.model_card(report, run)
  assert "## Training Details\n\n[More Information Needed]" in card
  assert "None" not in card
  assert "restore_run" not in card


def test_names_of_files_are_safe_and_different():
  names = ["a", "A", "x/a (last)", "../..", "\N{GRINNING FACE}", "r" * 300]
  found = cards.file_names(names)
  assert found == ["a", "A-2", "x-a-last", "run", "run-2", "r" * 80]


def test_a_model_card_has_the_sections_of_hugging_face(report, tmp_path):
  [first] = report["runs"]
  first["name"] = 'a|b <script>\n# "x" \N{GRINNING FACE}'
  report["runs"].append(copy.deepcopy(first))
  report["software"]["command"].append("--workdir=```")
  cards.write(report, tmp_path)
  names = ["a-b-script-x", "a-b-script-x-2"]
  for folder, ending in (("robustbench", "json"), ("model_cards", "md")):
    found = sorted(path.name for path in (tmp_path / folder).iterdir())
    assert found == sorted(f"{name}.{ending}" for name in names)
  text = (tmp_path / "model_cards" / "a-b-script-x.md").read_text()
  _, front, body = text.split("---\n", 2)
  metadata = dict(line.split(": ", 1) for line in front.splitlines())
  [model] = json.loads(metadata["model-index"])
  assert model["name"] == first["name"]
  metric = model["results"][0]["metrics"][1]
  assert metric["value"] == first["robustness"]["accuracy"]
  assert re.findall("^## (.*)$", body, re.M) == SECTIONS
  assert "<script>" not in re.sub(r"\\<", "", body)
  assert "# Model Card for a\\|b \\<script\\> # " in body
  assert re.findall("^````(sh)?$", body, re.M) == ["sh", ""]


def test_files_of_a_former_report_go_unless_they_were_changed(report, tmp_path):
  report["runs"].append({**report["runs"][0], "name": "b"})
  store.save(report, tmp_path / "report.json")
  cards.write(report, tmp_path)
  changed = tmp_path / "model_cards" / "b.md"
  changed.write_text(changed.read_text() + "By me.")
  own = tmp_path / "robustbench" / "own.json"
  own.write_text("{}")
  cards.remove_former(tmp_path)
  left = [path for path in tmp_path.rglob("*.*") if path.name != "report.json"]
  assert sorted(left) == [changed, own]


@pytest.mark.parametrize(
  "text", ["", "[]", '{"schema": 1}', '{"schema": 1, "runs": [{}]}', "\udcff"]
)
def test_no_file_goes_without_a_former_report(report, tmp_path, text):
  cards.write(report, tmp_path)
  before = {*tmp_path.rglob("*")}
  cards.remove_former(tmp_path)
  path = tmp_path / "report.json"
  path.write_text(text, errors="surrogateescape")
  cards.remove_former(tmp_path)
  assert {*tmp_path.rglob("*")} == before | {path}
