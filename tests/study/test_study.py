"""A study from its file to its results."""

import json
import pathlib
import shutil
import sys
import types

import pytest

from robust_info import config
from robust_info.config import registry
from robust_info.evaluation.metrics import attack_runs
from robust_info.runtime import streams
from robust_info.study import __main__ as command
from robust_info.study import baselines, jobs, plan, render, work
from robust_info.training import workdir

FILE = pathlib.Path(__file__).parents[1] / "support" / "tiny_study.py"
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module", autouse=True)
def short():
  """Leaves out measurements that other tests hold."""
  with registry.using(()), pytest.MonkeyPatch.context() as patch:
    patch.setattr(attack_runs.AttackRuns, "sanity", lambda self: {})
    patch.setattr(baselines, "measure", lambda *_: {"margin_mean": 1.5})
    yield


def run(monkeypatch, output, *flags):
  monkeypatch.setattr(
    sys, "argv", ["study", str(FILE), f"--output={output}", *flags]
  )
  command.main()


def contents(output):
  return {
    str(path.relative_to(output)): path.read_bytes()
    for path in output.rglob("*")
    if path.is_file() and path.relative_to(output).parts[0] in (
      "study.json", "tables", "figures"
    )
  }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, short):
  home = tmp_path_factory.mktemp("study")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("ROBUST_INFO_CACHE", str(home / "cache"))
    run(patch, home / "out")
  return home / "out"


def test_results_hold_every_run_and_answer(finished):
  content = json.loads((finished / "study.json").read_text())
  assert [r["recipe"] for r in content["records"]] == ["standard", "brier"]
  first, own = content["records"]
  assert first["about"]["gradients_per_example"] == 1
  assert own["about"]["gradients_per_example"] is None
  assert 0.2 < first["numbers"]["accuracy"] < 1
  assert first["trajectory"]["step"] == [0, 1, 2, 4, 10]
  # One seed decides nothing.
  assert {a["verdict"] for a in content["answers"]} == {"undecided"}
  assert {p.name for p in (finished / "tables").iterdir()} == {
    "characterises.md", "recipes.md", "rises.md", "verdicts.md"
  }  # fmt: skip


def test_run_again_it_makes_nothing(finished, monkeypatch):
  before = contents(finished)
  monkeypatch.setattr(work, "Workplace", None)
  monkeypatch.setattr(jobs, "make_here", None)
  run(monkeypatch, finished)
  assert contents(finished) == before


def test_results_alone_are_enough_to_draw_them_and_fill_a_page(
  finished, monkeypatch, tmp_path, capsys
):
  shutil.copy(finished / "study.json", tmp_path)
  text = "a\n<!-- study: recipes -->\nold\n<!-- study: end -->\nb\n"
  own = tmp_path / "page.md"
  own.write_text(text)
  render_page = ("--only=render", f"--page={own}")
  run(monkeypatch, tmp_path, *render_page)
  assert contents(tmp_path) == contents(finished)
  table = (finished / "tables" / "recipes.md").read_text()
  filled = text.replace("old\n", f"\n{table}\n")
  assert own.read_text() == filled
  # A filled page is filled again, without its figures, which take long.
  monkeypatch.setattr(render, "write", lambda *_: None)
  run(monkeypatch, tmp_path, *render_page)
  assert own.read_text() == filled
  monkeypatch.setattr(render, "write", None)  # These fail before any work.
  monkeypatch.setattr(jobs, "make_here", None)
  for wrong, message in (
    (text.replace("recipes", "other"), "got 'other'; there are verdicts, "),
    (text.replace("end", "recipes"), "after it, got 2 and 0."),
    ("a\n", "after it, got 0 and 0."),
  ):
    own.write_text(wrong)
    with pytest.raises(SystemExit):
      run(monkeypatch, tmp_path / "new", f"--page={own}")
    assert message in capsys.readouterr().err
    assert own.read_text() == wrong
  with pytest.raises(SystemExit):
    run(monkeypatch, tmp_path / "new", f"--page={tmp_path / 'none.md'}")
  assert "No such file" in capsys.readouterr().err


