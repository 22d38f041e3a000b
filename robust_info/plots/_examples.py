"""Images with their Fisher eigenvectors and adversarial examples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Integer, Real

from robust_info import attacks
from robust_info.plots import arguments

if TYPE_CHECKING:
  import matplotlib.figure

_MOST = 32
_Images = Real[ArrayLike, "N H W *channels"]
_Vectors = Real[ArrayLike, "N *shape"]
_Probabilities = Float[ArrayLike, "N C"]


def examples(
  images: _Images,
  eigenvectors: _Vectors | Mapping[str, _Vectors] | None = None,
  attacked: _Vectors
  | attacks.AttackResult
  | Mapping[str, _Vectors | attacks.AttackResult]
  | None = None,
  *,
  probabilities: _Probabilities | Mapping[str, _Probabilities] | None = None,
  attacked_probabilities: _Probabilities
  | Mapping[str, _Probabilities]
  | None = None,
  labels: Integer[ArrayLike, " N"] | None = None,
  label_names: Sequence[str] | None = None,
  threat: str = "",
  theme: str = "light",
) -> "matplotlib.figure.Figure":
  """Draws images, their top Fisher eigenvectors and adversarial examples.

  One block per network, one column per image with its true class above; two
  blocks next to each other. Rows: the image with the predicted class and its
  probability; the top eigenvector of the input Fisher information, blue below
  zero and red above, each scaled to its own largest magnitude (its sign is
  arbitrary; for colour images the channels are summed); the perturbation, grey
  where it is zero, magnified by a factor given in the figure; and the attacked
  image with its prediction. Wrong predictions are red and marked with a cross.
  Rows without arrays are left out.

  `eigenvectors`, `attacked` and the two kinds of probabilities are of one
  network, or dictionaries by name, with the same names.

  Args:
    images: [N, H, W], or [N, H, W, 1 or 3], in [0, 1]; at most 32.
    eigenvectors: vectors of `fisher_eigenvectors` at the images, in their
      shape, or [N, k, ...], of which the first are shown.
    attacked: attacked images, in the shape of `images`, or the result of an
      attack, which has its predictions as well.
    probabilities: [N, C] predictions at the images.
    attacked_probabilities: [N, C] predictions at the attacked images.
    labels: [N] true classes.
    label_names: C names of classes; by default their numbers.
    threat: see the module docstring.
    theme: see the module docstring.

  Returns:
    The figure.

  Raises:
    ValueError: shapes or networks do not go together, images lie outside [0,
      1], probabilities are none, or there are no or too many images.
    TypeError: not numbers.
    ImportError: matplotlib is not installed.
  """
  colours = arguments.theme(theme)
  shape, pictures = _pictures(images)
  blocks = _blocks(
    {
      "eigenvectors": eigenvectors,
      "attacked": attacked,
      "probabilities": probabilities,
      "attacked_probabilities": attacked_probabilities,
    },
    shape,
    pictures.shape,
  )
  predicted = [
    array.shape[1]
    for block in blocks
    for array in (block.probabilities, block.attacked_probabilities)
    if array is not None
  ]
  label_names = _label_names(label_names, labels, len(pictures), predicted)
  return arguments.drawing("pictures").examples(
    pictures,
    blocks,
    labels=None if labels is None else np.asarray(labels).tolist(),
    label_names=label_names,
    threat=threat,
    theme=colours,
  )


def _pictures(images: Any) -> tuple[tuple[int, ...], np.ndarray]:
  """The shape of the images, and the images [N, H, W, 1 or 3]."""
  found = arguments.array("images", images)
  pictures = found[..., None] if found.ndim == 3 else found
  if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3):
    raise ValueError(
      "Expected images of shape [N, H, W] or [N, H, W, 1 or 3], got shape "
      f"{found.shape}; reshape them."
    )
  if not 1 <= len(pictures) <= _MOST or not pictures.size:
    raise ValueError(
      f"Expected 1 to {_MOST} images, got shape {found.shape}; pass some of "
      "them."
    )
  with np.errstate(invalid="ignore"):
    if (pictures < -1e-3).any() or (pictures > 1 + 1e-3).any():
      raise ValueError(
        "Expected images in [0, 1], got values from "
        f"{np.nanmin(pictures):.3g} to {np.nanmax(pictures):.3g}; divide bytes "
        "by 255."
      )
  return found.shape, pictures


def _blocks(
  given: Mapping[str, Any], shape: tuple[int, ...], drawn: tuple[int, ...]
) -> list[Any]:
  """The pictures of every network, from arrays in the shape of the images."""
  networks = {
    argument: arguments.by_network(argument, value)
    for argument, value in given.items()
    if value is not None
  }
  first, names = next(
    ((argument, [*found]) for argument, found in networks.items()), ("", [""])
  )
  for argument, found in networks.items():
    arguments.same_networks(argument, found, first, names)
  block = arguments.drawing("pictures").Block
  return [
    block(
      name,
      **_arrays(
        {argument: found[name] for argument, found in networks.items()},
        name,
        shape,
        drawn,
      ),
    )
    for name in names
  ]


def _arrays(
  given: Mapping[str, Any],
  name: str,
  shape: tuple[int, ...],
  drawn: tuple[int, ...],
) -> dict[str, np.ndarray]:
  """The arrays of a network in the shape in which they are drawn."""
  found = {}
  result = given.get("attacked")
  if isinstance(result, attacks.AttackResult):
    given = {**given, "attacked": result.x_adv}
    if "attacked_probabilities" not in given:
      found["attacked_probabilities"] = _softmax(np.asarray(result.logits))
  for argument, value in given.items():
    title = arguments.of_network(argument, name)
    array = arguments.array(title, value)
    if argument.endswith("probabilities"):
      found[argument] = _probabilities(title, array, shape[0])
      continue
    if argument == "eigenvectors" and array.ndim == len(shape) + 1:
      array = array[:, 0]
    if array.shape != shape:
      raise ValueError(
        f"Expected {title} of the shape of images, {shape}, got shape "
        f"{np.shape(value)}."
      )
    found[argument] = array.reshape(drawn)
  return found


def _softmax(logits: np.ndarray) -> np.ndarray:
  # Infinite logits are no prediction; the figure says so.
  with np.errstate(invalid="ignore"):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
  return powers / powers.sum(axis=1, keepdims=True)


def _probabilities(
  title: str, array: np.ndarray, num_examples: int
) -> np.ndarray:
  if array.ndim != 2 or len(array) != num_examples:
    raise ValueError(
      f"Expected {title} of shape [{num_examples}, C], got shape {array.shape}."
    )
  finite = array[np.isfinite(array).all(axis=1)]
  if (finite < 0).any() or (np.abs(finite.sum(axis=1) - 1) > 0.01).any():
    raise ValueError(
      f"Expected {title} to be probabilities, got rows that are not positive "
      "or do not add up to 1; pass jax.nn.softmax(logits)."
    )
  return array


def _label_names(
  label_names: Sequence[str] | None,
  labels: Any,
  num_examples: int,
  predicted: Sequence[int],
) -> Sequence[str]:
  """Names of all classes that labels and predictions mention."""
  if labels is not None:
    labels = np.asarray(labels)
    if labels.shape != (num_examples,) or labels.dtype.kind not in "iu":
      raise ValueError(
        f"Expected labels of shape ({num_examples},), whole numbers, got "
        f"{labels.dtype} of shape {labels.shape}."
      )
    predicted = [*predicted, int(labels.max()) + 1]
    if labels.min() < 0:
      raise ValueError(f"Expected labels >= 0, got {labels.min()}.")
  needed = max(predicted, default=0)
  if label_names is None:
    return [str(label) for label in range(needed)]
  if len(label_names) < needed:
    raise ValueError(
      f"Expected label_names of {needed} classes, got {len(label_names)}."
    )
  return label_names
