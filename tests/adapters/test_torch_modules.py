"""PyTorch modules of many forms run, or are refused in one line.

Needs the extra `torch`; see test_torch.py.
"""

import copy
import functools
import pickle

import jax
import numpy as np
import pytest

import robust_info as ri
from robust_info import adapters

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
torch_comparison = pytest.importorskip("torch_comparison")

X = np.random.default_rng(0).uniform(size=(5, 6)).astype(np.float32)
CELL = """
import torch
def act(x): return x{act}
class Net(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.dense = torch.nn.Linear(6, 3)
  def forward(self, x): return act(self.dense(x)){forward}
"""


def run_cell(act="", forward=""):
  """Runs a cell of a notebook: definitions in this module."""
  exec(CELL.format(act=act, forward=forward), globals())


def agrees(module, x=X):
  """Whether the adapter gives the logits of the module, twice."""
  logits_fn = adapters.from_torch(module, images=x)
  expected = module.eval()(torch.tensor(x)).detach().numpy()
  return all(
    np.allclose(fn(logits_fn, x), expected, atol=1e-5)
    for fn in (lambda fn, x: fn(x), jax.jit(lambda fn, x: fn(x)))
  )


@pytest.mark.parametrize("change", ["act", "forward"])
def test_classes_and_functions_of_one_name_have_programs_of_their_own(change):
  run_cell()
  first, same = Net(), Net()  # noqa: F821
  adapted = [adapters.from_torch(m) for m in (first, same)]
  assert adapted[0].func == adapted[1].func
  assert hash(adapted[0].func) == hash(adapted[1].func)
  run = jax.jit(lambda fn, x: fn(x))
  run(adapted[0], X)
  if change == "act":
    own = Net  # noqa: F821
    run_cell(act=".flip(1)")
    globals()["Net"] = own
  else:
    run_cell(forward=".flip(1)")
  second = Net()  # noqa: F821
  found = adapters.from_torch(second)
  assert found.func != adapted[0].func
  np.testing.assert_allclose(
    run(found, X), second(torch.tensor(X)).detach(), atol=1e-5
  )


def test_reloaded_code_has_a_program_of_its_own():
  run_cell()
  own = Net  # noqa: F821
  before = adapters.from_torch(own())
  run_cell(forward=".flip(1)")
  own.forward.__code__ = Net.forward.__code__  # noqa: F821
  assert adapters.from_torch(own()).func != before.func


def parametrized(name):
  return lambda: nn.Sequential(
    getattr(nn.utils.parametrizations, name)(nn.Linear(6, 3))
  )


@pytest.mark.parametrize(
  "make",
  [
    parametrized("weight_norm"),
    parametrized("spectral_norm"),
    parametrized("orthogonal"),
    lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 3))),
    lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 3))),
  ],
)
def test_modules_with_computed_weights_run(make):
  torch.manual_seed(0)
  assert agrees(make())


def test_modules_that_cannot_be_pickled_share_with_themselves_only():
  class Local(nn.Linear):
    pass

  module = Local(6, 3)
  with pytest.raises((pickle.PicklingError, AttributeError)):
    pickle.dumps(module)
  first, second = (adapters.from_torch(module) for _ in range(2))
  assert first.func == first.func != second.func
  assert agrees(module)


class Twice(nn.Module):
  """One layer under two names, and a tensor that two layers share."""

  def __init__(self):
    super().__init__()
    self.first = nn.Linear(6, 6)
    self.second, self.last = self.first, nn.Linear(6, 6)
    self.last.weight = self.first.weight

  def forward(self, x):
    self.seen = x
    return self.last(self.second(self.first(x)))


def test_layers_and_tensors_may_be_registered_twice():
  layer, relu = nn.Linear(6, 6), nn.ReLU()
  assert agrees(nn.Sequential(layer, relu, layer, relu, nn.Linear(6, 3)))
  assert agrees(Twice())
  logits_fn = adapters.from_torch(Twice())
  assert sorted(logits_fn.args[0]) == [
    "first.bias",
    "first.weight",
    "last.bias",
  ]


