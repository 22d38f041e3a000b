"""Reports: strict JSON there and back, names, refusals, no repeated work."""

import collections
import dataclasses
import json
import math
import pathlib

import jax
import jsonschema
import numpy as np
import pytest
import tiny_problem as tiny
from flax import linen

from robust_info import attacks, config, data, evaluation, models, training
from robust_info.config import registry
from robust_info.evaluation import metrics, own_attack, worst_case
from robust_info.evaluation.metrics import attacked as attacked_lib
from robust_info.evaluation.metrics import fisher as fisher_metric
from robust_info.evaluation.metrics import lenses as lenses_metric
from robust_info.report import (
  _build,
  cards,
  figures,
  networks,
  page,
  portrayed,
  store,
  table,
)
from robust_info.runtime import locks

MODEL = config.ModelConfig(
  name="logistic",
  num_classes=tiny.NUM_CLASSES,
  image_shape=(4, 4, 1),
)
SETTINGS = tiny.make_settings(
  batch_size=10, num_steps=2, num_pairs=8, num_coarse_pairs=20, num_nodes=2
)


FIGURES = [name for name in figures.__all__ if name != "of_report"]
ALWAYS_DRAWN = [name for name in FIGURES if name != "strength"]
ALWAYS_DRAWN += ["write"] * 3  # The page, the table, the cards.


def make_source(channels=1):
  split = tiny.make_split(60)
  if channels > 1:
    images = np.repeat(split.images, channels, axis=-1)
    split = data.Split(images, split.labels)
  return data.DataSource(
    name="noise",
    version="1.0.0",
    train=split,
    validation=split,
    test=split,
    num_classes=tiny.NUM_CLASSES,
    image_shape=(4, 4, channels),
    label_names=("ant", "bee", "cow", "dog"),
  )


def make_run(workdir, *, seed=0, checkpoint="last", model=MODEL, data_name="x"):
  module = models.from_config(model)
  return training.Run(
    workdir=pathlib.Path(workdir),
    config=config.Config(
      data=config.DataConfig(name=data_name), model=model, seed=seed
    ),
    model=module,
    variables=models.init(module, jax.random.key(seed), model.image_shape),
    step=7,
    checkpoint=checkpoint,
    history=[
      {"kind": "validation", "step": 0, "epoch": 0.0, "cckl": math.nan},
      {"kind": "train", "step": 5, "epoch": 0.5, "loss": 1.0},
      {"kind": "validation", "step": 7, "epoch": 1.0, "cckl": 0.5},
    ],
    environment=[{"time": "2026", "git": None, "versions": {}}],
  )


@pytest.fixture
def drawn(monkeypatch):
  """Names of all that would be drawn; the contents are not tested."""
  names = []
  for module, name in (
    *((figures, name) for name in FIGURES),
    (page, "write"),
    (table, "write"),
    (cards, "write"),
  ):
    monkeypatch.setattr(
      module, name, lambda *args, name=name, **kw: names.append(name)
    )
  nothing = collections.defaultdict(lambda: np.zeros(()))
  monkeypatch.setattr(portrayed.portraits, "portraits", lambda *args: nothing)
  return names


@pytest.fixture(scope="module")
def known():
  """Results of long measurements, by their arguments."""
  return {}


@pytest.fixture
def calls(monkeypatch, known):
  """(measurement, epsilon) of every long measurement.

  The tests look at the calls and not at the numbers, so they reuse the numbers
  of earlier tests, repeated or cut to the number of rows that is asked for.
  """
  seen = []

  def spy(module, name):
    measure = getattr(module, name)

    def measured(evaluator, *args, **kwargs):
      epsilon = kwargs.get("epsilon")
      seen.append((name, epsilon))
      if (name, epsilon) not in known:
        known[name, epsilon] = measure(evaluator, *args, **kwargs)
      found, rows = known[name, epsilon], len(evaluator.split)
      if name in ("local", "path", "coarse_path"):
        rows = len(args[1][0]) if args[1:] else evaluator.settings.num_pairs
      # The statistics of predictions are those of at most 50 groups.
      return type(found)(
        **{
          field: value
          if field == "parts" or value is None
          else np.resize(value, (rows, *value.shape[1:]))
          for field, value in vars(found).items()
        }
      )

    monkeypatch.setattr(module, name, measured)

  for module, name in (
    (attacked_lib, "predictions"),
    (fisher_metric, "norms"),
    (lenses_metric, "local"),
    (lenses_metric, "path"),
    (lenses_metric, "coarse_path"),
  ):
    spy(module, name)
  return seen


