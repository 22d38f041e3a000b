"""The UCI handwritten digits that scikit-learn ships, as a TFDS builder.

Needs neither TensorFlow nor a download, and takes less than a second.
"""

import contextlib
import errno
import io
import os
import pathlib
import tempfile

import numpy as np
import PIL.Image
import sklearn.datasets
import tensorflow_datasets as tfds

from robust_info.data import holdout, prepared

NUM_TEST = 500
SPLIT_SEED = 0
_GREY_LEVELS = 16

_DESCRIPTION = """\
Optical recognition of handwritten digits: 1,797 images of 8 x 8 pixels by 13
writers (the test part of the UCI data set), as scikit-learn ships them. The
grey levels 0..16 are stored as round(255 * level / 16). The split into 1,297
training and 500 test images is ours: stratified by class, seed 0.
"""

_CITATION = """\
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}"""


def to_bytes(levels: np.ndarray) -> np.ndarray:
  """Grey levels 0..16 as uint8: round(255 level / 16). Invertible."""
  return np.round(levels * (255 / _GREY_LEVELS)).astype(np.uint8)


def to_levels(images: np.ndarray) -> np.ndarray:
  """The inverse of `to_bytes`: uint8 to grey levels 0..16, as uint8."""
  return np.round(images * (_GREY_LEVELS / 255)).astype(np.uint8)


class Digits(tfds.core.GeneratorBasedBuilder):
  """8 x 8 handwritten digits: 1,297 training and 500 test images."""

  name = "digits"
  VERSION = tfds.core.Version(prepared.DIGITS_VERSION)
  RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS's way)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      citation=_CITATION,
      homepage="https://archive.ics.uci.edu/dataset/80",
      license="CC BY 4.0",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
          "label": tfds.features.ClassLabel(names=[str(i) for i in range(10)]),
        }
      ),
      supervised_keys=("image", "label"),
      disable_shuffling=True,  # File order is the order of scikit-learn.
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    digits = sklearn.datasets.load_digits()
    train, test = holdout.stratified(digits.target, NUM_TEST, seed=SPLIT_SEED)
    return {
      "train": self._generate_examples(digits, train),
      "test": self._generate_examples(digits, test),
    }

  def _generate_examples(self, digits, rows):
    """Yields (row of scikit-learn, example)."""
    for row in rows:
      # A PIL image, because TFDS encodes arrays with TensorFlow.
      image = PIL.Image.fromarray(to_bytes(digits.images[row]))
      yield int(row), {"image": image, "label": int(digits.target[row])}


def prepare(data_dir: pathlib.Path) -> pathlib.Path:
  """Prepares the digits under `data_dir`, atomically.

  Args:
    data_dir: a TFDS data directory; created if it does not exist.

  Returns:
    `<data_dir>/digits/<version>`, complete. If several processes prepare it at
    once, the data of one of them remain; the bytes are the same.

  Raises:
    OSError: the directory cannot be written.
  """
  target = data_dir / Digits.name / str(Digits.VERSION)
  target.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=data_dir, prefix=".digits-") as scratch:
    builder = Digits(data_dir=scratch, file_format="array_record")
    # TFDS reports on both streams, even for half a second of work.
    with (
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      builder.download_and_prepare()
    try:
      os.rename(builder.data_path, target)
    except OSError as error:
      if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
        raise
  return target
