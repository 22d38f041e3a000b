"""Figures of a report: written, legible at extremes, true to the numbers."""

import functools
import math

import figure_checks
import matplotlib
import matplotlib.colors
import matplotlib.patches
import numpy as np
import page_report
import pytest

from robust_info.plots.drawing import style
from robust_info.report import figures

NAMES = [f"{word} {i}" for i, word in enumerate(figure_checks.WORDS)]
# Local lenses, the ends of their bars, and their caption.
STACKED = [
  ((14.0, 0.6), [(0, 14), (14, 14.6)], "14.6 = 96 % + 4.1 %"),
  ((-5.0, 15.0), [(-5, 0), (0, 15)], "10 = \N{MINUS SIGN}50 % + 150 %"),
  ((12.0, -2.0), [(0, 12), (-2, 0)], "10 = 120 % \N{MINUS SIGN} 20 %"),
  (
    (-1.0, -2.0),
    [(-1, 0), (-3, -1)],
    "\N{MINUS SIGN}3 = \N{MINUS SIGN}1 \N{MINUS SIGN} 2",
  ),
  ((0.0, 4.0), [(0, 0), (0, 4)], "4 = 0.0 % + 100 %"),
  ((0.0, 0.0), [(0, 0), (0, 0)], "0 = 0 + 0"),
]

