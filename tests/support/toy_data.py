"""Small prepared TFDS data sets."""

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

SIZES = {"train": 40, "test": 10}
COLOUR = tfds.features.Image(shape=(6, 5, 3), encoding_format="png")
LABEL = tfds.features.ClassLabel(names=["cat", "dog", "owl", "yak"])


def picture(index, shape=(6, 5, 3)):
  """A picture that differs for every index."""
  pixels = np.arange(np.prod(shape)).reshape(shape) * 2 + 7 * index
  return (pixels % 251).astype(np.uint8)


def make_builder(
  *, name="toy", sizes=None, image=COLOUR, label=LABEL, example=None, **extra
):
  """A TFDS builder class; `example(i)` overrides the contents of record i."""
  features = {"image": image, "label": label, **extra}

  class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {key: f for key, f in features.items() if f is not None}
        ),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      start, splits = 0, {}
      for split, size in (sizes or SIZES).items():
        splits[split] = self._generate_examples(start, start + size)
        start += size
      return splits

    def _generate_examples(self, start, stop):
      for i in range(start, stop):
        content = {"image": PIL.Image.fromarray(picture(i)), "label": i % 4}
        yield i, content | (example(i) if example else {})

  Toy.name = name
  return Toy


def prepare(data_dir, **kwargs):
  builder = make_builder(**kwargs)(
    data_dir=data_dir, file_format="array_record"
  )
  builder.download_and_prepare()
  return builder
