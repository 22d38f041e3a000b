"""Figures from the results of metrics: true to them, legible, safe."""

import dataclasses
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import figure_checks
import jax.numpy as jnp
import matplotlib
import matplotlib.figure
import numpy as np
import page_report
import pytest

import robust_info as ri
from robust_info.plots.drawing import style

# A mark of the end of text, mathematics, markup, a hidden label.
NAMES = ("_a $x$", page_report.HOSTILE, "\x00\x1b[31m\ud800\u202e$\\frac", "")


def lens(robust, non_robust):
  robust, non_robust = np.asarray(robust), np.asarray(non_robust)
  return ri.Components(robust + non_robust, non_robust, robust)


def ball(accuracy=0.4, information=1.0, cckl=3.0):
  def part(robust, total):
    return ri.EpsilonComponents(total, robust, total - robust)

  return ri.EpsilonLens(
    accuracy=part(accuracy, 1.0),
    label_information=part(information, 2.0),
    cckl=part(cckl, 10.0),
    cckl_matrix=part(np.ones((2, 2)), np.ones((2, 2))),
  )


def ensemble(*accuracies, num_examples=100):
  names = ("clean", "apgd-ce", "apgd-t", "fab-t", "square")[: len(accuracies)]
  return ri.attacks.EnsembleResult(
    x_adv=np.zeros((num_examples, 2)),
    success=np.arange(num_examples) >= num_examples * accuracies[-1],
    logits=np.zeros((num_examples, 4)),
    broken_by=np.zeros(num_examples, int),
    attacks=names[1:],
    accuracies=dict(zip(names, accuracies, strict=True)),
    seconds={},
    zero_gradients={},
  )


def rows(**changes):
  return [{"step": step, "cckl": step / 2, **changes} for step in (1, 2, 4)]


# One call per function; each takes one network or several.
ONE = {
  "components": lambda result, **kw: ri.plots.components(local=result, **kw),
  "training_curves": ri.plots.training_curves,
  "robustness_curve": ri.plots.robustness_curve,
  "attack_strength": ri.plots.attack_strength,
  "cckl_matrix": ri.plots.cckl_matrix,
  "examples": lambda result, **kw: ri.plots.examples(
    np.zeros((1, 4, 4)), result, **kw
  ),
}
RESULTS = {
  "components": lens([1.0], [2.0]),
  "training_curves": rows(accuracy=0.5, path_robust=-1.0, path_non_robust=9.0),
  "robustness_curve": {0: np.array([True]), 0.1: np.array([False])},
  "attack_strength": {"none": ball(0.9), "PGD-20": ball()},
  "cckl_matrix": np.array([[1.0, np.nan], [4.0, 2.0]]),
  "examples": np.ones((1, 4, 4)),
}


def test_every_function_is_listed():
  assert {*ONE} == {*RESULTS} == {*ri.plots.__all__}


def written(figure):
  figure.canvas.draw()
  return [text.get_text() for text in figure_checks.texts_of(figure)]


@pytest.mark.parametrize("name", ONE)
def test_one_result_of_one_example_is_drawn(name):
  before = dict(matplotlib.rcParams)
  figure = ONE[name](RESULTS[name])
  assert isinstance(figure, matplotlib.figure.Figure)
  png, size = figure._repr_png_()
  assert png.startswith(b"\x89PNG")
  assert size["width"] == round(100 * figure.get_figwidth())
  figure_checks.assert_legible(figure)
  assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ONE)
def test_names_are_text_and_nothing_else(name, tmp_path):
  figure = ONE[name](dict.fromkeys(NAMES, RESULTS[name]), theme="dark")
  shown = " ".join(written(figure)).replace("\N{ZERO WIDTH SPACE}", "")
  # Dollars are escaped: `$x$` is no mathematics.
  assert r"_a \$x\$" in shown
  figure_checks.assert_legible(figure)
  figure.savefig(tmp_path / "figure.svg")
  root = ElementTree.parse(tmp_path / "figure.svg").getroot()
  texts = "".join(root.itertext())
  assert "_a $x$" in texts
  assert not any(element.tag.endswith("script") for element in root.iter())