def test_a_call_leaves_nothing_in_the_module():
  logits_fn = adapters.from_torch(Twice())
  jax.jit(lambda x: logits_fn(x))(X)
  module = logits_fn.func.run.module
  assert not hasattr(module, "seen")
  assert all(t.is_meta for t in module.parameters())


class Body(nn.Module):
  def __init__(self, body):
    super().__init__()
    torch.manual_seed(0)
    self.body, self.dense = body, nn.Linear(6, 3)
    self.kept = [torch.full((6,), 0.5)], {"shift": torch.arange(6)}

  def forward(self, x):
    return self.dense(self.body(self, x))


def written(_, x):
  out = torch.zeros(len(x), 6)
  out[:, :3] = x[:, 3:]
  out += x
  return out


def in_place(_, x):
  y = x.clone()
  y[:, 0] *= 2
  y[y > 0.5] = 0
  y[..., 1:] = x[..., :-1]
  return y.clamp_(0.1, 0.8)


BODIES = {
  "tensor": lambda _, x: x - torch.tensor([0.5] * 6),
  "scalar tensor": lambda _, x: torch.where(x > 0.3, x, torch.tensor(0.5)),
  "arange": lambda _, x: x + torch.arange(6),
  "zeros": lambda _, x: x + torch.zeros(len(x), 6),
  "full": lambda _, x: torch.cat([x[:, :3], torch.full((len(x), 3), 0.1)], 1),
  "linspace": lambda _, x: x * torch.linspace(0, 1, 6) + torch.eye(6)[0],
  "new_tensor": lambda _, x: x - x.new_tensor([1, 0] * 3) + x.new_zeros(6),
  "lists": lambda self, x: x * self.kept[0][0] + self.kept[1]["shift"],
  "index": lambda _, x: x[:, torch.tensor([5, 0, 3, 1, 2, 4])],
  "mask": lambda _, x: torch.cat([x[:, torch.arange(6) > 2], x[:, :3]], 1),
  "size from a tensor": lambda _, x: x * int(torch.arange(3).sum()),
  "written": written,
  "in place": in_place,
  "device": lambda _, x: x.cpu().to("cpu").to(device="cpu", dtype=x.dtype),
}


@pytest.mark.parametrize("name", BODIES)
def test_tensors_made_while_a_module_runs_count(name):
  assert agrees(Body(BODIES[name]))


def test_tensors_in_lists_are_arguments_of_the_program():
  first = Twice()
  second = copy.deepcopy(first)
  first.kept, second.kept = [torch.zeros(3)], [torch.ones(3)]
  adapted = [adapters.from_torch(m) for m in (first, second)]
  assert adapted[0].func == adapted[1].func
  assert "kept[0]" in adapted[0].args[0]


def written_in_part(_, x):
  out = torch.zeros(len(x), 6)
  out[:, 0].add_(x[:, 0])
  return out


def bag(_, x):
  bags = torch.zeros(len(x), 2, dtype=torch.int64)
  return x + F.embedding_bag(bags, x[:4], mode="sum")


def warped(x, padding):
  volumes = x[:, None, None, None].expand(-1, 1, 2, 2, -1)
  grid = 3 * x[:, None, None, :, None].expand(-1, 1, 1, -1, 3)
  return F.grid_sample(
    volumes, grid, "bilinear", padding, align_corners=False
  ).flatten(1)


