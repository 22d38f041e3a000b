r"""The networks of the paper's table on CIFAR-10; made for a GPU.

  python -m robust_info.study configs/study/cifar10.py --output=runs/cifar10 \
    --executor=slurm --jobs=12 --parameter=slurm_partition=gpu

Not yet run as a whole. Standard and PGD training (linf 8/255) of VGG13 in three
variants, ResNet-20x1, ResNet-32x10 and PreActResNet-18, three seeds each. One
seed of all of them takes 1.1e18 operations of training, that is three hours at
100 TFLOP/s, five sixths of it for ResNet-32x10; the measurements come on top.
The other case is of CIFAR-10 encoded again as JPEG of quality 75, which is not
the benchmark of that name, and shorter: whole VGGs, in six minutes per run on
an H200 (three runs are in docs/results/core_gpu.md). `cifar10_jpeg.py` has
narrow ones, for two CPU cores.
"""

from configs import cifar10
from robust_info import study
from robust_info.study import questions

_STANDARD = {"objective.name": "standard"}
_VGG = {"model.name": "vgg13", "train.learning_rate": 0.01}
_VGGS = {
  "pure-linear": {**_VGG, "model.variant": "pure_linear"},
  "half-linear": {**_VGG, "model.variant": "half_linear"},
  "relu": {**_VGG, "model.variant": "relu"},
}
_NETWORKS = {
  **_VGGS,
  "resnet20x1": {"model.name": "resnet20"},
  "resnet32x10": {"model.name": "resnet32", "model.width": 10.0},
  "preact18": {"model.name": "preact_resnet18"},
}
_SHORT = {
  "data.name": "cifar10_jpeg",
  "train.num_epochs": 10,
  "objective.num_steps": 5,
  "objective.step_size": 0.4,
}
_ADAMW = {"train.optimizer": "adamw", "train.learning_rate": 5e-4}
_MEASURED = {
  "train.validate_every": 10,
  "train.validate_at": tuple(2**k for k in range(14)),
  "evaluation.attack": "apgd",
  "evaluation.num_coarse_pairs": 4096,
}


def _recipes(networks: dict, **shared) -> tuple[study.Recipe, ...]:
  return tuple(
    study.Recipe(f"{name}-{objective}", {**changes, **own, **shared})
    for name, changes in networks.items()
    for objective, own in (("standard", _STANDARD), ("pgd", {}))
  )


def get_study() -> study.Study:
  """The study."""
  return study.Study(
    title="The networks of arXiv:1906.02494 on CIFAR-10",
    cases=(
      study.Case(
        name="cifar10",
        base=cifar10.get_config,
        changes={**_MEASURED, "model.dtype": "bfloat16"},
        recipes=_recipes(_NETWORKS),
        seeds=(0, 1, 2),
        num_examples=1000,
        autoattack=tuple(f"{name}-pgd" for name in _NETWORKS),
      ),
      study.Case(
        name="jpeg-gpu",
        base=cifar10.get_config,
        changes={
          **_MEASURED,
          **_SHORT,
          "model.dtype": "bfloat16",
          "train.validate_at": (),
          "evaluation.validation_examples": 200,
        },
        recipes=(
          *_recipes(_VGGS),
          study.Recipe("relu-pgd-adamw", {**_VGGS["relu"], **_ADAMW}),
        ),
        seeds=(0, 1, 2),
        num_examples=250,
      ),
    ),
    questions=(
      questions.Characterises(recipe="relu-standard", min_correlation=0.8),
      questions.Rises(recipe="relu-standard", factor=2.0, nats=0.1),
      questions.Regularises(
        standard="relu-standard", adversarial="relu-pgd", factor=2.0, nats=0.1
      ),
      questions.Nonlinearity(
        pairs=(
          (
            "half linear, standard",
            "pure-linear-standard",
            "half-linear-standard",
          ),
          ("normal, standard", "pure-linear-standard", "relu-standard"),
          ("half linear, PGD", "pure-linear-pgd", "half-linear-pgd"),
          ("normal, PGD", "pure-linear-pgd", "relu-pgd"),
        ),
        share=0.05,
        accuracy=0.05,
      ),
      questions.Predicts(min_correlation=0.7),
    ),
  )