def test_a_figure_keeps_its_theme_wherever_it_is_drawn(tmp_path):
  figure = ri.plots.training_curves(rows(), theme="dark")
  others = {"axes.facecolor": "red", "xtick.color": "red", "text.color": "red"}
  with matplotlib.rc_context({**others, "savefig.facecolor": "red"}):
    figure.axes[0].set_xlim(-40, 40)  # New ticks are made.
    figure.savefig(tmp_path / "figure.svg")
  text = (tmp_path / "figure.svg").read_text()
  assert "#ff0000" not in text
  assert not {c for c in style.on_dark() if c in text} - {
    *style.on_dark().values()
  }
  assert {style.DARK.paper, style.DARK.ink, style.DARK.quiet} <= {
    c for c in style.on_dark().values() if c in text
  }


def test_bars_show_means_over_pairs_and_exact_values():
  means = ri.lens_means(lens(jnp.array([1.0, 3.0]), jnp.array([2.0, 4.0])), 5.0)
  figure = ri.plots.components(
    local={"a": lens([1.0, 3.0], [2.0, 4.0]), "b": means},
    epsilon={"a": ball(), "b": ball(cckl=-1.0)},
    threat="PGD-20, linf 0.1",
  )
  local, epsilon = figure.axes
  found = [bar.get_width() for bar in local.patches]
  robust, non_robust = float(means.robust.mean), float(means.non_robust.mean)
  np.testing.assert_allclose(found, [2, 3, robust, non_robust], rtol=1e-6)
  np.testing.assert_allclose(
    [bar.get_width() for bar in epsilon.patches], [3, 7, -1, 11]
  )
  shown = written(figure)
  assert "what survives PGD-20, linf 0.1" in shown
  assert shown.count("a") == shown.count("b") == 1


def test_rows_of_validation_are_drawn_by_step_or_epoch(tmp_path):
  log = [{"kind": "train", "step": 3, "loss": 1.0}, *rows(kind="validation")]
  figure = ri.plots.training_curves(log)
  [axes] = figure.axes  # Only CCKL was recorded.
  assert axes.get_xlabel() == "step"
  np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 4])
  np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.5, 1, 2])
  epochs = [row | {"epoch": row["step"] / 10} for row in log]
  [axes] = ri.plots.training_curves(epochs).axes
  assert axes.get_xlabel() == "epoch"
  # As a run of train.py writes them.
  (tmp_path / "metrics.jsonl").write_text(
    '{"kind": "validation", "step": 1, "cckl": 2.5}\n'
  )
  for path in (tmp_path, str(tmp_path / "metrics.jsonl")):
    [axes] = ri.plots.training_curves({"run": path}).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2.5])


def attacked(success, valid=True):
  success = np.array(success)
  return ri.attacks.AttackResult(
    x_adv=np.zeros((len(success), 2)),
    success=success,
    loss=np.zeros(len(success)),
    logits=np.zeros((len(success), 4)),
    zero_gradients=success,
    valid=np.full(len(success), valid),
  )


def test_an_example_counts_at_its_worst_radius_so_far():
  figure = ri.plots.robustness_curve(
    {
      "results": {
        0.2: attacked([False, True, True, False]),
        0.0: np.array([True, True, True, False]),
        0.3: ensemble(1.0, 0.5, num_examples=4),
      },
      "numbers": {0: 0.9, 0.1: jnp.float32(0.5), 0.2: np.nan},
      "invalid": {0: 1.0, 0.1: attacked([True], valid=False)},
    }
  )
  [axes] = figure.axes
  lines = [line.get_xydata() for line in axes.lines]
  np.testing.assert_allclose(lines[0], [[0, 0.75], [0.2, 0.25], [0.3, 0.25]])
  np.testing.assert_allclose(lines[1], [[0, 0.9], [0.1, 0.5], [0.2, np.nan]])
  np.testing.assert_allclose(lines[2], [[0, 1], [0.1, np.nan]])
  assert lines[3][0, 1] == 0.25  # Chance, of four classes.
  band = axes.collections[0].get_paths()[0].vertices
  assert np.isclose(band[:, 1].min(), 0.0)  # 1/4 - 2 standard errors.


