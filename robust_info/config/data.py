"""The data of a run."""

import dataclasses

from robust_info.config import schema

# The location of the data and the way it is read do not change the training.
LOCATION_FIELDS = (
  "data.data_dir",
  "data.path",
  "data.cache_dir",
  "data.streaming",
)
# Names of data of one's own, which lie in `path`.
OWN = ("arrays", "image_folder", "parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """The data set, and the part of its training split that is held out.

  Attributes:
    name: `digits` (embedded); `arrays` (an .npz file), `image_folder` or
      `parquet` for data of one's own; or the name of a TFDS image
      classification set.
    data_dir: directory of prepared TFDS data; None means TFDS's own default.
    path: file or folder with data of one's own.
    image_size: side in pixels to which pictures of a folder or of Parquet files
      are resized and cropped; None requires them to have one size.
    label_column: column of Parquet files with the labels; None means `label`.
    version: digest of data of one's own, filled in when a run starts; data of
      another version are refused.
    validation_fraction: share of the training split held out for validation.
    validation_seed: seed of the choice of these examples.
    cache_dir: directory of decoded images; None means the user's cache.
    streaming: whether training images are decoded batch by batch, for sets
      whose decoded images do not fit on the disk; the batches are the same.
    augment: augmentation of the training images: `none`, or `crop_flip`, random
      crops of the padded image and horizontal flips (unsuitable for digits: a
      mirrored 2 is not a 2).
    crop_padding: padding on each side before cropping, in pixels.
  """

  name: str = schema.checked("digits", "to name a data set", bool)
  data_dir: str | None = schema.optional_text()
  path: str | None = schema.optional_text()
  image_size: int | None = schema.checked(
    None, ">= 1", lambda v: v is None or v >= 1, at_most=4096
  )
  label_column: str | None = schema.optional_text()
  version: str | None = schema.optional_text()
  validation_fraction: float = schema.checked(
    0.1, "in (0, 1)", lambda v: 0 < v < 1
  )
  validation_seed: int = schema.non_negative(0, at_most=2**64 - 1)
  cache_dir: str | None = schema.optional_text()
  streaming: bool = False
  augment: str = schema.one_of("none", ("none", "crop_flip"))
  crop_padding: int = schema.non_negative(4, at_most=4096)