def own_gradient(_, x):
  y = x.detach().requires_grad_()
  return torch.autograd.grad(y.square().sum(), y)[0]


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (lambda _, x: x + torch.randn(6), "network without randomness"),
    (written_in_part, "tensors on the device of its input"),
    (own_gradient, "without gradients of its own"),
    (bag, "got embedding_bag; write"),
    (lambda _, x: warped(x, "reflection"), "volumes with reflection; write"),
    (lambda _, x: torch.func.vmap(torch.sin)(x), "logits without torch.func"),
  ],
)
def test_what_cannot_run_is_refused_in_one_line(body, message):
  module = Body(body)
  state = torch.get_rng_state()
  for images in (X, None):
    with pytest.raises(ValueError, match=message) as caught:
      adapters.from_torch(module, images=images)(X)
    assert "\n" not in str(caught.value)
  # Neither call draws from the caller's stream.
  assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
  "body",
  [
    lambda _, x: x if x.sum() > 0 else -x,
    lambda _, x: x * x.mean().item(),
    lambda _, x: x * x[x > 0.5].mean(),
    lambda _, x: x * x.detach().sum(0).tolist()[0],
    lambda _, x: x * float(np.asarray((x + 1).detach()).mean()),
  ],
)
def test_what_needs_values_is_refused_in_one_line(body):
  logits_fn = adapters.from_torch(Body(body))
  with pytest.raises(ValueError, match="needs the values of a ten") as caught:
    jax.jit(logits_fn)(X)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_values_of_constants_on_the_device_of_the_input_are_known(dtype):
  def body(_, x):
    made = torch.tensor([2, 3], dtype=dtype, device=x.device)
    if dtype == torch.bfloat16:
      return x * made.tolist()[1]
    return x * float(np.asarray(made)[1])

  torch_comparison.assert_as_in_torch(functools.partial(body, None), X)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_volumes_are_warped_as_in_pytorch(padding):
  torch_comparison.assert_as_in_torch(lambda x: warped(x, padding), X)


def test_an_error_names_the_function_that_torchax_ran():
  def body(_, x):
    image = x[:, None, :, None]
    return F.interpolate(image, (3, 1), mode="bilinear", antialias=True)

  logits_fn = adapters.from_torch(Body(body))
  name = "in torch.nn.functional.interpolate, as torchax runs it"
  with pytest.raises(TypeError) as caught:
    logits_fn(X)
  assert name in caught.value.__notes__
  with pytest.raises(TypeError, match=f"not callable \\({name}\\)"):
    ri.disentangle_local(logits_fn, X, X)


def test_an_error_that_jax_annotates_names_the_function_too():
  logits_fn = adapters.from_torch(Body(lambda _, x: torch.cat([x, x[0]])))
  with pytest.raises((TypeError, ValueError)) as caught:
    logits_fn(X)
  first, *others = caught.value.__notes__
  assert "JAX" in first
  assert "in torch.cat, as torchax runs it" in others


def test_torchscript_is_refused_in_one_line():
  with pytest.raises(ValueError, match="one of TorchScript"):
    adapters.from_torch(torch.jit.script(nn.Linear(6, 3)))


def test_pytorch_keeps_to_its_own_devices():
  module = nn.Linear(6, 3)
  before = adapters.from_torch(module)(X)
  assert not torch.get_device_module("jax").is_available()
  parallel = nn.DataParallel(module)
  np.testing.assert_array_equal(adapters.from_torch(parallel)(X), before)


def test_exports_for_any_number_of_images_run_and_others_say_so():
  module = nn.Linear(6, 3)
  example = (torch.tensor(X),)
  batch = ({0: torch.export.Dim("N")},)
  of_any = torch.export.export(module, example, dynamic_shapes=batch).module()
  of_all = torch.export.export(module, example).module()
  np.testing.assert_allclose(
    adapters.from_torch(of_any)(X[:-1]),
    adapters.from_torch(module)(X[:-1]),
    rtol=1e-5,
  )
  logits_fn = adapters.from_torch(of_all)
  with pytest.raises(ValueError, match=r"torch.export for other sizes \(Guard"):
    ri.fisher_trace(logits_fn, X[:-1])


@pytest.mark.parametrize("inside", [False, True])
def test_compiled_modules_run_as_they_were_written(inside):
  module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
  compiled = torch.compile(module)
  if inside:
    compiled = nn.Sequential(compiled)
  found = adapters.from_torch(compiled, images=X)(X)
  expected = module(torch.tensor(X)).detach()
  np.testing.assert_allclose(found, expected, atol=1e-5)