def test_bounds_never_rise_with_the_strength_of_the_attack():
  figure = ri.plots.attack_strength(
    {"a": ball(0.9, 2.0, 9.0), "b": ball(0.5, 1.0, 4.0), "c": ball(0.6, 1.5, 3)}
  )
  lines = [axes.lines[0].get_xdata() for axes in figure.axes]
  np.testing.assert_allclose(lines, [[0.9, 0.5, 0.5], [2, 1, 1], [9, 4, 3]])
  [axes] = ri.plots.attack_strength(ensemble(0.9, 0.5)).axes
  np.testing.assert_allclose(axes.lines[0].get_xdata(), [0.9, 0.5])
  band = axes.collections[0].get_paths()[0].vertices
  np.testing.assert_allclose(band[:, 0].max(), 0.9 + 2 * 0.03)


def test_matrices_are_those_of_the_summary():
  nothing = dict.fromkeys(
    field.name for field in dataclasses.fields(ri.InformationSummary)
  )
  matrix = np.array([[0.0, 3.0], [4.0, np.inf]])
  summary = ri.InformationSummary(**{**nothing, "cckl_matrix": matrix})
  figure = ri.plots.cckl_matrix({"a": summary, "b": matrix})
  for axes in figure.axes[:2]:
    [image] = axes.get_images()
    np.testing.assert_array_equal(
      image.get_array().filled(-1), [[0, 3], [4, -1]]
    )


def test_a_matrix_of_a_hundred_classes_is_legible():
  names = [f"a class with a long name, number {i}" for i in range(100)]
  figure = ri.plots.cckl_matrix(np.eye(100), label_names=names)
  assert "90" in written(figure)
  figure_checks.assert_legible(figure)


def test_long_names_of_runs_and_classes_keep_off_the_colour_bar():
  classes = ["MOTORCAR " * 2 + str(i) for i in range(8)]
  runs = {f"a NETWORK of a long name, NUMBER {i}": np.eye(8) for i in range(2)}
  figure = ri.plots.cckl_matrix(runs, label_names=classes)
  written(figure)
  figure_checks.assert_legible(figure)
  *maps, bar = figure.axes
  edge = bar.get_window_extent().x0
  for axes in maps:
    for text in (axes.title, axes._left_title, axes._right_title):
      assert not text.get_text() or text.get_window_extent().x1 < edge


REFUSED = [
  (ri.plots.components, [], {}, ValueError, "local, path or epsilon, got no"),
  (ri.plots.components, [lens([1.0], [1.0])], {}, TypeError, "pass lenses as"),
  (ri.plots.components, [], {"local": ball()}, TypeError, "got EpsilonLens"),
  (ri.plots.components, [], {"epsilon": 1.0}, TypeError, "pass the result of"),
  (ri.plots.components, [], {"path": lens([], [])}, ValueError, "one pair"),
  (ri.plots.components, [], {"local": {}}, ValueError, "one network, got none"),
  (
    ri.plots.components,
    [],
    {"local": {"a": lens(1, 1)}, "path": {"b": lens(1, 1)}},
    ValueError,
    r"path of the networks of local, \['a'\]",
  ),
  (ri.plots.training_curves, [[]], {}, ValueError, "rows of validation"),
  (ri.plots.training_curves, [[{"cckl": 1}]], {}, ValueError, "epoch or a st"),
  (ri.plots.training_curves, [{"a": [1.0]}], {}, TypeError, r"runs\['a'\] to"),
  (ri.plots.training_curves, ["gone"], {}, FileNotFoundError, "holds none"),
  (ri.plots.robustness_curve, [0.5], {}, TypeError, "dictionary by radius"),
  (ri.plots.robustness_curve, [{-0.1: 0.5}], {}, ValueError, "radii >= 0"),
  (ri.plots.robustness_curve, [{0.1: 50}], {}, ValueError, r"in \[0, 1\], got"),
  (ri.plots.robustness_curve, [{0.1: "50"}], {}, TypeError, "result of an att"),
  (
    ri.plots.robustness_curve,
    [{0.1: attacked([True]), 0.2: attacked([True, True])}],
    {},
    ValueError,
    "same examples at every radius, got 1 and 2",
  ),
  (ri.plots.attack_strength, [ball()], {}, TypeError, "EnsembleResult or"),
  (
    ri.plots.attack_strength,
    [{"a": ensemble(1, 0.5), "b": ensemble(1, 0.5, 0.4)}],
    {},
    ValueError,
    r"found\['b'\] with the attacks of",
  ),
  (ri.plots.cckl_matrix, [np.ones((2, 3))], {}, ValueError, r"shape \[C, C\]"),
  (ri.plots.cckl_matrix, ["x"], {}, TypeError, "array of numbers, got str"),
  (
    ri.plots.cckl_matrix,
    [{"a": np.ones((2, 2)), "b": np.ones((3, 3))}],
    {},
    ValueError,
    "one number of classes",
  ),
  (
    ri.plots.cckl_matrix,
    [np.ones((2, 2))],
    {"label_names": ["a"]},
    ValueError,
    "2 label_names",
  ),
]