@pytest.fixture(scope="module", autouse=True)
def sanity():
  """Replaces the sanity checks by a cheap one; their results are not tested."""
  check = attacks.Check("fine", True, 0.0, 0.1, "nothing")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      worst_case,
      "sanity",
      lambda *args, **kwargs: attacks.SanityReport((check,), {"clean": 1.0}),
    )
    yield


def build(runs, output, *, source=None, settings=SETTINGS, **options):
  return _build.build(
    runs, source or make_source(), settings, output=output, **options
  )


def measure_nothing(monkeypatch, strength_curve=()):
  """Replaces all measurements by nothing, and perhaps a curve."""
  monkeypatch.setattr(
    metrics,
    "measure",
    lambda *args, **kwargs: {
      "strength_curve": list(strength_curve),
      "cckl_matrix": [[0.0]],
    },
  )


def strict(path):
  """JSON according to the standard, without NaN."""

  def refuse(token):
    raise ValueError(token)

  return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_report_says_what_was_measured_of_which_run(tmp_path, drawn, calls):
  found = build(
    [make_run("exp/a"), make_run("exp/b", seed=1)], tmp_path / "out", seed=5
  )
  assert found["schema"] == store.SCHEMA
  assert found["data"] == {
    "name": "noise",
    "version": "1.0.0",
    "split": "test",
    "num_examples": 60,
    "num_classes": 4,
    "label_names": ["ant", "bee", "cow", "dog"],
  }
  assert found["threat"] == {"norm": "linf", "epsilon": 0.05}
  assert found["settings"]["seed"] == 5
  assert [run["name"] for run in found["runs"]] == ["a", "b"]
  first, second = found["runs"]
  assert first["objective"] == "standard"
  # The linear model has no activation to name.
  assert first["model"] == "logistic"
  assert (first["checkpoint"], first["step"]) == ("last", 7)
  assert [row["step"] for row in first["curves"]] == [0, 7]
  assert first["information"] != second["information"]
  assert sorted(drawn) == sorted(ALWAYS_DRAWN)
  # The file holds the report that was returned.
  path = tmp_path / "out" / "report.json"
  strict(path)
  loaded = store.load(path)
  assert loaded["runs"][0]["config"] == json.loads(json.dumps(first["config"]))
  for name in ("fisher", "path_lens"):
    assert json.dumps(loaded["runs"][1][name]) == json.dumps(second[name])


def test_a_second_build_measures_nothing_and_says_the_same(
  tmp_path, drawn, calls
):
  runs = [make_run("a")]
  first = build(runs, tmp_path)
  assert len(calls) == 4 + 3 + 1  # Norms and lenses, PGD, KL-PGD.
  calls.clear()
  assert json.dumps(build(runs, tmp_path)) == json.dumps(first)
  assert not calls


def test_only_what_is_new_is_measured(tmp_path, drawn, calls):
  build([make_run("a")], tmp_path)
  calls.clear()
  more = dataclasses.replace(SETTINGS, epsilon_grid=(0.02, 0.1, 0.3))
  build([make_run("a")], tmp_path, settings=more)
  assert calls == [("predictions", 0.3)]
  calls.clear()
  # The same network under another name is known; another network is not.
  build([make_run("b"), make_run("c", seed=1)], tmp_path)
  assert len(calls) == 8


def test_other_settings_and_other_code_are_measured_anew(
  tmp_path, drawn, calls, monkeypatch
):
  build([make_run("a")], tmp_path)
  for change in (
    {"seed": 1},
    {"num_examples": 50},
    {"settings": dataclasses.replace(SETTINGS, num_steps=3)},
  ):
    calls.clear()
    build([make_run("a")], tmp_path, **change)
    assert len(calls) == 8, change
  calls.clear()
  monkeypatch.setattr(_build.environment, "code_digest", lambda: "edited")
  build([make_run("a")], tmp_path)
  assert len(calls) == 8


