"""Lack of memory is one line with the settings that asked for it."""

import dataclasses
import os

import jax
import numpy as np
import pytest
import training_process

from robust_info import config as config_lib
from robust_info import models, training
from robust_info.runtime import memory
from robust_info.training import memory_needs, setup

pytestmark = pytest.mark.usefixtures("one_device")

CNN = config_lib.ModelConfig(
  name="cnn", features=(2, 3), hidden_sizes=(5,), num_classes=4,
  image_shape=(8, 8, 1),
)  # fmt: skip


def run_config(**model):
  return config_lib.Config(model=dataclasses.replace(CNN, **model))


def test_size_of_the_state_is_that_of_its_arrays_and_a_gradient():
  config = run_config()
  state = setup.abstract_state(config, models.from_config(config.model))
  params, rest = state.params, dataclasses.replace(state, key=None)
  count = 4 * sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  whole = sum(
    int(np.prod(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(rest)
  )
  need = memory_needs.of_training(config)[0]
  # 5x5 kernels with biases, then two dense layers of 2 x 2 x 3 inputs.
  assert count == 4 * (52 + 153 + 65 + 24)
  assert need.num_bytes == count + whole
  assert "features=(2, 3), hidden_sizes=(5,)" in need.settings
  assert "294 parameters" in need.purpose


def test_size_of_a_step_grows_with_its_share_of_the_batch():
  config = run_config()
  sizes = []
  for batch_size, accumulate in ((64, 1), (128, 1), (128, 4)):
    train = dataclasses.replace(
      config.train, batch_size=batch_size, accumulate=accumulate
    )
    need = memory_needs.of_training(dataclasses.replace(config, train=train))[1]
    assert f"batch_size={batch_size}, accumulate={accumulate}" in need.settings
    sizes.append(need.num_bytes)
  per_row = -(-64 // len(jax.devices()))
  # The image as bytes and floats, and the outputs of five layers at least.
  assert sizes[0] >= per_row * (5 * 64 + 4 * (4 * 4 * 2 + 2 * 2 * 3 + 5 + 4))
  assert sizes[1] == 2 * sizes[0]
  assert sizes[2] == sizes[0] / 2


@pytest.mark.parametrize("name", ["logistic", "mlp", "madry_cnn", "vgg11"])
def test_every_network_has_a_size(name):
  model = config_lib.ModelConfig(
    name=name, num_classes=10, image_shape=(32, 32, 3)
  )
  needs = memory_needs.of_training(config_lib.Config(model=model))
  assert all(need.num_bytes > 0 for need in needs)


@pytest.mark.parametrize(
  ("fields", "remedy"),
  [
    ({"features": (2**20, 2**20)}, "lower config.model.features or config."),
    (
      {"name": "mlp", "hidden_sizes": (2**20,) * 3},
      "lower config.model.hidden_sizes",
    ),
    ({"name": "wide_resnet28", "width": 4096}, "lower config.model.width"),
  ],
)
def test_network_that_no_machine_holds_is_refused_before_anything_is_made(
  tmp_path, fields, remedy
):
  with pytest.raises(memory.OutOfMemoryError) as error:
    training.train(
      dataclasses.replace(
        training_process.run_config(),
        model=dataclasses.replace(CNN, image_shape=(32, 32, 3), **fields),
        data=config_lib.DataConfig(),
      ),
      training_process.split(),
      None,
      workdir=tmp_path / "new",
    )
  message = str(error.value)
  assert remedy in message
  assert "TiB" in message
  assert "\n" not in message
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  "error",
  [
    MemoryError("Unable to allocate 3.2 TiB for an array"),
    MemoryError(),
    OverflowError("Python int too large to convert to C long"),
    jax.errors.JaxRuntimeError(
      "RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes."
    ),
    jax.errors.JaxRuntimeError("INTERNAL: out of memory\nand more"),
  ],
)
@pytest.mark.parametrize("of_training", [True, False])
def test_lack_of_memory_is_one_line_with_settings_and_remedy(
  error, of_training
):
  config = run_config()

  def needs():
    if of_training:
      return memory_needs.of_training(config)
    return memory_needs.of_evaluation(
      config.evaluation,
      num_classes=10,
      image_shape=config.model.image_shape,
      layers=1000,
    )

  with pytest.raises(memory.OutOfMemoryError) as found, memory.explained(needs):
    raise error
  message = str(found.value)
  assert "\n" not in message
  assert "evaluation.batch_size=500" in message
  assert "lower evaluation.batch_size" in message
  assert ("config.train.batch_size=128" in message) == of_training
  assert ("num_pairs=512" in message) != of_training


def test_other_runtime_error_passes():
  error = jax.errors.JaxRuntimeError("INTERNAL: a fault of the compiler")
  with (
    pytest.raises(jax.errors.JaxRuntimeError, match="fault of the compiler"),
    memory.explained(lambda: []),
  ):
    raise error


def test_training_that_runs_out_of_memory_is_one_line(tmp_path):
  def validate(variables):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")

  with (
    open(os.devnull, "w") as silence,
    pytest.raises(memory.OutOfMemoryError, match="RESOURCE_EXHAUSTED: no room"),
  ):
    training.train(
      dataclasses.replace(
        training_process.run_config(),
        data=config_lib.DataConfig(),
        objective=config_lib.ObjectiveConfig(),
      ),
      training_process.split(),
      validate,
      workdir=tmp_path,
      stream=silence,
    )
