"""A run of one's own model, objective, data augmentation, optimiser, attack."""

import io
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_problem as tiny

from robust_info import config as config_lib
from robust_info import data, evaluation, training
from robust_info.config import file as file_lib
from robust_info.config import registry
from robust_info.evaluation import cache, metrics, own_attack
from robust_info.evaluation.metrics import attack_runs, robustness
from robust_info.report import networks
from robust_info.training import own_parts, setup

PARTS = pathlib.Path(__file__).parents[1] / "support" / "own_parts.py"
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(autouse=True)
def nothing_registered():
  with registry.using(()):
    yield


@pytest.fixture(scope="module")
def source():
  split = tiny.make_split(48)
  return data.DataSource(
    "noise",
    "1",
    split,
    split,
    split,
    tiny.NUM_CLASSES,
    (4, 4, 1),
    tuple("abcd"),
  )


def train(path, source, workdir, **changes):
  """A run as train.py starts it."""
  with registry.using(()):
    asked = file_lib.get_config(str(path))
    for name, value in changes.items():
      asked.train[name] = value
    resolved = setup.resolve(config_lib.from_config_dict(asked), source)
    training.train(
      resolved,
      source.train,
      lambda variables: {"accuracy": 0.5, "robust_accuracy": 0.5},
      workdir=workdir,
      stream=io.StringIO(),
    )


@pytest.fixture(scope="module")
def home(source, tmp_path_factory):
  """A run, and the cache of the user who trained it."""
  home = tmp_path_factory.mktemp("own")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("ROBUST_INFO_CACHE", str(home / "cache"))
    train(PARTS, source, home / "run")
  return home


def as_its_user(home, patch):
  patch.setenv("ROBUST_INFO_CACHE", str(home / "cache"))


def test_a_run_finds_its_parts_again(home, source, monkeypatch):
  as_its_user(home, monkeypatch)
  run = training.restore_run(home / "run")
  assert not registry.active()
  # The network of the file, by hand: six units, tanh, less the mean.
  params = jax.device_get(run.variables["params"])
  inner, last = params["Dense_0"], params["Dense_1"]
  x = np.asarray(source.test.images[:9], np.float64) / 255
  flat = x.reshape(9, -1) - run.config.model.mean[0]
  hidden = np.tanh(flat @ inner["kernel"] + inner["bias"])
  assert hidden.shape == (9, 6)
  expected = hidden @ last["kernel"] + last["bias"]
  np.testing.assert_allclose(
    run.logits_fn(x.astype(np.float32)), expected, rtol=1e-4, atol=1e-5
  )
  rows = [row for row in run.history if row["kind"] == "train"]
  assert {"brier", "loss"} <= rows[-1].keys()
  # Lion moves every weight by the learning rate in a step, decay aside.
  assert (
    0 < np.abs(last["bias"]).max() <= 6 * run.config.train.learning_rate * 1.001
  )
  assert networks.of_run(run).about["model"] == "dense (width=6)"


def test_an_attack_of_ones_own_joins_the_report(
  home, source, monkeypatch, tmp_path
):
  as_its_user(home, monkeypatch)
  # Tests of the report measure the checks of PGD.
  monkeypatch.setattr(attack_runs.AttackRuns, "sanity", lambda self: {})
  run = training.restore_run(home / "run")
  split = source.test
  usual = tiny.make_settings(num_steps=1, epsilon_grid=(0.0,))
  correct = [
    np.asarray(run.logits_fn(np.float32(x))).argmax(-1) == split.labels
    for x in (split.images / 255, np.clip(split.images / 255 + 0.05, 0, 1))
  ]

  def measured(factor):
    with registry.using(file_lib.parts_of(file_lib.read(PARTS))):
      settings = config_lib.replace_evaluation(
        usual, attack="shift", shift={"factor": factor}
      )
    subject = metrics.Subject(
      evaluation.Evaluator(
        run.logits_fn.func, split, num_classes=4, settings=settings, seed=0
      ),
      run.variables,
      settings,
      cache.MeasurementCache(tmp_path, "f"),
      lambda label: lambda done, total: ended.update({label: total}),
    )
    planned = robustness.work(settings, len(split), 4)
    return robustness.measure(subject), planned

  ended = {}
  found, planned = measured(1.0)
  # But the checks, which are not made here.
  assert list(ended.items()) == [
    (work.label, work.count)
    for work in planned
    if work.label != attack_runs.SANITY
  ]
  assert found["robustness"]["attack"] == "shift"
  assert found["robustness"]["warnings"] == []
  step = found["robustness"]["steps"][-1]
  assert (step["attack"], step["epsilon"]) == ("shift", 0.05)
  assert step["accuracy"] == np.mean(correct[0] & correct[1])
  assert found["robustness"]["accuracy"] <= step["accuracy"]
  assert [lens["attack"] for lens in found["epsilon_lens_by_attack"]] == [
    "PGD-1", "KL-PGD-1", "shift"
  ]  # fmt: skip
  # Images outside the ball do not count.
  found, _ = measured(1.1)
  [warning] = found["robustness"]["warnings"]
  assert warning.startswith("shift: 48 of 48 images lay outside the ball")
  assert found["robustness"]["steps"][-1]["accuracy"] == np.mean(correct[0])