def test_a_model_of_ones_own_is_known_by_its_code():
  def mark(scale):
    with registry.using(()):

      @models.register("scaled")
      class Scaled(linen.Module):
        num_classes: int

        @linen.compact
        def __call__(self, x):
          # As a number of a module that the configuration imports.
          x = scale * x.reshape(len(x), -1)
          return linen.Dense(self.num_classes)(x)

      cls = registry.extended(config.ModelConfig, registry.active())
      run = make_run("a", model=cls(**{**vars(MODEL), "name": "scaled"}))
      found = networks.of_run(run)
    return _build._fingerprint(found, make_source().test, SETTINGS, 0)

  assert mark(1.0) == mark(1.0) != mark(2.0)


def test_settings_of_an_attack_of_ones_own_change_no_other_measurement():
  def strong(logits_fn, x, label, key, *, factor: float = 1.0):
    return x

  with registry.using(()):
    own_attack.register("strong")(strong)
    cls = registry.extended(config.EvaluationConfig, registry.active())
    settings = config.replace_evaluation(
      cls(**vars(SETTINGS)), attack="strong", strong={"factor": 2.0}
    )
  found, split = networks.of_run(make_run("a")), make_source().test
  marks = {
    _build._fingerprint(found, split, s, 0) for s in (settings, SETTINGS)
  }
  assert len(marks) == 1


def test_numbers_of_another_precision_are_not_taken():
  found = networks.of_run(make_run("a"))
  asked = (found, make_source().test, SETTINGS, 0)
  with jax.default_matmul_precision("highest"):
    exact = _build._fingerprint(*asked)
  assert exact != _build._fingerprint(*asked)


def test_runs_of_one_architecture_share_an_evaluator(
  tmp_path, drawn, monkeypatch
):
  made = []

  class Evaluator(evaluation.Evaluator):
    def __init__(self, *args, **kwargs):
      made.append(self)
      super().__init__(*args, **kwargs)

  monkeypatch.setattr(evaluation, "Evaluator", Evaluator)
  measure_nothing(monkeypatch)
  other = dataclasses.replace(MODEL, name="mlp", hidden_sizes=(5,))
  found = build(
    [make_run("a"), make_run("b", seed=1), make_run("c", model=other)],
    tmp_path,
  )
  assert len(made) == 2
  assert found["runs"][2]["model"] == "mlp (relu)"


@pytest.mark.parametrize(
  ("fields", "name"),
  [
    ({"name": "vgg13", "variant": "half_linear"}, "vgg13 (half_linear)"),
    ({"name": "resnet20", "width": 5}, "resnet20x5 (relu)"),
    (
      {"name": "vgg13", "width": 0.25, "activation": "silu"},
      "vgg13x0.25 (silu)",
    ),
    ({"name": "cnn", "dtype": "bfloat16"}, "cnn (relu, bfloat16)"),
  ],
)
def test_a_model_is_named_by_what_sets_it_apart(fields, name):
  assert networks._model_name(config.ModelConfig(**fields)) == name


def test_only_the_first_examples(tmp_path, drawn, calls):
  found = build([make_run("a")], tmp_path, num_examples=50)
  assert found["data"]["num_examples"] == 50
  whole = build([make_run("a")], tmp_path, num_examples=1000)
  assert whole["data"]["num_examples"] == 60
  with pytest.raises(ValueError, match="Expected num_examples >= 1, got"):
    build([make_run("a")], tmp_path, num_examples=-5)


def test_images_that_cannot_be_shown_are_left_out(tmp_path, drawn, monkeypatch):
  measure_nothing(monkeypatch)
  model = dataclasses.replace(MODEL, image_shape=(4, 4, 2))
  build([make_run("a", model=model)], tmp_path, source=make_source(2))
  expected = [name for name in ALWAYS_DRAWN if name != "examples"]
  assert sorted(drawn) == sorted(expected)


def test_an_ensemble_is_drawn_by_strength(tmp_path, drawn, monkeypatch):
  measure_nothing(monkeypatch, strength_curve=["none", "APGD"])
  settings = dataclasses.replace(SETTINGS, attack="apgd")
  found = build([make_run("a")], tmp_path, settings=settings)
  assert "strength" in drawn
  assert found["settings"]["attack"] == "apgd"


