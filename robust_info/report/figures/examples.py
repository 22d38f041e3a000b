"""Images with their Fisher eigenvectors and adversarial examples."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np

from robust_info.report.figures import style

_ROWS = (
  "image",
  "top Fisher\neigenvector",
  "perturbation",
  "attacked",
)
# In inches.
_CELL = 0.84
_GAP = 0.06
_LINE = 0.17  # Height of text below a picture.
_HEAD = 0.48  # Above a block: the name of the run and the true classes.
_MIN_WIDTH = 5.0
_MARGIN = 1.05  # Left of the blocks: the names of the rows.


def examples(
  images: np.ndarray,
  eigenvectors: np.ndarray,
  adversarial: np.ndarray,
  probabilities: np.ndarray,
  adversarial_probabilities: np.ndarray,
  path: str | os.PathLike,
  *,
  labels: Sequence[int],
  label_names: Sequence[str],
  run_names: Sequence[str],
  threat: str,
) -> pathlib.Path:
  """Draws images, their top Fisher eigenvectors and adversarial examples.

  One block per run, one column per example with its true class above; two
  blocks next to each other. Rows: the image with the predicted class and its
  probability; the top eigenvector of the input Fisher information, blue below
  zero and red above, each scaled to its own largest magnitude (its sign is
  arbitrary; for colour images the channels are summed); the perturbation, grey
  where it is zero, magnified by a factor given in the figure; and the attacked
  image with its prediction. Wrong predictions are red and marked with a cross.

  Args:
    images: float [N, H, W, 1 or 3] in [0, 1], clean images.
    eigenvectors: float [R, N, H, W, channels], one eigenvector per image for
      each of R runs.
    adversarial: float [R, N, H, W, channels], attacked images.
    probabilities: float [R, N, C], predictions at the clean images.
    adversarial_probabilities: float [R, N, C], predictions at the attacked
      images.
    path: path of the PNG file; missing directories are created.
    labels: N true classes.
    label_names: C names.
    run_names: R names, in the order of the report.
    threat: attack and threat model as text, for example "PGD-20, linf 0.1".

  Returns:
    The path.

  Raises:
    ValueError: shapes do not match, or the number of channels is not 1 or 3.
  """
  images = np.asarray(images, np.float64)
  num_runs, num_examples = len(run_names), len(images)
  _check(
    images,
    num_runs,
    len(label_names),
    eigenvectors=eigenvectors,
    adversarial=adversarial,
    probabilities=probabilities,
    adversarial_probabilities=adversarial_probabilities,
    labels=labels,
  )
  eigenvectors = np.asarray(eigenvectors, np.float64)
  adversarial = np.asarray(adversarial, np.float64)
  perturbation = adversarial - images
  largest = np.nanmax(np.abs(perturbation), initial=0.0)
  gain = 0.5 / largest if largest > 0 else 1.0

  predictions = (probabilities, None, None, adversarial_probabilities)

  tall = _CELL * images.shape[1] / images.shape[2]
  block_width = num_examples * (_CELL + _GAP)
  block_height = _HEAD + len(_ROWS) * (tall + _GAP) + 2 * _LINE
  across = min(num_runs, 2)
  width = _MARGIN + across * block_width + (across - 1) * _LINE + _GAP
  width = max(width, _MIN_WIDTH)
  height = -(-num_runs // across) * block_height + 2 * _LINE
  with style.figure(path, width=width, height=height) as figure:
    figure.set_layout_engine("none")  # Every picture has a fixed position.
    for run in range(num_runs):
      left = _MARGIN + (run % across) * (block_width + _LINE)
      top = height - (run // across) * block_height
      room = width - left if across == 1 else block_width
      name = style.shorten(run_names[run], int(room / 0.1))
      _text(
        figure,
        left,
        top - 0.2,
        name,
        color=style.colour(run),
        fontweight="bold",
      )
      pictures = (
        images,
        eigenvectors[run],
        0.5 + gain * perturbation[run],
        adversarial[run],
      )
      bottom = top - _HEAD
      for row, (head, batch) in enumerate(zip(_ROWS, pictures, strict=True)):
        bottom -= tall
        if run % across == 0:
          _text(figure, _MARGIN - 0.1, bottom + tall / 2, head, ha="right")
        for column in range(num_examples):
          axes = _place(
            figure, left + column * (_CELL + _GAP), bottom, _CELL, tall
          )
          draw = _diverging if row == 1 else _picture
          draw(axes, batch[column])
          if row == 0:
            label_name = style.shorten(label_names[labels[column]], 12)
            axes.set_title(label_name, fontsize=7, pad=2, color=style.QUIET)
          if predictions[row] is not None:
            p = np.asarray(predictions[row][run][column])
            _prediction(axes, p, labels[column], label_names)
        bottom -= _GAP + (_LINE if predictions[row] is not None else 0)
    _text(
      figure,
      _MARGIN,
      _LINE,
      f"{style.literal(threat)}; perturbations magnified {gain:.3g} times",
      color=style.QUIET,
    )
  return pathlib.Path(path)


def _check(
  images: np.ndarray, num_runs: int, num_classes: int, **arrays: Any
) -> None:
  """Requires shapes that go together."""
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(
      f"Expected images of shape [N, H, W, 1 or 3], got shape {images.shape}."
    )
  predicted = (num_runs, len(images), num_classes)
  for name, expected in (
    ("eigenvectors", (num_runs, *images.shape)),
    ("adversarial", (num_runs, *images.shape)),
    ("probabilities", predicted),
    ("adversarial_probabilities", predicted),
    ("labels", (len(images),)),
  ):
    found = np.shape(arrays[name])
    if found != expected:
      raise ValueError(
        f"Expected {name} of shape {expected}, got shape {found}."
      )


def _place(
  figure: matplotlib.figure.Figure,
  left: float,
  bottom: float,
  width: float,
  height: float,
) -> matplotlib.axes.Axes:
  """Adds empty axes at a position in inches."""
  across, up = figure.get_size_inches()
  axes = figure.add_axes(
    (left / across, bottom / up, width / across, height / up)
  )
  axes.set_xticks([])
  axes.set_yticks([])
  axes.spines[:].set_visible(True)
  axes.spines[:].set_color(style.FAINT)
  return axes


def _text(
  figure: matplotlib.figure.Figure, left: float, middle: float, text: str, **kw
) -> None:
  """Adds text at a position in inches."""
  across, up = figure.get_size_inches()
  figure.text(left / across, middle / up, text, va="center", **kw)


def _diverging(axes: matplotlib.axes.Axes, pixels: np.ndarray) -> None:
  flat = pixels.sum(-1)
  bound = np.nanmax(np.abs(flat), initial=0.0) or 1.0
  axes.imshow(
    np.ma.masked_invalid(flat),
    cmap="RdBu_r",
    vmin=-bound,
    vmax=bound,
    interpolation="nearest",
    aspect="auto",
  )


def _picture(axes: matplotlib.axes.Axes, pixels: np.ndarray) -> None:
  pixels = np.clip(np.nan_to_num(pixels, nan=0.5), 0, 1)
  axes.imshow(
    np.broadcast_to(pixels, (*pixels.shape[:2], 3)),
    interpolation="nearest",
    aspect="auto",
  )


def _prediction(
  axes: matplotlib.axes.Axes,
  probabilities: np.ndarray,
  label: int,
  label_names: Sequence[str],
) -> None:
  if not np.isfinite(probabilities).all():
    axes.set_xlabel("not a number", fontsize=7, labelpad=2)
    return
  predicted = int(np.argmax(probabilities))
  wrong = predicted != label
  name = style.shorten(label_names[predicted], 8)
  axes.set_xlabel(
    f"{'✗ ' if wrong else ''}{name} {probabilities[predicted]:.0%}",
    fontsize=7,
    labelpad=2,
    color=style.ALARM if wrong else style.INK,
  )
