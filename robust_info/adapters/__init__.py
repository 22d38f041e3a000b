"""Networks of other libraries as functions that the metrics and attacks take.

    logits_fn = adapters.from_nnx(model)
    norms = robust_info.fisher_norms(logits_fn, images)

Each adapter returns a `jax.tree_util.Partial` (images [N, H, W, channels] or
any [N, ...] -> logits [N, C]) whose leaves are all parameters and statistics of
the network. Programs are compiled once per architecture: new weights reuse
them. The network of the caller is copied and not changed, and the copy is in
evaluation mode: running statistics, no dropout. It may split random keys;
logits that depend on random numbers raise ValueError, at compilation at the
latest.

    adapter        network                      extra
    from_linen     Flax Linen                   train
    from_nnx       Flax NNX                     nnx
    from_equinox   Equinox                      equinox
    from_haiku     Haiku                        haiku
    from_keras     Keras 3, JAX backend         keras
    from_torch     PyTorch, through torchax     torch

`adapt` chooses the adapter by the type of the network. A library is imported
when its adapter is called. Every adapter takes these
arguments, all static:

- `mean`, `std`: values per channel; the network receives `(x - mean) / std`, so
  that an epsilon stays in units of the images.
- `channels_first`: whether the network takes images [N, channels, H, W]. Other
  inputs than images, which have four axes, pass unchanged.
- `output`: index or key of the logits in a tuple or mapping that the network
  returns.
- `images`: a batch on which the adapter compares itself with the network
  as its library runs it; see `difference`. Without it nothing is compared.

A network with one output per example (the logit of the second of two classes)
gets two logits, 0 and its own. Shape letters: N examples, C classes.
"""

from robust_info.adapters._adapt import adapt
from robust_info.adapters._equinox import from_equinox
from robust_info.adapters._haiku import from_haiku
from robust_info.adapters._keras import from_keras
from robust_info.adapters._linen import from_linen
from robust_info.adapters._nnx import from_nnx
from robust_info.adapters.base import difference, num_classes
from robust_info.adapters.pytorch.adapter import from_torch

__all__ = [
  "adapt",
  "difference",
  "from_equinox",
  "from_haiku",
  "from_keras",
  "from_linen",
  "from_nnx",
  "from_torch",
  "num_classes",
]
