r"""Parameters and operations of every network, see docs/guide/models.md.

    python -m benchmarks.models

Operations are those of one forward pass of one example in evaluation mode.
There are two counts:

- convolutions and matrix products of the traced network, two operations per
  multiply-add, including zeros of the padding: papers call this FLOPs; it is
  twice the number of MACs;
- all operations that XLA counts in the lowered program: normalisations,
  activations and pools too; of a convolution, only the products that do not
  involve padding.

Nothing is compiled or run, so neither count depends on the machine.
"""

import argparse
import math

import jax
import jax.numpy as jnp
from jax.extend import core

from robust_info import models

SMALL, COLOUR = (28, 28, 1), (32, 32, 3)
# Name in papers, image shape, name, further arguments.
NETWORKS = (
  ("logistic regression", SMALL, "logistic", {}),
  ("MLP, 100", SMALL, "mlp", {}),
  ("small CNN, 16-32-100", SMALL, "cnn", {}),
  ("Madry's MNIST CNN", SMALL, "madry_cnn", {}),
  ("VGG11", COLOUR, "vgg11", {}),
  ("VGG13", COLOUR, "vgg13", {}),
  ("VGG16", COLOUR, "vgg16", {}),
  ("ResNet-20x1", COLOUR, "resnet20", {"width": 1}),
  ("ResNet-20x5", COLOUR, "resnet20", {"width": 5}),
  ("ResNet-20x10", COLOUR, "resnet20", {"width": 10}),
  ("ResNet-32x1", COLOUR, "resnet32", {"width": 1}),
  ("ResNet-32x5", COLOUR, "resnet32", {"width": 5}),
  ("ResNet-32x10", COLOUR, "resnet32", {"width": 10}),
  ("PreActResNet-18", COLOUR, "preact_resnet18", {}),
  ("WRN-28-10", COLOUR, "wide_resnet28", {"width": 10}),
  ("WRN-34-10", COLOUR, "wide_resnet34", {"width": 10}),
)


def abstract(shape, name, arguments):
  """The evaluation mode, and abstract variables and image of one example."""
  model = models.create(name, num_classes=10, **arguments)
  variables = jax.eval_shape(
    lambda key: models.init(model, key, shape), jax.random.key(0)
  )
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  return models.apply_fn(model), variables, image


def num_parameters(variables) -> int:
  """Number of entries of all parameters, without running statistics."""
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def product_flops(jaxpr) -> int:
  """Operations of the convolutions and matrix products of a jaxpr."""
  total = 0
  for equation in jaxpr.eqns:
    out = equation.outvars[0].aval
    if equation.primitive.name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      numbers = equation.params["dimension_numbers"]
      # A kernel holds only the channels of its group.
      terms = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
      total += 2 * math.prod(out.shape) * terms
    elif equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      terms = math.prod(left[axis] for axis in contracted)
      total += 2 * math.prod(out.shape) * terms
    for inner in core.jaxprs_in_params(equation.params):
      total += product_flops(inner)
  return total


def rows(networks):
  """Lines of the table: name, configuration, parameters and operations."""
  for title, shape, name, arguments in networks:
    apply, variables, image = abstract(shape, name, arguments)
    flops = product_flops(jax.make_jaxpr(apply)(variables, image).jaxpr)
    # Other backends count nothing before they compile.
    with jax.default_device(jax.devices("cpu")[0]):
      lowered = jax.jit(apply).lower(variables, image)
    counted = lowered.cost_analysis()["flops"]
    fields = "".join(f", `{k}={v}`" for k, v in arguments.items())
    yield (
      f"| {title} | `{name}`{fields} | {'x'.join(map(str, shape))} "
      f"| {num_parameters(variables):,} | {flops / 1e6:,.3f} "
      f"| {counted / 1e6:,.3f} |"
    )


def main() -> None:
  """Prints the table."""
  argparse.ArgumentParser(description=__doc__).parse_args()
  print(
    "| network | `config.model` | image | parameters | MFLOP, products "
    "| MFLOP, XLA |"
  )
  print("|---|---|---|---|---|---|")
  for row in rows(NETWORKS):
    print(row, flush=True)


if __name__ == "__main__":
  main()
