"""Reports to draw, and requirements that every figure must meet."""

import itertools
import math

import matplotlib.text
import numpy as np
import PIL.Image

from robust_info.plots.drawing import style

NAN = math.nan
LONG = "linear, standard training, softplus, cost $3 and $4, seed {}"
WORDS = ["airplane", "automobile", "bird", "cat", "deer"] * 2


def make_lens(robust, non_robust):
  def statistics(mean):
    return {"mean": mean, "standard_error": 0.1, "median": mean}

  return {
    "num_pairs": 100,
    "total": statistics(robust + non_robust),
    "robust": statistics(robust),
    "non_robust": statistics(non_robust),
    "non_robust_share": NAN,
  }


def make_run(
  name,
  *,
  num_classes=10,
  local=(14.0, 0.6),
  path=(-5.1, 19.7),
  epsilon=(8.8, 5.8),
  epochs=12,
  level=1.0,
):
  matrix = np.arange(num_classes**2, dtype=float).reshape(num_classes, -1)
  return {
    "name": name,
    "cckl_matrix": (level * (matrix % 17)).tolist(),
    "local_lens": make_lens(*local),
    "path_lens": make_lens(*path),
    "epsilon_lens": {
      "attack": "kl_pgd",
      "norm": "linf",
      "epsilon": 0.1,
      "cckl": {
        "total": sum(epsilon),
        "robust": epsilon[0],
        "non_robust": epsilon[1],
      },
    },
    "robust_accuracy": [
      {
        "attack": "pgd",
        "norm": "linf",
        "epsilon": e,
        "accuracy": math.exp(-5 * level * e),
        "standard_error": 0.02,
      }
      for e in (0.3, 0.0, 0.1, 0.2)
    ],
    "strength_curve": [
      {
        "attack": attack,
        "norm": "linf",
        "epsilon": 0.1,
        **{
          name: {
            "robust": total * level * left,
            "standard_errors": {"robust": 0.03 * total},
          }
          for name, total in (
            ("accuracy", 0.98 / max(level, 1)),
            ("label_information", 2.2),
            ("cckl", sum(epsilon)),
          )
        },
      }
      for attack, left in (
        ("none", 1.0),
        ("PGD-1", 0.7),
        ("PGD-20x10", 0.5),
        ("APGD-CE+T", 0.45),
        ("AutoAttack standard", 0.4),
      )
    ],
    "curves": [
      {
        "step": 100 * epoch,
        "epoch": float(epoch),
        "accuracy": 0.98,
        "robust_accuracy": 0.5 * level,
        "cckl": 14.0 * level,
        "mutual_information": 2.2,
        "label_information": 2.1,
        "fisher_frobenius": 0.3 * level / epoch,
        "local_non_robust": local[1],
        "local_robust": local[0],
        "path_non_robust": path[1],
        "path_robust": path[0],
      }
      for epoch in range(1, epochs + 1)
    ],
  }


def make_report(runs, label_names=None):
  num_classes = len(runs[0]["cckl_matrix"])
  names = label_names or [str(i) for i in range(num_classes)]
  return {
    "schema": 1,
    "data": {"num_classes": num_classes, "label_names": names},
    "runs": runs,
  }


def with_holes():
  """A run with every kind of number missing somewhere, as null and as NaN."""
  run = make_run("holes", path=(NAN, 3.0))
  run["cckl_matrix"][0] = [None] * 10
  run["cckl_matrix"][5][5] = NAN
  run["epsilon_lens"]["cckl"]["robust"] = None
  for row in run["curves"][4:7]:
    row["cckl"] = None
    row["fisher_frobenius"] = NAN
  for row in run["curves"]:
    row["mutual_information"] = row["label_information"] = None
  run["curves"][0]["fisher_frobenius"] = 0.0
  run["strength_curve"][2]["cckl"]["robust"] = None
  run["strength_curve"][0]["accuracy"]["standard_errors"]["robust"] = NAN
  for point in run["strength_curve"]:
    point["label_information"]["robust"] = NAN
  run["robust_accuracy"][0]["accuracy"] = None
  run["robust_accuracy"][1]["standard_error"] = NAN
  return run


def bare():
  """A run without curves and without attacks, and with zero divergence."""
  run = make_run("bare", local=(0.0, 0.0), path=(0.0, 0.0), epsilon=(0.0, 0.0))
  return run | {"curves": [], "robust_accuracy": [], "strength_curve": []}


def record(monkeypatch):
  """A list to which every figure is added when it is written."""
  written = []

  class Canvas(style.backend_agg.FigureCanvasAgg):
    def print_figure(self, *args, **kwargs):
      written.append(self.figure)
      return super().print_figure(*args, **kwargs)

  monkeypatch.setattr(style.backend_agg, "FigureCanvasAgg", Canvas)
  return written


def texts_of(figure):
  return [
    text
    for text in figure.findobj(matplotlib.text.Text)
    if text.get_visible() and text.get_text().strip()
  ]


def assert_legible(figure):
  """No text extends beyond the figure, and no two texts overlap."""
  renderer = figure.canvas.get_renderer()
  hidden = {
    id(label)
    for axes in figure.axes
    for axis in (axes.xaxis, axes.yaxis)
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
    for label in (tick.label1, tick.label2)
    if not axes.axison
    or not min(axis.get_view_interval())
    <= tick.get_loc()
    <= max(axis.get_view_interval())
  }
  boxes = [
    (text.get_text(), text.get_window_extent(renderer))
    for text in texts_of(figure)
    if id(text) not in hidden
  ]
  width, height = figure.bbox.width, figure.bbox.height
  for text, box in boxes:
    inside = box.x0 > -2 and box.y0 > -2
    inside &= box.x1 < width + 2 and box.y1 < height + 2
    assert inside, f"{text!r} leaves the figure: {box}"
  for (text, box), (other_text, other) in itertools.combinations(boxes, 2):
    across = min(box.x1, other.x1) - max(box.x0, other.x0)
    up = min(box.y1, other.y1) - max(box.y0, other.y0)
    assert across < 2 or up < 2, f"{text!r} overlaps {other_text!r}"


def assert_png(path):
  """A PNG file of 150 dpi that is not blank."""
  with PIL.Image.open(path) as image:
    assert image.format == "PNG"
    assert round(image.info["dpi"][0]) == 150
    assert image.convert("L").getextrema() != (255, 255)
