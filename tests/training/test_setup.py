import dataclasses

import numpy as np
import pytest

from robust_info import config as config_lib
from robust_info import data
from robust_info.training import setup


def source(images, num_classes=4):
  labels = np.arange(len(images), dtype=np.int32) % num_classes
  split = data.Split(images, labels)
  return data.DataSource(
    name="toy",
    version="1.0.0",
    train=split,
    validation=split,
    test=split,
    num_classes=num_classes,
    image_shape=images.shape[1:],
    label_names=tuple("abcd"),
  )


def test_resolve_reads_shape_classes_and_moments_off_the_data():
  images = np.random.default_rng(0).integers(
    0, 256, (5000, 3, 2, 2), dtype=np.uint8
  )
  images[..., 1] = 7
  model = setup.resolve(config_lib.Config(), source(images)).model
  assert model.num_classes == 4
  assert model.image_shape == (3, 2, 2)
  floats = images / 255.0
  np.testing.assert_allclose(model.mean, floats.mean((0, 1, 2)), atol=1e-6)
  np.testing.assert_allclose(model.std, [floats[..., 0].std(), 1.0], atol=1e-6)


def test_resolve_keeps_what_is_given_and_is_idempotent():
  images = np.zeros((8, 3, 2, 1), np.uint8)
  given = config_lib.Config(
    model=config_lib.ModelConfig(mean=(0.1,), std=(0.2,))
  )
  resolved = setup.resolve(given, source(images))
  assert (resolved.model.mean, resolved.model.std) == ((0.1,), (0.2,))
  assert setup.resolve(resolved, source(images)) == resolved


@pytest.mark.parametrize(
  ("fields", "name"),
  [
    ({"num_classes": 3}, "config.model.num_classes = 4"),
    ({"image_shape": (8, 8, 1)}, "config.model.image_shape = "),
    ({"mean": (0.1,) * 3, "std": (1.0,) * 3}, "config.model.mean"),
    ({"name": "vgg13"}, "In config.model: Expected image_shape of at least 32"),
    ({"width": 2}, "In config.model: Expected width = 1 with name = 'cnn'"),
  ],
)
def test_resolve_refuses_what_does_not_fit_the_data(fields, name):
  config = config_lib.Config(model=config_lib.ModelConfig(**fields))
  with pytest.raises(ValueError, match=name):
    setup.resolve(config, source(np.zeros((8, 3, 2, 1), np.uint8)))


@pytest.mark.parametrize(
  ("change", "fix"),
  [
    (
      {"mean": (0.25,), "std": (0.5,), "dtype": "bfloat16"},
      "start with '--config.model.mean=(0.125,)' '--config.model.std=(1.0,)'.",
    ),
    ({"num_classes": 3, "mean": (0.25,)}, "so start without init_from."),
  ],
)
def test_weights_of_another_model_are_refused_with_a_fix_that_works(
  change, fix
):
  model = config_lib.ModelConfig(
    num_classes=2, image_shape=(4, 4, 1), mean=(0.125,), std=(1.0,)
  )
  other = config_lib.Config(model=model)
  changed = config_lib.Config(model=dataclasses.replace(model, **change))
  with pytest.raises(ValueError, match="of the same model, but ") as error:
    setup.require_same_model(changed, other, init_from="old")
  assert str(error.value).endswith(fix)