def test_no_figure_of_an_earlier_report_is_left(tmp_path, drawn, monkeypatch):
  names = ("strength", "cckl_matrices", "examples", "my_own")
  for name in names:
    (tmp_path / f"{name}.png").touch()
    (tmp_path / f"{name}.svg").touch()
  measure_nothing(monkeypatch)
  # The former report tells which cards are its own.
  store.save({"runs": ["former"]}, tmp_path / "report.json")
  asked = []
  monkeypatch.setattr(
    cards,
    "remove_former",
    lambda output: asked.append(strict(output / "report.json")["runs"]),
  )
  build([make_run("a")], tmp_path)
  assert asked == [["former"]]
  assert not [*tmp_path.glob("strength.*")]
  for name in names[1:]:
    assert (tmp_path / f"{name}.png").exists(), name
  # No picture of two channels can be shown.
  model = dataclasses.replace(MODEL, image_shape=(4, 4, 2))
  build([make_run("a", model=model)], tmp_path, source=make_source(2))
  assert not (tmp_path / "examples.png").exists()
  assert (tmp_path / "my_own.png").exists()


def test_everything_is_written(tmp_path, calls):
  output = tmp_path / "new" / "out"
  build([make_run("a"), make_run("b", seed=1)], output)
  both = {"training_curves", "robust_accuracy", "components", "cckl_matrices"}
  assert {path.stem for path in output.glob("*.svg")} == both
  assert {path.stem for path in output.glob("*.png")} == {*both, "examples"}
  assert {path.name for path in (output / "robustbench").iterdir()} == {
    "a.json",
    "b.json",
  }
  assert 'id="examples"' in (output / "report.html").read_text()
  text = (output / "report.txt").read_text(encoding="utf-8")
  assert text == table.render(store.load(output / "report.json")) + "\n"
  # A report follows its schema, which names all of its fields.
  found = strict(output / "report.json")
  schema = store.json_schema()
  jsonschema.Draft202012Validator.check_schema(schema)
  jsonschema.validate(found, schema, jsonschema.Draft202012Validator)
  assert not sorted(undescribed(found, schema, schema))


def undescribed(value, schema, root, place=""):
  """Places of the fields of a valid value that its schema does not name."""
  parts = list(alternatives(schema, root))
  named = {
    name: below
    for part in parts
    for name, below in part.get("properties", {}).items()
  }
  if isinstance(value, dict) and named:
    for name, item in value.items():
      if name in named:
        yield from undescribed(item, named[name], root, f"{place}/{name}")
      else:
        yield f"{place}/{name}"
  elif isinstance(value, list):
    for items in (part["items"] for part in parts if "items" in part):
      for item in value:
        yield from undescribed(item, items, root, place)


def alternatives(schema, root):
  """The schema, and all that it refers to or consists of."""
  yield schema
  if "$ref" in schema:
    name = schema["$ref"].rpartition("/")[2]
    yield from alternatives(root["$defs"][name], root)
  for key in ("allOf", "anyOf"):
    for part in schema.get(key, ()):
      yield from alternatives(part, root)


