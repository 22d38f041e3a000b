"""Images with their Fisher eigenvectors and adversarial examples."""

import dataclasses
from collections.abc import Iterator, Sequence

import matplotlib.axes
import matplotlib.figure
import numpy as np
from jaxtyping import Float

from robust_info.plots.drawing import style

_EIGENVECTOR = "top Fisher\neigenvector"
# In inches.
_CELL = 0.84
_GAP = 0.06
_LINE = 0.17  # Height of text below a picture.
_HEAD = 0.2  # Above a block: the true classes.
_NAME = 0.28  # Above the classes: the name of the run.
_MIN_WIDTH = 5.0  # Of text.
_MARGIN = 1.05  # Left of the blocks: the names of the rows.
# In letters: names of classes, and those with a probability beside them.
_LONGEST = 14
_SHORT = 8


@dataclasses.dataclass(frozen=True)
class Block:
  """The pictures of one run; `None` where there are none.

  Attributes:
    name: the name of the run.
    eigenvectors: top eigenvectors of the Fisher information of the input.
    attacked: attacked images.
    probabilities: predictions at the images.
    attacked_probabilities: predictions at the attacked images.
  """

  name: str
  eigenvectors: Float[np.ndarray, "N H W channels"] | None = None
  attacked: Float[np.ndarray, "N H W channels"] | None = None
  probabilities: Float[np.ndarray, "N C"] | None = None
  attacked_probabilities: Float[np.ndarray, "N C"] | None = None


def examples(
  images: np.ndarray,
  blocks: Sequence[Block],
  *,
  labels: Sequence[int] | None,
  label_names: Sequence[str],
  threat: str,
  theme: style.Theme,
) -> style.Figure:
  """One block per run, one column per image; see `plots.examples`.

  Args:
    images: float [N, H, W, 1 or 3] in [0, 1].
    blocks: the runs; all have the same pictures.
    labels: N true classes, or `None`.
    label_names: C names.
    threat: attack and ball as text.
    theme: the colours.
  """
  gain = _gain(images, blocks)
  rows = [_rows(images, block, gain) for block in blocks]
  tall = _CELL * images.shape[1] / images.shape[2]
  block_width = len(images) * (_CELL + _GAP)
  line = _LINE * (1.7 if _are_long(blocks, label_names) else 1)
  written = sum(found is not None for _, _, found in rows[0])
  above = _HEAD + (_NAME if any(block.name for block in blocks) else 0)
  block_height = above + len(rows[0]) * (tall + _GAP) + written * line
  across = min(len(blocks), 2)
  width = _MARGIN + across * block_width + (across - 1) * _LINE + _GAP
  names = [block.name for block in blocks]
  notes = [*_notes(threat, blocks, gain)]
  if notes or above > _HEAD:
    width = max(width, _MIN_WIDTH)
  height = -(-len(blocks) // across) * block_height + 2 * _LINE
  with style.figure(theme, width=width, height=height) as figure:
    figure.set_layout_engine("none")  # Every picture has a fixed position.
    for run in range(len(blocks)):
      left = _MARGIN + (run % across) * (block_width + _LINE)
      top = height - (run // across) * block_height
      room = width - left if across == 1 else block_width
      _text(
        figure,
        left,
        top - 0.2,
        style.shorten_all(names, int(room / 0.1))[run],
        color=theme.colour(run),
        fontweight="bold",
      )
      bottom = top - above
      for row, (head, batch, predictions) in enumerate(rows[run]):
        bottom -= tall
        if run % across == 0:
          _text(figure, _MARGIN - 0.1, bottom + tall / 2, head, ha="right")
        for column, pixels in enumerate(batch):
          axes = _place(
            figure, left + column * (_CELL + _GAP), bottom, _CELL, tall
          )
          draw = _diverging if head == _EIGENVECTOR else _picture
          draw(axes, pixels)
          label = None if labels is None else labels[column]
          if row == 0 and label is not None:
            _true_class(axes, style.shorten_all(label_names, _LONGEST)[label])
          if predictions is not None:
            _prediction(
              axes, predictions[column], label, label_names, long=line > _LINE
            )
        bottom -= _GAP + (line if predictions is not None else 0)
    _text(figure, _MARGIN, _LINE, "; ".join(notes), color=theme.quiet)
  return figure


def _notes(threat: str, blocks: Sequence[Block], gain: float) -> Iterator[str]:
  """The text below the pictures."""
  if threat.strip():
    yield style.literal(threat)
  if blocks[0].attacked is not None:
    yield f"perturbations magnified {gain:.3g} times"


def _are_long(blocks: Sequence[Block], label_names: Sequence[str]) -> bool:
  """Whether a predicted class has no room beside its probability."""
  predicted = [
    np.argmax(found, axis=-1)
    for block in blocks
    for found in (block.probabilities, block.attacked_probabilities)
    if found is not None
  ]
  return any(
    len(str(label_names[k])) > _SHORT for found in predicted for k in found
  )


def _gain(images: np.ndarray, blocks: Sequence[Block]) -> float:
  """The factor that makes the largest perturbation half the grey scale."""
  changes = [
    np.nanmax(np.abs(block.attacked - images), initial=0.0)
    for block in blocks
    if block.attacked is not None
  ]
  largest = max(changes, default=0.0)
  return 0.5 / largest if largest > 0 else 1.0


def _rows(images: np.ndarray, block: Block, gain: float) -> list[tuple]:
  """Names of the rows of a block, their pictures and predictions."""
  rows = [("image", images, block.probabilities)]
  if block.eigenvectors is not None:
    rows.append((_EIGENVECTOR, block.eigenvectors, None))
  if block.attacked is not None:
    change = 0.5 + gain * (block.attacked - images)
    rows.append(("perturbation", change, None))
    rows.append(("attacked", block.attacked, block.attacked_probabilities))
  return rows


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
  axes.spines[:].set_color(style.theme_of(axes).faint)
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


def _true_class(axes: matplotlib.axes.Axes, name: str) -> None:
  axes.set_title(name, fontsize=7, pad=2, color=style.theme_of(axes).quiet)


def _prediction(
  axes: matplotlib.axes.Axes,
  probabilities: np.ndarray,
  label: int | None,
  label_names: Sequence[str],
  *,
  long: bool,
) -> None:
  """Writes the predicted class and its probability, in two lines if `long`."""
  if not np.isfinite(probabilities).all():
    axes.set_xlabel("not a number", fontsize=7, labelpad=2)
    return
  theme = style.theme_of(axes)
  predicted = int(np.argmax(probabilities))
  wrong = label is not None and predicted != label
  # The mark of a wrong prediction takes the place of letters.
  room = (_LONGEST - 2 * wrong) if long else (_SHORT - wrong)
  name = style.shorten_all(label_names, room)[predicted]
  axes.set_xlabel(
    f"{'✗ ' if wrong else ''}{name}{chr(10) if long else ' '}"
    f"{probabilities[predicted]:.0%}",
    fontsize=7,
    labelpad=2,
    color=theme.alarm if wrong else theme.ink,
  )
