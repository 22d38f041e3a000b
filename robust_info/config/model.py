"""The network of a run."""

import dataclasses

from robust_info.config import schema

SMALL = ("logistic", "mlp", "cnn", "madry_cnn")
VGG = ("vgg11", "vgg13", "vgg16")
RESIDUAL = (
  "resnet20",
  "resnet32",
  "preact_resnet18",
  "wide_resnet28",
  "wide_resnet34",
)
MODELS = (*SMALL, *VGG, *RESIDUAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The network, with its input normalisation.

  The last four fields are computed from the training data when they are left
  empty. They are stored in the resolved configuration of the run, so that a
  restored model needs no data.

  Attributes:
    name: `logistic`, `mlp`, `cnn`, `madry_cnn`, `vgg11`, `vgg13`, `vgg16`,
      `resnet20`, `resnet32`, `preact_resnet18`, `wide_resnet28` or
      `wide_resnet34`.
    activation: activation function, `relu`, `softplus`, `silu`, `gelu` (by
      erf), `tanh` or `identity`.
    features: channels of the convolutions (5x5, stride 2) of `cnn`.
    hidden_sizes: widths of the hidden dense layers of `mlp` and `cnn`.
    variant: variant of a VGG: `relu`, with `activation`; `half_linear`, without
      activations; `pure_linear`, without activations and with mean instead of
      maximum pools.
    width: factor on the channels of a VGG or of the stages of a residual
      network, rounded to at least 1 channel; for example, `resnet20` with 5 is
      resnet20x5, `wide_resnet28` with 10 is WRN-28-10, `vgg13` with 0.25 has
      16 to 128 channels.
    dtype: dtype of the computation of layers, `float32` or `bfloat16`;
      parameters, batch statistics and logits are always float32.
    remat: whether a VGG or a residual network recomputes its blocks in the
      backward pass: less memory for one more forward pass.
    num_classes: number of classes; 0 means the number of the data.
    image_shape: shape (height, width, channels) of an input; () means the shape
      of the data.
    mean: mean to subtract, per channel; () means the mean of the training
      images.
    std: standard deviation to divide by, per channel; () means the one of the
      training images.
  """

  name: str = schema.one_of("cnn", MODELS)
  activation: str = schema.one_of(
    "relu", ("relu", "softplus", "silu", "gelu", "tanh", "identity")
  )
  features: tuple[int, ...] = schema.each(
    (16, 32), "> 0", lambda v: v > 0, at_most=2**20
  )
  hidden_sizes: tuple[int, ...] = schema.each(
    (100,), "> 0", lambda v: v > 0, at_most=2**20
  )
  variant: str = schema.one_of("relu", ("relu", "half_linear", "pure_linear"))
  width: float = schema.positive(1.0, at_most=4096)
  dtype: str = schema.one_of("float32", ("float32", "bfloat16"))
  remat: bool = False
  num_classes: int = schema.non_negative(0, at_most=2**20)
  image_shape: tuple[int, ...] = schema.each(
    (), "> 0", lambda v: v > 0, at_most=2**16
  )
  mean: tuple[float, ...] = schema.each(
    (), "in [-1e6, 1e6]", lambda v: abs(v) <= 1e6
  )
  std: tuple[float, ...] = schema.each(
    (), "in [1e-6, 1e6]", lambda v: 1e-6 <= v <= 1e6
  )
