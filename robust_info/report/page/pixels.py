"""Images as PNG data URIs."""

import base64
import io
import math

import numpy as np
import PIL.Image
from jaxtyping import Float

# Bytes of all images of a page as they are in memory; PNG makes them smaller,
# and base64 a third larger.
_BUDGET = 2_000_000
# Colours of the eigenvectors from negative to positive, as in the figure.
_DIVERGING = ((33, 102, 172), (247, 247, 247), (178, 24, 43))


def sampling(height: int, width: int, *, num_images: int) -> int:
  """Number k such that every k-th pixel of so many images fits a page."""
  pixels = _BUDGET / (3 * max(num_images, 1))
  return max(1, math.ceil(math.sqrt(height * width / pixels)))


def picture(pixels: Float[np.ndarray, "H W channels"]) -> str:
  """The URI of an image in [0, 1] with 1 or 3 channels; NaN is grey."""
  shown = np.clip(np.nan_to_num(pixels, nan=0.5), 0, 1)
  values = np.round(255 * shown).astype(np.uint8)
  return _uri(PIL.Image.fromarray(values[..., 0] if values.shape[2] == 1
                                  else values))  # fmt: skip


def diverging(values: Float[np.ndarray, "H W channels"]) -> str:
  """The URI of signed values: blue below zero, red above, white at zero.

  Values are summed over the channels, and scaled to their largest magnitude.
  """
  flat = np.nan_to_num(values.sum(-1))
  bound = np.abs(flat).max(initial=0.0) or 1.0
  colours = [
    np.interp(flat / bound, (-1, 0, 1), channel)
    for channel in zip(*_DIVERGING, strict=True)
  ]
  rounded = np.round(np.stack(colours, -1)).astype(np.uint8)
  return _uri(PIL.Image.fromarray(rounded))


def _uri(image: PIL.Image.Image) -> str:
  file = io.BytesIO()
  image.save(file, format="PNG")
  return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
