"""From a configuration that leaves things to the data to one that does not."""

import dataclasses

import jax

from robust_info import config as config_lib
from robust_info import data, models, train_setup


def resolve(
  config: config_lib.Config, source: data.DataSource
) -> config_lib.Config:
  """Fills in what the model takes from the data.

  Args:
    config: fields of `config.model` that are empty are filled in: number of
      classes, shape of the images, and their mean and standard deviation per
      channel over the training split (in [0, 1], rounded to six digits; a
      channel without variation gets 1).
    source: the data.

  Returns:
    A configuration from which the model can be built without data.

  Raises:
    ValueError: a field that is given does not fit the data, or the model is
      none that can be built, for example for images of this size.
  """
  model = config.model
  found = {
    "num_classes": source.num_classes,
    "image_shape": tuple(source.image_shape),
  }
  for name, value in found.items():
    given = getattr(model, name)
    if given and given != value:
      raise ValueError(
        f"Expected config.model.{name} = {value}, that of {source.name}, got "
        f"{given}; leave it empty to take it from the data."
      )
  if not model.mean:
    found["mean"], found["std"] = data.channel_moments(source.train.images)
  elif len(model.mean) != source.image_shape[2]:
    raise ValueError(
      f"Expected config.model.mean with {source.image_shape[2]} entries, the "
      f"channels of {source.name}, got {model.mean}."
    )
  model = dataclasses.replace(model, **found)
  try:
    jax.eval_shape(
      lambda key: models.init(train_setup.model(model), key, model.image_shape),
      jax.random.key(0),
    )
  except ValueError as error:
    raise ValueError(f"In config.model: {error}") from error
  return dataclasses.replace(config, model=model)
