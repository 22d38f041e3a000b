"""evaluate.py as a user runs it, on a small run trained here."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import time

import jax
import jax.export
import numpy as np
import PIL.Image
import preloaded
import pytest

import robust_info as ri
from robust_info import config, data, report, training
from robust_info.report import table as table_lib
from robust_info.training import setup

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = f"--config={ROOT}/configs/digits.py"
FIGURES = {
  "cckl_matrices.png",
  "components.png",
  "examples.png",
  "robust_accuracy.png",
  "training_curves.png",
}
SETTINGS = {
  "batch_size": 250,
  "epsilon": 0.05,
  "epsilon_grid": (0.0, 0.02),
  "num_steps": 2,
  "num_pairs": 16,
  "num_coarse_pairs": 40,
  "num_nodes": 2,
  "validation_examples": 20,
}


def train(workdir, cache, *, name="digits", robust=(0.0, 0.5, 0.25)):
  """Trains a linear classifier, with these scores after each epoch."""
  asked = config.from_config_dict(
    {
      "data": {"name": name, "cache_dir": str(cache)},
      "model": {"name": "logistic"},
      "train": {"num_epochs": len(robust) - 1, "learning_rate": 0.05},
      "evaluation": SETTINGS,
    }
  )
  source = data.load(name, cache_dir=cache, progress=False)
  scores = iter(robust)
  with open(os.devnull, "w") as silence:
    training.train(
      setup.resolve(asked, source),
      source.train,
      lambda variables: {"accuracy": 0.5, "robust_accuracy": next(scores)},
      workdir=workdir,
      stream=silence,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def environment(home):
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(home / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }


@pytest.fixture(scope="module")
def runs(home):
  """Workdirs of two runs; the second names another data set."""
  train(home / "standard", home / "cache")
  shutil.copytree(home / "standard", home / "elsewhere")
  path = home / "elsewhere" / "config.json"
  stored = json.loads(path.read_text())
  stored["data"]["name"] = "mnist"
  del stored["crc32"]  # As after any change made by hand.
  path.write_text(json.dumps(stored))
  return home / "standard", home / "elsewhere"


@pytest.fixture(scope="module")
def program(environment):
  """Starts the program in forks of a process that has made its imports."""
  with preloaded.Preloaded(
    "evaluate.py", cwd=ROOT, environment=environment
  ) as program:
    yield program


@pytest.fixture(scope="module")
def evaluate(program):
  """Runs the program with flags."""
  return program.run


@pytest.fixture(scope="module")
def undisturbed(evaluate, runs, home):
  """A report, and the result of the call.

  It is on both checkpoints of the run, and on its network from a file.
  """
  (home / "network.py").write_text(
    "from robust_info import training\n"
    f"def load():\n  return training.restore_run({str(runs[0])!r}).logits_fn\n"
  )
  result = evaluate(
    f"--workdir={runs[0]}",
    "--checkpoint=both",
    f"--model={home}/network.py:load",
    f"--output={home}/report",
  )
  assert result.returncode == 0, result.stderr
  return home / "report", result


def measured_files(output):
  return {
    path.relative_to(output): path.stat().st_mtime_ns
    for path in (output / "measurements").rglob("*.json")
  }


def comparable(output):
  """The report on the last checkpoint, without time and place of its making.

  Its name depends on the other networks of the report.
  """
  found = report.load(output / "report.json")
  found.pop("software")
  last, *_ = found.pop("runs")
  last.pop("name")
  return json.dumps([found, last])


def test_report_table_and_figures_are_written(undisturbed):
  output, result = undisturbed
  assert {path.name for path in output.glob("*.png")} == FIGURES
  found = report.load(output / "report.json")
  assert found["data"]["num_examples"] == 500
  names = [run["name"] for run in found["runs"]]
  assert names == ["standard (last)", "standard (best)", "network.py:load"]
  assert [run["step"] for run in found["runs"]] == [20, 10, None]
  assert all(run["performance"]["accuracy"] > 0.5 for run in found["runs"])
  table = table_lib.render(found)
  assert result.stdout.startswith(table)
  for number in (1, 2):
    assert f"{number} of 3 networks measured, about " in result.stderr
  last = result.stdout.splitlines()[-1]
  assert last.startswith(f"Open {output / 'report.html'}; ")
  assert "report.json" in last
  page = (output / "report.html").read_text()
  assert "standard (best)" in page
  assert page.count("data:image/png") > 6 * 4
  assert "Traceback" not in result.stderr


def test_a_report_killed_on_the_way_ends_like_an_undisturbed_one(
  undisturbed, program, evaluate, runs, home
):
  output = home / "killed"
  flags = f"--workdir={runs[0]}", f"--output={output}"
  process = program.start(*flags)
  try:
    deadline = time.monotonic() + 300
    while not list(output.rglob("pgd-*.json")):
      assert process.poll() is None, "It ended before it could be killed."
      assert time.monotonic() < deadline
      time.sleep(0.005)
  finally:
    process.send_signal(signal.SIGKILL)
    process.finish()
  assert not (output / "report.json").exists()
  kept = measured_files(output)
  result = evaluate(*flags)
  assert result.returncode == 0, result.stderr
  after = measured_files(output)
  assert len(after) > len(kept)
  assert {path: after[path] for path in kept} == kept
  assert comparable(output) == comparable(undisturbed[0])


def test_a_run_gives_its_network_and_data_in_python(undisturbed, runs):
  run = training.restore_run(runs[0])
  images = (run.test_data.images / 255).astype(np.float32)
  logits = run.logits_fn(images)
  expected = report.load(undisturbed[0] / "report.json")["runs"][0]
  assert np.mean(
    np.argmax(logits, axis=-1) == run.test_data.labels
  ) == pytest.approx(expected["performance"]["accuracy"])
  norms = jax.jit(ri.fisher_trace)(run.logits_fn, images)
  assert np.mean(norms) == pytest.approx(
    expected["fisher"]["trace"]["mean"], rel=1e-4
  )
  exported = jax.export.export(jax.jit(run.logits_fn))(
    jax.ShapeDtypeStruct(images.shape, images.dtype)
  )
  np.testing.assert_allclose(
    exported.call(images), logits, rtol=1e-5, atol=1e-5
  )


def test_a_network_of_a_file_has_the_numbers_of_its_run(undisturbed):
  expected, _, found = report.load(undisturbed[0] / "report.json")["runs"]
  for section in ("performance", "information", "fisher", "path_lens"):
    assert jax.tree.all(
      jax.tree.map(
        lambda a, b: a == b or np.isclose(a, b, rtol=1e-3, equal_nan=True),
        found[section],
        expected[section],
      )
    ), section


@pytest.mark.parametrize(
  ("flags", "code", "message"),
  [
    (
      ["--workdir={home}/nowhere", "--output={home}/x"],
      1,
      "No run in workdir {home}/nowhere: cannot read config.json",
    ),
    (
      ["--workdir={standard}", "--workdir={elsewhere}", "--output={home}/x"],
      1,
      "Expected runs on the same data, got digits in {standard} and mnist in "
      "{elsewhere}.",
    ),
    (
      ["--workdir={standard}", "--output={standard}/config.json"],
      1,
      "Cannot write to output {standard}/config.json: File exists",
    ),
    (["--workdir={standard}"], 2, "flag --output=None"),
    (["--output={home}/x"], 1, "Expected a network, got none; give --workdir"),
    (["--output={home}/x", "--model=a.py:b"], 1, "Expected --config with the"),
    (
      ["--output={home}/x", "--model={home}/none.py:f", DIGITS],
      1,
      "Cannot read {home}/none.py: No such file or directory.",
    ),
    (
      ["--workdir=a", "--output=b", "--epsilon_grid=0.1,x"],
      2,
      "flag --epsilon_grid=['0.1', 'x']: Expected finite numbers >= 0",
    ),
    (
      ["--workdir=a", "--output=b", "--epsilon=nan"],
      2,
      "flag --epsilon=nan: Expected a finite number >= 0",
    ),
    (
      ["--workdir=a", "--output=b", "--attack=fgsm"],
      2,
      "Expected --attack to be one of pgd, apgd, autoattack, or registered",
    ),
    (["--workdir=a", "--output=b", "--chekpoint=best"], 2, "Unknown command"),
    (
      [
        "--workdir={standard}",
        "--output={home}/x",
        DIGITS,
        "--config.evaluation.epsilon=0.3",
      ],
      1,
      "Expected no --config.evaluation.epsilon with --workdir, whose stored "
      "configuration holds; use --epsilon.",
    ),
    (
      ["--workdir={standard}", "--output={home}/x", "--num_examples=1"],
      1,
      "Expected --num_examples to take in two classes, at least 2, got "
      "--num_examples=1.",
    ),
    (
      ["--workdir={standard}", "--output={home}/x", "--num_pairs=99999999999"],
      1,
      "Expected --num_pairs <= 16777216, got 99999999999.",
    ),
  ],
  ids=lambda value: None if isinstance(value, list | int) else value[:20],
)
def test_errors_are_one_line(evaluate, runs, home, flags, code, message):
  places = {"home": home, "standard": runs[0], "elsewhere": runs[1]}
  result = evaluate(*(flag.format(**places) for flag in flags))
  assert result.returncode == code
  assert result.stdout == ""
  [line] = result.stderr.strip().splitlines()
  assert line.startswith("Error: ")
  assert message.format(**places) in line


@pytest.mark.parametrize("number", [None, 30, 60])
def test_first_examples_of_a_folder_bring_a_warning(evaluate, home, number):
  for split, name, image in itertools.product(
    ("train", "test"), "abc", range(20)
  ):
    folder = home / "sorted" / split / name
    folder.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", (8, 8), image).save(folder / f"{image}.png")
  result = evaluate(
    DIGITS,
    "--config.data.name=image_folder",
    f"--config.data.path={home / 'sorted'}",
    f"--config.data.cache_dir={home / 'cache'}",
    f"--model={home / 'none.py'}:load",
    f"--output={home / 'x'}",
    *([] if number is None else [f"--num_examples={number}"]),
  )
  # There is no network, which comes after the data.
  assert result.returncode == 1
  found = [
    line for line in result.stderr.splitlines() if line.startswith("Warning")
  ]
  if number == 30:
    assert "--num_examples=30" in found.pop()
  assert not found


@pytest.mark.real_data
def test_mnist_is_evaluated_like_any_other_data(evaluate, home):
  root = os.environ.get("TFDS_DATA_DIR")
  if not root or not (pathlib.Path(root) / "mnist").is_dir():
    pytest.skip("needs prepared mnist in TFDS_DATA_DIR")
  train(home / "mnist", home / "cache", name="mnist", robust=(0.0, 0.5))
  result = evaluate(f"--workdir={home / 'mnist'}", f"--output={home / 'out'}")
  assert result.returncode == 0, result.stderr
  found = report.load(home / "out" / "report.json")
  assert found["data"]["num_examples"] == 10_000
  [run] = found["runs"]
  # Typical of a linear classifier of MNIST after one epoch: not robust.
  assert run["performance"]["accuracy"] > 0.85
  assert run["robust_accuracy"][-1]["accuracy"] < 0.75