@pytest.mark.parametrize(("draw", "given", "named", "kind", "message"), REFUSED)
def test_a_misuse_is_refused_in_one_line(draw, given, named, kind, message):
  with pytest.raises(kind, match=message) as error:
    draw(*given, **named)
  assert str(error.value).startswith("Expected ")
  assert "\n" not in str(error.value)


def test_matplotlib_is_imported_at_the_first_figure_without_pyplot(tmp_path):
  code = """if True:
    import sys
    import robust_info as ri
    assert "matplotlib" not in sys.modules
    sys.modules["matplotlib"] = None  # As if it was not installed.
    try:
      ri.plots.cckl_matrix([[1.0]])
    except ImportError as error:
      print(error)
    del sys.modules["matplotlib"]
    rows = [{"step": 1, "cckl": 2.0}]
    ri.plots.training_curves(rows).savefig(sys.argv[1])
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"flax", "optax", "orbax", "tensorboardX", "sklearn"}
    assert "matplotlib.pyplot" not in sys.modules
    """
  found = subprocess.run(
    [sys.executable, "-c", code, tmp_path / "figure.png"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0, found.stderr
  line, *others = found.stdout.splitlines()
  assert not others
  assert line.startswith("Expected matplotlib to be installed, got ")
  assert line.endswith("; run pip install 'robust-info[plots]'.")


@pytest.mark.parametrize(
  ("names", "expected"),
  [
    (["cat", "automobile", "cat"], ["cat", "auto…bile", "cat"]),
    # They differ in the middle.
    (
      [f"class number {i} of a hundred" for i in (3, 12, 13)],
      ["…r 3 of …", "…r 12 of…", "…r 13 of…"],
    ),
    (["run-lr0.1-seed-0", "run-lr0.01-seed-0"], ["…0.1-see…", "…0.01-se…"]),
    # In two places far from each other, and one that looks shortened.
    (
      [f"{a} of a long name {b} of it" for a in "xy" for b in "pq"],
      ["x …it (0)", "x …it (1)", "y …it (2)", "y …it (3)"],
    ),
    (["a$" * 9, "a$" * 9], [r"a\$a\$…a\$a\$"] * 2),
  ],
)
def test_different_names_stay_different_when_they_are_cut(names, expected):
  shown = style.shorten_all(names, 9)
  assert len(set(shown)) == len(set(names))
  assert max(len(text.replace("\\", "")) for text in shown) <= 9
  assert shown == expected


def test_figure_that_cannot_be_written_leaves_the_former_one(
  tmp_path, monkeypatch
):
  path = tmp_path / "a.png"
  path.write_text("before")

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with (
    style.figure(style.LIGHT, width=1, height=1) as figure,
    pytest.raises(OSError, match=f"No space left on device: '{path}'"),
  ):
    style.save(figure, path)
  assert path.read_text() == "before"
  assert os.listdir(tmp_path) == ["a.png"]
