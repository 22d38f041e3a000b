"""Files of records: damage is seen, and files of older versions are read."""

import dataclasses
import json
import math

import pytest

from robust_info.study import answers, plan, records, render

RECORD = records.Record(
  case="digits",
  recipe="a",
  seed=3,
  digest="0123",
  numbers={"accuracy": 0.5, "cckl": 1.25, "path_share": math.nan},
  trajectory={"step": [0.0, 7.0], "cckl": [0.5, math.nan]},
  doubts=["masked"],
  about={"data_version": "1.0.0"},
  seconds=12.0,
)


def as_text(record):
  return json.dumps(record.to_json(), sort_keys=True)


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "new" / "record.json"
  records.write(RECORD, path)
  return path


def test_a_record_comes_back(path):
  found = records.read(path)
  assert as_text(found) == as_text(RECORD)
  assert math.isnan(found.trajectory["cckl"][1])
  assert records.read(path.with_name("other.json")) is None


def test_a_changed_letter_is_damage(path):
  whole = path.read_text()
  for place, letter in enumerate(whole):
    if letter.isalnum():
      other = chr(ord(letter) ^ 1)
      path.write_text(whole[:place] + other + whole[place + 1 :])
      assert records.read(path) is None, whole[place - 20 : place + 20]


def test_a_record_of_an_older_version_has_no_checksum(path):
  path.write_text(as_text(RECORD))
  assert as_text(records.read(path)) == as_text(RECORD)


CHANGES = [
  {"numbers": []},
  {"numbers": {"accuracy": "0.5"}},
  {"numbers": {"accuracy": [0.5]}},
  {"trajectory": None},
  {"trajectory": {"step": "12"}},
  {"trajectory": {"step": 3}},
  {"about": "x"},
  {"doubts": 1},
  {"seed": "3"},
  {"seconds": "12"},
  {"digest": None},
  {"more": 1},
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_another_shape_is_no_record(path, change):
  path.write_text(json.dumps({**RECORD.to_json(), **change}))
  assert records.read(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", "\x00" * 9])
def test_another_file_is_no_record(path, content):
  path.write_text(content)
  assert records.read(path) is None


@pytest.mark.parametrize(
  "content",
  [
    "[]",
    "{}",
    '{"records": 1}',
    '{"records": null}',
    '{"records": {"a": 1}}',
    '{"records": [3]}',
    *(
      json.dumps({"records": [{**RECORD.to_json(), **change}]})
      for change in CHANGES
    ),
    '{"records": [], "crc32": 1}',
  ],
)
def test_damaged_results_are_one_line(tmp_path, content):
  (tmp_path / render.RESULTS).write_text(content)
  study = plan.Study(title="", cases=())
  with pytest.raises(ValueError, match="remove it to make them") as error:
    render.collect(study, tmp_path)
  assert "\n" not in str(error.value)


def test_results_have_a_checksum(tmp_path):
  study = plan.Study(title="Tiny", cases=())
  found = records.Records([RECORD])
  render.write(study, found, render.judge(study, found), tmp_path)
  path = tmp_path / render.RESULTS
  assert len(render.collect(study, tmp_path)) == 0  # Of no run of the study.
  path.write_text(path.read_text().replace("1.25", "1.35"))
  with pytest.raises(ValueError, match="its checksum is wrong; remove it"):
    render.collect(study, tmp_path)


def test_records_that_leave_the_results_get_files_of_their_own(tmp_path):
  study = plan.Study(title="Tiny", cases=())
  outside = dataclasses.replace(RECORD, case="../..")
  for found in ([RECORD, outside], []):
    found = records.Records(found)
    render.write(study, found, render.judge(study, found), tmp_path / "out")
  path = tmp_path / "out/records/digits/a/seed-3.json"
  stored = dataclasses.replace(RECORD, seconds=None)
  assert as_text(records.read(path)) == as_text(stored)
  assert [*tmp_path.rglob("seed-*")] == [path]


@dataclasses.dataclass(frozen=True)
class Asks:
  """A question with a figure, if it has a criterion."""

  name: str
  title: str = "Is it?"
  criteria: int = 1

  def answer(self, found):
    del found
    criterion = answers.Criterion("digits", "it is", (1.0, 2.0), 0.0)
    return answers.Answer((criterion,) * self.criteria, ())

  def draw(self, found, path):
    del found
    path.with_suffix(".png").touch()
    path.with_suffix(".svg").touch()


def test_tables_and_figures_of_former_questions_are_removed(tmp_path):
  found = records.Records([])
  for questions in (
    (Asks("kept"), Asks("gone"), Asks("open")),
    (Asks("kept"), Asks("open", criteria=0)),
  ):
    study = plan.Study(title="Tiny", cases=(), questions=questions)
    render.write(study, found, render.judge(study, found), tmp_path)
    (tmp_path / "figures" / "own.png").touch()
  assert {path.stem for path in (tmp_path / "tables").iterdir()} == {
    "verdicts", "recipes", "kept", "open",
  }  # fmt: skip
  names = sorted(path.name for path in (tmp_path / "figures").iterdir())
  assert names == ["kept.png", "kept.svg", "own.png"]
