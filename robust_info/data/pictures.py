"""Pictures of one's own, PNG, JPEG or WebP, as arrays of one shape.

Rules for a picture:

* Grey stays grey only if all pictures are grey; otherwise all are colour.
* With `image_size` = S, the shorter side becomes S (Pillow's bilinear filter,
  which averages where it shrinks), the longer one int(S * longer / shorter),
  and the centre S x S is cut out: torchvision's Resize(S), CenterCrop(S).
* Refused instead of changed silently: 16 bits per channel, transparent
  pixels, animations. An EXIF rotation is not applied, as in
  torchvision.
"""

import dataclasses
import io
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import PIL.Image

from robust_info.data import parts, prepared
from robust_info.runtime import progress

_FORMATS = ("PNG", "JPEG", "WEBP")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_ALPHA = ("LA", "PA", "RGBA")
# Place of the byte in a file: after the signature, the head of the first
# chunk, width and height.
_PNG_BIT_DEPTH = 24
_ROWS = 256
_SHOWN = 3

# Name of a picture in errors, and its file or its bytes (None: missing).
Encoded = tuple[str, pathlib.Path | bytes | None]
Items = Callable[[], Iterable[Encoded]]


@dataclasses.dataclass
class Reader:
  """Decodes pictures to one shape and remembers those it cannot decode.

  Attributes:
    image_shape: (H, W, channels).
    title: name of the data in progress.
    image_size: see the module; None if all pictures have one size.
    show_progress: whether decoding reports to stderr.
    failures: one entry per unreadable picture, its name and the reason.
  """

  image_shape: tuple[int, int, int]
  title: str
  image_size: int | None
  show_progress: bool
  failures: list[str] = dataclasses.field(default_factory=list)

  def blocks(self, items: Items) -> parts.Blocks:
    """The function that reads some of these pictures; see `parts.Blocks`.

    The digest takes the encoded bytes, so that a version does not depend on the
    release of the decoder.
    """

    def read(rows: np.ndarray, digest: parts.Digest) -> Iterator[np.ndarray]:
      meter = progress.CountProgress(self.title, len(rows), unit="images")
      wanted = _flags(rows)
      block = []
      for index, (name, encoded) in enumerate(items()):
        if index < len(wanted) and wanted[index]:
          block.append(self._decode(name, encoded, digest))
        if len(block) == _ROWS:
          yield np.stack(block)
          if self.show_progress:
            meter.advance(len(block))
          block = []
      if block:
        yield np.stack(block)
        if self.show_progress:
          meter.advance(len(block))
      if self.show_progress:
        meter.close()

    return read

  def finish(self) -> None:
    """Raises ValueError if a picture could not be decoded."""
    if self.failures:
      raise ValueError(f"{_listed(self.failures)}; correct or remove them.")

  def _decode(
    self, name: str, encoded: pathlib.Path | bytes | None, digest: parts.Digest
  ) -> np.ndarray:
    """One picture; black, with an entry in `failures`, if it is unreadable."""
    try:
      if isinstance(encoded, pathlib.Path):
        encoded = encoded.read_bytes()
      with _opened(encoded) as image:
        # Pillow would drop the lower bits of a colour channel without a word.
        if image.format == "PNG" and encoded[_PNG_BIT_DEPTH] > 8:
          raise ValueError("16 bits per channel")
        pixels = _pixels(image, self.image_shape[2], self.image_size)
      digest.add(encoded)
      pixels = pixels.reshape(self.image_shape)
    except Exception as error:  # Decoders and disks raise any type.
      self.failures.append(f"{name} ({prepared.one_line(error)})")
      pixels = np.zeros(self.image_shape, np.uint8)
    return pixels


def reader(
  items: Iterable[Encoded],
  *,
  title: str,
  image_size: int | None,
  show_progress: bool,
) -> Reader:
  """The reader of some pictures, after a look at the header of each.

  Args:
    items: all pictures.
    title: name of the data in progress.
    image_size: side of the pictures after resizing; None resizes nothing.
    show_progress: whether decoding reports to stderr.

  Raises:
    ValueError: no header can be read, or the sizes vary and `image_size` is
      None.
  """
  sizes: dict[tuple[int, int], str] = {}
  failures, channels = [], 1
  for name, encoded in items:
    try:
      with _opened(encoded) as image:
        sizes.setdefault((image.height, image.width), name)
        channels = channels if image.mode in _GREY else 3
    except Exception as error:  # Decoders and disks raise any type.
      failures.append(f"{name} ({prepared.one_line(error)})")
  if not sizes:
    raise ValueError(f"{_listed(failures)}; correct or remove them.")
  if image_size is not None:
    shape = (image_size, image_size)
  elif len(sizes) == 1:
    (shape,) = sizes
  else:
    (first, one), (second, other), *_ = sizes.items()
    raise ValueError(
      f"Expected image_size for pictures of {len(sizes)} sizes, got none for "
      f"{first[0]} x {first[1]} ({one}) and {second[0]} x {second[1]} "
      f"({other}); set for example image_size={min(map(min, sizes))}."
    )
  return Reader((*shape, channels), title, image_size, show_progress)


def _opened(encoded: pathlib.Path | bytes | None) -> PIL.Image.Image:
  if encoded is None:
    raise ValueError("no bytes")
  file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
  with warnings.catch_warnings():
    # A warning about millions of pixels would be lost among other lines.
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    try:
      return PIL.Image.open(file, formats=_FORMATS)
    except PIL.UnidentifiedImageError as error:
      raise ValueError("no PNG, JPEG or WebP picture") from error


def _pixels(
  image: PIL.Image.Image, channels: int, size: int | None
) -> np.ndarray:
  """Pixels uint8 [H, W] or [H, W, 3] by the rules of the module."""
  # The second picture of an MPO, a JPEG of some cameras, is a preview.
  if getattr(image, "is_animated", False) and image.format != "MPO":
    raise ValueError("an animation")
  if image.mode not in (*_GREY, *_COLOUR):
    raise ValueError(f"mode {image.mode}, not 8 bits per channel")
  if "transparency" in image.info or image.mode in _ALPHA:
    image = image.convert("RGBA")
    if image.getextrema()[3][0] < 255:
      raise ValueError("transparent pixels")
  image = image.convert("L" if channels == 1 else "RGB")
  return np.asarray(image if size is None else _resized(image, size))


def _resized(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
  width, height = image.size
  if width <= height:
    width, height = size, int(size * height / width)
  else:
    width, height = int(size * width / height), size
  image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
  left, top = round((width - size) / 2), round((height - size) / 2)
  return image.crop((left, top, left + size, top + size))


def _flags(rows: np.ndarray) -> np.ndarray:
  flags = np.zeros(int(rows[-1]) + 1, bool)
  flags[rows] = True
  return flags


def _listed(failures: list[str]) -> str:
  more = len(failures) - _SHOWN
  tail = f" and {more} more" if more > 0 else ""
  noun = "picture" if len(failures) == 1 else "pictures"
  return (
    f"cannot read {len(failures)} {noun}: {', '.join(failures[:_SHOWN])}{tail}"
  )
