"""What a checkpoint notes of its arrays, to know them again."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def key_data(leaf: Any) -> Any:
  """The data of PRNG keys; any other array as it is."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of `key_data`."""
  data = jax.eval_shape(key_data, leaf)
  return jax.ShapeDtypeStruct(data.shape, data.dtype)


def describe(host: Any) -> dict[str, Any]:
  """Shape, dtype and CRC-32 of every leaf, by its path."""
  described = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(host):
    array = np.ascontiguousarray(leaf)
    described[jax.tree_util.keystr(path)] = {
      "shape": list(leaf.shape),
      "dtype": str(array.dtype),
      "crc32": zlib.crc32(array.reshape(-1).view(np.uint8)),
    }
  return described


def difference(saved: Mapping[str, Any], wanted: Any) -> str | None:
  """What is different about the first leaf that differs, None if none does.

  Args:
    saved: from `describe`.
    wanted: a pytree of what `abstract` returns.
  """
  here = {
    jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)
  }
  there = {k: f"{leaf['dtype']}{leaf['shape']}" for k, leaf in saved.items()}
  for name in [*here, *there]:
    if name not in there:
      return f"it has no {name}"
    if name not in here:
      return f"it holds {name}, which this model has not"
    if here[name] != there[name]:
      return f"its {name} is {there[name]}, this model's is {here[name]}"
  return None