@pytest.mark.parametrize(
  ("runs", "message"),
  [
    (lambda: [], "Expected at least one run, got none."),
    (
      lambda: [make_run("a"), make_run("b", data_name="y")],
      "Expected runs on the same data, got x in a and y in b.",
    ),
    (
      lambda: [make_run("a"), make_run("./c/../a")],
      "Expected every workdir once, got ",
    ),
    (
      lambda: [make_run("a", model=dataclasses.replace(MODEL, num_classes=3))],
      "Expected the data of a, images (4, 4, 1) of 3 classes, got noise with "
      "images (4, 4, 1) of 4 classes.",
    ),
    (
      lambda: [
        make_run("a", model=dataclasses.replace(MODEL, image_shape=(5, 4, 1)))
      ],
      "Expected the data of a, images (5, 4, 1) of 4 classes, got noise",
    ),
  ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, runs, message):
  with pytest.raises(ValueError) as caught:  # noqa: PT011
    build(runs(), tmp_path / "out")
  assert str(caught.value).startswith(message)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_examples_of_one_class_are_refused_before_measuring(tmp_path, calls):
  source = make_source()
  number = int(np.argmax(source.test.labels != source.test.labels[0]))
  alone = np.flatnonzero(source.test.labels == 2)
  split = data.Split(source.test.images[alone], source.test.labels[alone])
  for fields, options, line in (
    ({}, {"num_examples": number}, f"got {number} of class "),
    ({"test": split}, {}, f"got {len(split)} of class 2 alone; take more"),
  ):
    with pytest.raises(ValueError, match="Expected test examples of") as found:
      build(
        [make_run("a")],
        tmp_path / "out",
        source=dataclasses.replace(source, **fields),
        **options,
      )
    assert line in str(found.value)
  assert not calls
  assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_said_before_measuring(
  tmp_path, calls
):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(
    OSError, match=r"Cannot write to output .*file: "
  ) as found:
    build([make_run("a")], tmp_path / "file")
  assert "choose another" in str(found.value)
  assert not calls


def test_two_processes_make_no_report_in_one_place(tmp_path, calls):
  with (
    locks.Lock(tmp_path / "lock", "It"),
    pytest.raises(OSError, match=r"^Output .* is in use by process .*another"),
  ):
    build([make_run("a")], tmp_path)
  assert not calls


@pytest.mark.parametrize(
  ("runs", "names"),
  [
    ([("runs/a", "last")], ["a"]),
    ([("runs/a", "last"), ("runs/b", "last")], ["a", "b"]),
    ([("x/a", "last"), ("y/a", "last")], ["x/a", "y/a"]),
    ([("x/a", "last"), ("y/a", "last"), ("y/b", "last")],
     ["x/a", "y/a", "y/b"]),
    ([("a", "last"), ("a", "best")], ["a (last)", "a (best)"]),
    ([("x/a/", "best"), ("y/../b", "best")], ["a", "b"]),
  ],
)  # fmt: skip
def test_names_are_the_shortest_that_differ(
  tmp_path, drawn, monkeypatch, runs, names
):
  measure_nothing(monkeypatch)
  runs = [make_run(path, checkpoint=which) for path, which in runs]
  found = build(runs, tmp_path)
  assert [run["name"] for run in found["runs"]] == names


def test_numbers_that_are_not_finite_are_null_on_disk_and_nan_again(tmp_path):
  original = {
    "schema": store.SCHEMA,
    "runs": [
      {
        "name": "a",
        "config": {"data": {"data_dir": None}},
        "starts": [{"git": None}],
        "step": 3,
        "fisher": {"mean": math.nan, "worst": math.inf, "least": -math.inf},
        "cckl_matrix": [[0.0, math.nan], (1.5, 1e-300)],
      }
    ],
  }
  store.save(original, tmp_path / "r.json")
  on_disk = strict(tmp_path / "r.json")["runs"][0]
  assert on_disk["fisher"] == {"mean": None, "worst": None, "least": None}
  [run] = store.load(tmp_path / "r.json")["runs"]
  assert all(math.isnan(run["fisher"][name]) for name in on_disk["fisher"])
  np.testing.assert_array_equal(
    run["cckl_matrix"], [[0.0, math.nan], [1.5, 1e-300]]
  )
  assert run["step"] == 3
  # A field whose value is None, as opposed to NaN, stays None.
  assert run["config"]["data"]["data_dir"] is None
  assert run["starts"] == [{"git": None}]


def test_a_report_of_an_older_version_is_shown_like_a_new_one(tmp_path):
  path = pathlib.Path(__file__).parents[1] / "support" / "old_report.json"
  assert "spectral" in strict(path)["runs"][0]["fisher"]
  found = store.load(path)
  text = table.render(found)
  assert "largest eigenvalue" in text
  assert "nan" not in text
  figures.components(found, tmp_path / "components.png")
  # Saved again, it is a report of today.
  store.save(found, tmp_path / "report.json")
  jsonschema.validate(strict(tmp_path / "report.json"), store.json_schema())


def test_a_save_that_fails_leaves_the_old_report(tmp_path):
  path = tmp_path / "report.json"
  store.save({"schema": store.SCHEMA, "runs": []}, path)
  with pytest.raises(TypeError):
    store.save({"schema": store.SCHEMA, "runs": [object()]}, path)
  assert store.load(path)["runs"] == []


@pytest.mark.parametrize(
  "content", [b"", b"[1, 2]", b'{"schema": 0, "runs": []}', b"{", b"\xff\xfe"]
)
def test_other_files_are_no_reports(tmp_path, content):
  path = tmp_path / "report.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"Expected .* to be a report of schema"):
    store.load(path)