def test_a_stopped_study_ends_with_the_same_results(
  finished, monkeypatch, tmp_path
):
  # The second run stopped after its training.
  home = tmp_path / "out"
  shutil.copytree(finished, home)
  shutil.rmtree(home / "runs/digits/brier/seed-0/measurements")
  (home / "records/digits/brier/seed-0.json").unlink()
  (home / "study.json").unlink()
  made = []
  make = work.Workplace.make
  monkeypatch.setattr(
    work.Workplace,
    "make",
    lambda self, job: made.append(job) or make(self, job),
  )
  run(monkeypatch, home)
  assert made == [plan.Job("digits", "brier", 0)]
  assert contents(home) == contents(finished)


def test_records_of_other_configurations_do_not_count(finished, monkeypatch):
  study = plan.load(FILE)
  assert len(render.collect(study, finished)) == 2
  monkeypatch.setattr(plan, "digest", lambda case, config: "other")
  assert len(render.collect(study, finished)) == 0


def test_workdir_that_cannot_be_used_has_a_remedy_of_studies(tmp_path):
  home = tmp_path / "run"
  with workdir.Workdir(home, config.Config()):
    pass
  other = config.Config(seed=1)
  with (
    pytest.raises(workdir.WorkdirError, match="seed: 0, now 1; give") as error,
    work._remedies_of_studies(tmp_path),
  ):
    workdir.Workdir(home, other)
  assert "--" not in str(error.value)
  (tmp_path / "file").touch()
  with (
    pytest.raises(workdir.WorkdirError, match="choose another --output"),
    work._remedies_of_studies(tmp_path),
  ):
    workdir.Workdir(tmp_path / "file", other)


def test_progress_that_cannot_be_written_is_dropped():
  with work._log(pathlib.Path("/dev/full")) as stream:
    streams.write("a line\n", stream)
  assert stream.closed


def test_pictures_of_another_size_have_programs_and_data_of_their_own(
  monkeypatch, tmp_path
):
  seen = []

  def measure(*_, evaluators, **__):
    evaluators["f"] = None
    seen.append(evaluators)

  network = types.SimpleNamespace(apply_fn="f", variables=None)
  monkeypatch.setattr(work.report, "measure", measure)
  monkeypatch.setattr(work.networks, "of_run", lambda run: network)
  study = plan.load(FILE)
  place = work.Workplace(study, tmp_path)
  for size in (8, 16, 8):
    own = config.DataConfig(name="image_folder", image_size=size)
    # The version is that of the files, whatever their size in the network.
    place._measure(
      types.SimpleNamespace(config=config.Config(data=own)),
      types.SimpleNamespace(name="image_folder", version="1"),
      config.EvaluationConfig(),
      study.cases[0],
      tmp_path,
    )
  assert seen[0] is seen[2] is not seen[1]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--case=mnist"], "Expected one of the cases digits, got 'mnist'."),
    (["--executor=local", "--jobs=0"], "Expected --jobs >= 1, got 0."),
    (
      ["--jobs=4"],
      "Expected --executor=local or --executor=slurm with --jobs or "
      "--parameter; runs in this process have no use for them.",
    ),
    (
      ["--only=runs", "--page=a.md"],
      "Expected no --page with --only=runs, which writes none.",
    ),
    (
      ["--executor=local", "--parameter=a"],
      "Expected --parameter=NAME=VALUE, got 'a'.",
    ),
  ],
)
def test_errors_are_one_line(monkeypatch, tmp_path, capsys, flags, message):
  with pytest.raises(SystemExit) as error:
    run(monkeypatch, tmp_path, *flags)
  assert error.value.code == 1
  assert capsys.readouterr().err.splitlines()[-1] == f"Error: {message}"


def test_damaged_results_are_named(monkeypatch, tmp_path, capsys):
  (tmp_path / "study.json").write_text("{")
  with pytest.raises(SystemExit):
    run(monkeypatch, tmp_path, "--only=render")
  assert "remove it to make them again" in capsys.readouterr().err


def test_parameters_are_numbers_where_they_look_like_one():
  given = ["mem_gb=1.5", "nodes=2", "slurm_account=007", "slurm_time=1:00"]
  assert command._parameters(given) == {
    "mem_gb": 1.5,
    "nodes": 2,
    "slurm_account": "007",
    "slurm_time": "1:00",
  }
