"""Image classification data: files on disk in, memory-mapped arrays out.

Shape letters: N examples, B batch rows, H, W and channels of an image.

    source = data.load("digits")
    batch = data.train_batch(source.train, seed=0, step=0, batch_size=128)
    images = data.to_float(batch.image)     # inside the jitted step

`load` decodes a data set once and memory-maps it afterwards. Batches are pure
functions of (seed, step), so a resumed run replays exactly the data of an
uninterrupted run. Data of one's own are arrays (`from_arrays`, or an .npz
file), a folder of pictures, or Parquet files.
"""

from robust_info.data.arrays import from_arrays
from robust_info.data.augmentation import crop_flip
from robust_info.data.batching import (
  Batch,
  epoch_permutation,
  eval_batches,
  steps_per_epoch,
  to_float,
  train_batch,
)
from robust_info.data.configured import from_config, relocated
from robust_info.data.loading import load
from robust_info.data.moments import channel_moments
from robust_info.data.prefetching import ahead, batches_ahead
from robust_info.data.source import (
  DataSource,
  Split,
  UnavailableError,
  check_labels,
  check_two_classes,
  classes_at_first,
)

__all__ = [
  "Batch",
  "DataSource",
  "Split",
  "UnavailableError",
  "ahead",
  "batches_ahead",
  "channel_moments",
  "check_labels",
  "check_two_classes",
  "classes_at_first",
  "crop_flip",
  "epoch_permutation",
  "eval_batches",
  "from_arrays",
  "from_config",
  "load",
  "relocated",
  "steps_per_epoch",
  "to_float",
  "train_batch",
]