EXTREMES = {
  "one": [figure_checks.make_run("standard")],
  "one negative epoch": [
    figure_checks.make_run("x", epochs=1, local=(-1.0, -2.0))
  ],
  "two": [
    figure_checks.make_run("standard"),
    figure_checks.make_run("pgd", level=3.0),
  ],
  "four with long names": [
    figure_checks.make_run(figure_checks.LONG.format(i)) for i in range(4)
  ],
  "five": [
    figure_checks.make_run(f"objective {i}", level=i / 4) for i in range(5)
  ],
  "nine": [
    figure_checks.make_run(f"objective {i}", level=i / 4) for i in range(9)
  ],
  "hundred classes": [
    figure_checks.make_run(str(i), num_classes=100) for i in range(2)
  ],
  "thirty classes": [figure_checks.make_run("x", num_classes=30)],
  "two classes": [figure_checks.make_run("x", num_classes=2)],
  "holes": [figure_checks.with_holes(), figure_checks.make_run("whole")],
  "nothing but holes": [figure_checks.with_holes()],
  "bare": [figure_checks.bare()],
  "huge": [
    figure_checks.make_run("x", local=(-4e7, 4.1e7)),
    figure_checks.make_run("y"),
  ],
  "both negative": [figure_checks.make_run("x", local=(-1.0, -2.0))],
  "stacked": [figure_checks.make_run("x", local=row[0]) for row in STACKED],
}
# Extremes that a kind of figure does not depend on are left out: for example,
# curves do not depend on classes.
REPORT_FIGURES = {
  figures.training_curves: [
    "one negative epoch",
    "four with long names",
    "nine",
    "holes",
    "nothing but holes",
    "bare",
    "huge",
  ],
  figures.robust_accuracy: [
    "one",
    "four with long names",
    "nine",
    "hundred classes",
    "two classes",
    "holes",
    "nothing but holes",
    "bare",
  ],
  figures.components: [
    "one",
    "four with long names",
    "nine",
    "holes",
    "nothing but holes",
    "bare",
    "huge",
    "both negative",
    "stacked",
  ],
  figures.cckl_matrices: [
    "one",
    "two",
    "four with long names",
    "five",
    "hundred classes",
    "thirty classes",
    "two classes",
    "nothing but holes",
  ],
  figures.strength: [
    "one",
    "four with long names",
    "nine",
    "holes",
    "nothing but holes",
    "bare",
  ],
}


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were written."""
  return figure_checks.record(monkeypatch)


@pytest.fixture(scope="module")
def figure_of(tmp_path_factory):
  """Writes the figure of an extreme once; returns its path and the figure."""

  @functools.cache
  def write(draw, name):
    # Long names of runs are tested together with long names of classes.
    report = figure_checks.make_report(
      EXTREMES[name], NAMES if "names" in name else None
    )
    path = tmp_path_factory.mktemp("figures") / "new" / "figure.png"
    settings = {"axes.grid": False, "figure.dpi": 71}
    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context(settings):
      written = figure_checks.record(patch)
      before = dict(matplotlib.rcParams)
      assert draw(report, path) == path
      # The settings of the caller are left alone.
      assert dict(matplotlib.rcParams) == before
    return path, written[0]

  return write


@pytest.mark.parametrize(
  ("draw", "name"),
  [(draw, name) for draw, names in REPORT_FIGURES.items() for name in names],
)
def test_extremes_are_written_and_legible(draw, name, figure_of):
  path, figure = figure_of(draw, name)
  figure_checks.assert_png(path)
  figure_checks.assert_legible(figure)


def test_long_label_names_are_shown(figure_of):
  _, figure = figure_of(figures.cckl_matrices, "four with long names")
  shown = {text.get_text() for text in figure_checks.texts_of(figure)}
  assert set(NAMES) <= shown


def test_examples_of_every_run_are_written(tmp_path):
  path = figures.examples(
    page_report.make_examples(2, (8, 8, 1)),
    tmp_path / "new" / "examples.png",
    label_names=figure_checks.WORDS,
    run_names=["standard", "pgd"],
  )
  figure_checks.assert_png(path)


def test_an_unwritable_path_leaves_settings_alone(tmp_path):
  (tmp_path / "file").write_text("")
  before = dict(matplotlib.rcParams)
  with pytest.raises(OSError, match="file"):
    figures.components(
      figure_checks.make_report([figure_checks.make_run("x")]),
      tmp_path / "file" / "figure.png",
    )
  assert dict(matplotlib.rcParams) == before


def test_runs_keep_their_colour_in_every_figure(figure_of):
  for draw in (figures.training_curves, figures.robust_accuracy):
    for axes in figure_of(draw, "nine")[1].axes:
      colours = {line.get_color() for line in axes.get_lines()}
      assert {style.LIGHT.colour(run) for run in range(9)} <= colours
  for axes in figure_of(figures.components, "nine")[1].axes:
    edges = [
      matplotlib.colors.to_hex(bar.get_edgecolor()).upper()
      for bar in bars(axes)
    ]
    assert edges == [
      style.LIGHT.colour(run).upper() for run in range(9) for _ in range(2)
    ]


def test_runs_beyond_the_palette_differ_by_their_mark():
  looks = {(style.LIGHT.colour(run), style.marker(run)) for run in range(20)}
  assert len(looks) == 20


def test_there_are_curves_only_of_what_was_trained(tmp_path):
  run = figure_checks.make_run("x")
  report = figure_checks.make_report([run | {"curves": []}])
  assert "training_curves" not in figures.of_report(report)
  (tmp_path / "training_curves.png").touch()
  figures.remove_others(report, tmp_path)
  assert not [*tmp_path.iterdir()]
  both = figure_checks.make_report([run | {"curves": []}, run])
  assert "training_curves" in figures.of_report(both)


def test_missing_values_leave_gaps(figure_of):
  _, figure = figure_of(figures.training_curves, "nothing but holes")
  by_title = {axes.get_title(loc="left"): axes for axes in figure.axes}
  values = by_title["CCKL (nats)"].get_lines()[0].get_ydata()
  np.testing.assert_array_equal(np.isnan(values), [*[0] * 4, 1, 1, 1, *[0] * 5])
  fisher = by_title["Fisher norm (nats / input²)"]
  values = fisher.get_lines()[0].get_ydata()
  # A logarithmic scale cannot show zero.
  assert list(np.flatnonzero(np.isnan(values))) == [0, 4, 5, 6]
  assert fisher.get_yscale() == "log"
  shown = [t.get_text() for t in by_title["Information (nats)"].texts]
  assert "not recorded" in shown


def test_robust_accuracy_is_drawn_in_order_with_its_band(figure_of):
  [axes] = figure_of(figures.robust_accuracy, "one")[1].axes
  epsilon, accuracy = axes.get_lines()[0].get_data()
  np.testing.assert_allclose(epsilon, [0, 0.1, 0.2, 0.3])
  np.testing.assert_allclose(accuracy, np.exp(-5 * epsilon))
  band = axes.collections[0].get_paths()[0].vertices
  np.testing.assert_allclose(band[:, 1].max(), 1.0)  # Not above one.
  np.testing.assert_allclose(band[:, 1].min(), math.exp(-1.5) - 0.04)
  assert axes.get_lines()[1].get_ydata()[0] == 0.1  # Chance.


def test_attacks_and_norms_get_panels_of_their_own(tmp_path, drawn):
  run = figure_checks.make_run("x")
  others = [
    point | {"attack": attack, "norm": norm}
    for attack, norm in (("pgd", "l2"), ("fgsm", "linf"), ("apgd", "l2"))
    for point in run["robust_accuracy"]
  ]
  run["robust_accuracy"] = run["robust_accuracy"] + others
  figures.robust_accuracy(figure_checks.make_report([run]), tmp_path / "f.png")
  assert sum(axes.axison for axes in drawn[0].axes) == 4
  figure_checks.assert_legible(drawn[0])


def bars(axes):
  return [
    patch
    for patch in axes.patches
    if isinstance(patch, matplotlib.patches.Rectangle)
  ]


def spans(axes):
  """The ends of each bar, robust and non-robust in turn."""
  return [
    tuple(sorted((bar.get_x(), bar.get_x() + bar.get_width())))
    for bar in bars(axes)
  ]


def test_bars_are_stacked_away_from_zero(figure_of):
  axes = figure_of(figures.components, "stacked")[1].axes[0]
  ends = [end for _, expected, _ in STACKED for end in expected]
  np.testing.assert_allclose(spans(axes), ends, atol=1e-12)
  captions = [text.get_text() for text in axes.texts]
  totals = [
    line.get_xdata()[0]
    for line in axes.get_lines()
    if len(set(line.get_xdata())) == 1
  ]
  for parts, _, caption in STACKED:
    assert caption in captions
    assert sum(parts) in totals


def test_the_non_robust_part_is_hatched_and_the_robust_one_is_not(figure_of):
  for axes in figure_of(figures.components, "one")[1].axes:
    robust, non_robust = bars(axes)
    assert robust.get_hatch() is None
    assert non_robust.get_hatch()


def test_a_bar_that_is_not_a_number_says_so(figure_of):
  _, figure = figure_of(figures.components, "nothing but holes")
  _, path, epsilon = figure.axes
  for axes in (path, epsilon):
    assert bars(axes) == []
    assert "not a number" in [text.get_text() for text in axes.texts]


def test_lenses_share_a_scale_unless_it_would_flatten_one(
  tmp_path, drawn, figure_of
):
  _, alike = figure_of(figures.components, "one")
  assert len({axes.get_xlim() for axes in alike.axes}) == 1
  run = figure_checks.make_run("x", local=(-400.0, 415.0))
  figures.components(figure_checks.make_report([run]), tmp_path / "f.png")
  assert len({axes.get_xlim() for axes in drawn[0].axes}) > 1


def heat_maps(figure):
  return [
    image
    for axes in figure.axes
    for image in axes.get_images()
    if image.get_array().ndim == 2
  ]


def test_matrices_share_one_scale_and_outline_the_diagonal(figure_of):
  images = heat_maps(figure_of(figures.cckl_matrices, "two")[1])
  assert [image.get_clim() for image in images] == [(0.0, 48.0)] * 2
  for image, run in zip(images, EXTREMES["two"], strict=True):
    np.testing.assert_array_equal(image.get_array(), run["cckl_matrix"])
    [outlines] = image.axes.collections
    centres = [p.vertices[:4].mean(0).tolist() for p in outlines.get_paths()]
    assert centres == [[i, i] for i in range(10)]


def test_entries_that_are_not_numbers_are_masked(figure_of):
  _, figure = figure_of(figures.cckl_matrices, "nothing but holes")
  [image] = heat_maps(figure)
  mask = np.ma.getmaskarray(image.get_array())
  assert mask.sum() == 11
  assert mask[0].all()
  assert mask[5, 5]
  notes = " ".join(text.get_text() for text in figure_checks.texts_of(figure))
  assert "grey: not a number" in notes


@pytest.mark.parametrize(
  ("name", "length", "expected"),
  [
    ("short", 5, "short"),
    ("a-long-name-1", 8, "a-lo…e-1"),
    ("two\nlines", 20, "two lines"),
    ("cost $3", 20, r"cost \$3"),
  ],
)
def test_names_are_shortened_in_the_middle(name, length, expected):
  assert style.shorten(name, length) == expected


def test_strengths_go_down_and_bounds_to_the_left(figure_of):
  [run] = EXTREMES["one"]
  axes = figure_of(figures.strength, "one")[1].axes
  names = [label.get_text() for label in axes[0].get_yticklabels()]
  assert names == [point["attack"] for point in run["strength_curve"]]
  assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]
  for panel, key in zip(
    axes, ("accuracy", "label_information", "cckl"), strict=True
  ):
    [line] = panel.lines
    expected = [point[key]["robust"] for point in run["strength_curve"]]
    np.testing.assert_allclose(line.get_xdata(), expected)
    np.testing.assert_array_equal(line.get_ydata(), range(5))
