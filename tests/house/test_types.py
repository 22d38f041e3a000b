"""Shapes in the signatures, checked by beartype in a process of its own.

The tests of bad arguments expect the errors of the functions themselves, so the
other tests run without the import hook.
"""

import collections.abc
import inspect
import pathlib
import subprocess
import sys
import typing

import jax
import matplotlib.figure
import numpy as np
import pytest
import typed_calls

import robust_info as ri

PUBLIC = [
  pytest.param(member, id=f"{module.__name__}.{name}")
  for module in (ri, ri.attacks, ri.plots)
  for name in module.__all__
  if inspect.isfunction(member := getattr(module, name))
]


@pytest.mark.parametrize("fn", PUBLIC)
def test_arrays_of_public_functions_have_shapes(fn):
  # A figure names matplotlib, which only the drawing imports.
  names = {"matplotlib": matplotlib}
  hints = typing.get_type_hints(inspect.unwrap(fn), localns=names)
  for name, hint in hints.items():
    if typing.get_origin(hint) is not collections.abc.Callable:
      alternatives = [hint, *typing.get_args(hint)]
      assert jax.Array not in alternatives, name
      assert np.ndarray not in alternatives, name


def test_calls_keep_to_their_annotations():
  program = pathlib.Path(typed_calls.__file__)
  root = pathlib.Path(__file__).parents[2]
  result = subprocess.run(
    [sys.executable, program],
    capture_output=True,
    text=True,
    check=False,
    cwd=root,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr[-2000:]
  first, *violations = result.stdout.splitlines()
  assert first == "refused"
  assert not violations, result.stdout