def test_a_run_from_elsewhere_asks_for_its_file(home, monkeypatch, tmp_path):
  shutil.copytree(home / "run", tmp_path / "run")
  stored = tmp_path / "run" / own_parts.NAME
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(tmp_path / "other user"))
  with pytest.raises(own_parts.UnknownOriginError) as error:
    training.restore_run(tmp_path / "run")
  line = str(error.value)
  assert "model 'dense', objective 'brier'" in line
  assert line.endswith(f"name it: --config={stored}.")
  assert "\n" not in line
  named = training.restore_run(tmp_path / "run", configuration=stored)
  assert named.model.width == 6
  # Registered in the session, as in a notebook.
  with registry.using(file_lib.parts_of(file_lib.read(stored))):
    assert training.restore_run(tmp_path / "run").model == named.model
  # A file that was changed is another file, also for its user.
  as_its_user(home, monkeypatch)
  assert training.restore_run(tmp_path / "run").model == named.model
  stored.write_text(stored.read_text() + "import os; os.remove(__file__)\n")
  with pytest.raises(own_parts.UnknownOriginError):
    training.restore_run(tmp_path / "run")
  assert stored.exists()
  stored.unlink()
  with pytest.raises(own_parts.UnknownOriginError, match="no file registered"):
    training.restore_run(tmp_path / "run")


def test_a_resumed_run_keeps_both_files(home, source, monkeypatch, tmp_path):
  as_its_user(home, monkeypatch)
  shutil.copytree(home / "run", tmp_path / "run")
  later = tmp_path / "later.py"
  later.write_text(PARTS.read_text() + "# A remark.\n")
  train(later, source, tmp_path / "run", log_every=7)
  stored = tmp_path / "run" / own_parts.NAME
  assert stored.read_text() == later.read_text()
  [former] = (tmp_path / "run").glob("configuration-*.py")
  assert former.read_text() == PARTS.read_text()
  content = json.loads((tmp_path / "run" / "config.json").read_text())
  assert content["train"]["log_every"] == 7
  assert content["model"]["dense"] == {"width": 6, "activation": "tanh"}


DROPOUT = "x = nn.Dropout(0.5, deterministic=False)(x); return nn.Dense(self."
FUNCTION = '"dense")\ndef f(width: int = 4): return 3\nclass'


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("self.num_classes)", "3)", r"shape \(2, 4\) for 2 images, got \(2, 3\)"),
    ("len(x), -1", "len(x), 5", "Dense failed with TypeError: cannot reshape"),
    ("return nn.Dense(self.", DROPOUT, "leave dropout out"),
    ('"dense")\nclass', FUNCTION, "got int"),
  ],
)
def test_a_network_that_does_not_work_is_one_line(
  source, tmp_path, old, new, message
):
  path = tmp_path / "parts.py"
  path.write_text(PARTS.read_text().replace(old, new))
  with pytest.raises(ValueError, match=r"In config\.model: ") as error:
    train(path, source, tmp_path / "run")
  assert re.search(message, str(error.value))
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


PARTS_THAT_FAIL = [
  ("objective", "brier", "del key, progress"),
  ("augmentation", "darker", "factor = jax.random.uniform("),
  ("optimizer", "lion", "return optax.lion("),
]


@pytest.mark.parametrize(("kind", "name", "line"), PARTS_THAT_FAIL)
def test_a_part_that_fails_is_one_line_with_its_place(
  source, tmp_path, kind, name, line
):
  path = tmp_path / "parts.py"
  text = PARTS.read_text().replace(line, f"missing.name; {line}")
  path.write_text(text)
  number = text[: text.index("missing.name")].count("\n") + 1
  with pytest.raises(registry.PartError) as error:
    train(path, source, tmp_path / "run")
  assert str(error.value) == (
    f"The {kind} {name!r} failed in {path}, line {number} with NameError: name "
    "'missing' is not defined"
  )


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("del logits_fn", "missing.name; del logits_fn", "The attack 'shift' fail"),
    ("return jnp.clip(x + factor", "return jnp.clip(x[:1] + factor", "shape"),
  ],
)
def test_an_attack_that_does_not_work_is_one_line(tmp_path, old, new, message):
  path = tmp_path / "parts.py"
  path.write_text(PARTS.read_text().replace(old, new))
  with registry.using(file_lib.parts_of(file_lib.read(path))):
    settings = config_lib.replace_evaluation(
      tiny.make_settings(num_steps=1), attack="shift"
    )
  x, label = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32)
  with pytest.raises(ValueError, match=message) as error:
    own_attack.run(
      settings,
      lambda x: x.reshape(len(x), -1)[:, :4],
      x,
      label,
      jax.random.key(0),
      where=jnp.ones(2, bool),
      example_ids=jnp.arange(2),
    )
  assert "\n" not in str(error.value)
