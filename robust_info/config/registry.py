"""Parts of one's own: models, objectives, augmentations, optimisers, attacks.

A configuration file registers a function by name, at its top level:

    @objectives.register("brier")
    def brier(network, batch, key, *, progress, power: float = 2.0): ...

    def get_config():
      config = config_lib.defaults()
      config.objective.name = "brier"
      config.objective.brier.power = 3.0
      return config

The signature says what the function needs. An argument without a default has
the name of a field of the section and takes its value. An argument with a
default becomes a field of its own, `config.objective.brier.power`: checked, set
on the command line, stored with the run and restored as any other field.

A run stores the file that registered its parts; see `training.workdir`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import keyword
import os
from collections.abc import Callable, Iterator
from typing import Any

from robust_info.config import (
  data,
  evaluation,
  model,
  objective,
  schema,
  signatures,
  train,
)


class UnknownPartError(ValueError):
  """A configuration names a part that nothing registered; one line."""


class PartError(ValueError):
  """A part of one's own failed; one line with the place."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of part, and the call it has to answer.

  Attributes:
    section: section of the configuration that chooses the part.
    field: field of the section that holds its name.
    cls: class of the section.
    positional: arguments that are passed by position.
    keywords: arguments that are passed by name; `required` of them must exist.
    required: the keywords that the function must take.
    filled: fields that are always taken from the section, default or not,
      because they come from the data.
    ignored: arguments that are nobody's.
  """

  section: str
  field: str
  cls: type
  positional: tuple[str, ...] = ()
  keywords: tuple[str, ...] = ()
  required: tuple[str, ...] = ()
  filled: tuple[str, ...] = ()
  ignored: tuple[str, ...] = ()


KINDS = {
  "model": Kind(
    "model",
    "name",
    model.ModelConfig,
    filled=("num_classes", "image_shape", "mean", "std"),
    ignored=("parent", "name"),  # Of every Flax module.
  ),
  "objective": Kind(
    "objective",
    "name",
    objective.ObjectiveConfig,
    positional=("network", "batch", "key"),
    keywords=("progress",),
    required=("progress",),
  ),
  "augmentation": Kind(
    "data", "augment", data.DataConfig, positional=("images", "key")
  ),
  "optimizer": Kind(
    "train", "optimizer", train.TrainConfig, positional=("schedule",)
  ),
  "attack": Kind(
    "evaluation",
    "attack",
    evaluation.EvaluationConfig,
    positional=("logits_fn", "x", "label", "key"),
    keywords=("where", "example_ids"),
  ),
}


@dataclasses.dataclass(frozen=True)
class Origin:
  """A configuration file: where it was read, and its text."""

  path: str
  text: str

  @property
  def digest(self) -> str:
    """The SHA-256 of the text."""
    return hashlib.sha256(self.text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Part:
  """A registered part.

  Attributes:
    kind: key of `KINDS`.
    name: name in the configuration.
    build: the function.
    reads: fields of the section that it takes.
    keywords: keywords of its kind that it takes.
    settings: schema of its own fields.
    origin: the file that registered it; None for an interactive session.
  """

  kind: str
  name: str
  build: Callable[..., Any]
  reads: tuple[str, ...]
  keywords: tuple[str, ...]
  settings: type
  origin: Origin | None


# (kind, name) -> part; and the files that are running now.
_active: dict[tuple[str, str], Part] = {}
_running: list[Origin] = []


def register(
  kind: str, name: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """A decorator that registers a part; see the functions of each kind.

  Args:
    kind: key of `KINDS`.
    name: name in the configuration: an identifier that neither a built-in part
      nor a field of the section has. An earlier registration of the name is
      replaced.

  Raises:
    ValueError: a name that cannot be used, or an argument that is neither a
      field of the section nor has a default.
    TypeError: not a function, or one that cannot be called as its kind is.
  """
  of = KINDS[kind]
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError(
      f"Expected the name of the {kind} to be an identifier, got {name!r}."
    )
  fields = {field.name: field for field in dataclasses.fields(of.cls)}
  taken = {*fields, *fields[of.field].metadata["choices"]}
  if name in taken or keyword.iskeyword(name):
    raise ValueError(
      f"Expected a new name for the {kind}, got {name!r}, which "
      f"config.{of.section} has already; choose another."
    )

  def add(build: Callable[..., Any]) -> Callable[..., Any]:
    _active[kind, name] = _part(kind, name, build)
    return build

  return add


def active() -> tuple[Part, ...]:
  """The parts that are registered now."""
  return tuple(_active.values())


@contextlib.contextmanager
def using(parts: tuple[Part, ...]) -> Iterator[None]:
  """Replaces the registered parts inside a `with` block."""
  before = dict(_active)
  _active.clear()
  _active.update({(part.kind, part.name): part for part in parts})
  try:
    yield
  finally:
    _active.clear()
    _active.update(before)


@contextlib.contextmanager
def running(file: Origin) -> Iterator[None]:
  """Names the origin of the parts that a `with` block registers."""
  _running.append(file)
  try:
    yield
  finally:
    _running.pop()


def extended(cls: type, parts: tuple[Part, ...]) -> type:
  """A section of the configuration with the parts that it may choose.

  Args:
    cls: class of the section.
    parts: registered parts of all kinds.

  Returns:
    A subclass whose instances hold the settings of each part of the section
    under its name; `cls` itself if there is none.
  """
  own = tuple(part for part in parts if KINDS[part.kind].cls is cls)
  return _extended(cls, own) if own else cls


def chosen(section: Any) -> Part | None:
  """The part of one's own that a section chooses; None for a built-in one."""
  for part in getattr(type(section), "parts", ()):
    if getattr(section, KINDS[part.kind].field) == part.name:
      return part
  return None


def bound(section: Any, **keywords: Any) -> Callable[..., Any]:
  """The function of the chosen part, with its fields and settings bound.

  Args:
    section: a section that chooses a part of one's own.
    **keywords: values of the keywords of the kind; those that the function does
      not take are left out.

  Returns:
    The function. Whatever it raises becomes a `PartError`.
  """
  part = chosen(section)
  settings = getattr(section, part.name)
  return functools.partial(
    functools.partial(_call, part),
    **{name: getattr(section, name) for name in part.reads},
    **{name: getattr(settings, name) for name in schema.names(part.settings)},
    **{k: v for k, v in keywords.items() if k in part.keywords},
  )


def _call(part: Part, /, *args: Any, **kwargs: Any) -> Any:
  try:
    return part.build(*args, **kwargs)
  # It is a program of the user, which may raise anything.
  except Exception as error:
    where = ""
    if part.origin is not None:
      where = f" in {part.origin.path}{place_in(part.origin.path, error)}"
    line = str(error).strip().partition("\n")[0]
    raise PartError(
      f"The {part.kind} {part.name!r} failed{where} with "
      f"{type(error).__name__}: {line}"
    ) from error


def place_in(path: str, error: BaseException) -> str:
  """The last line of a file that an error went through, such as ", line 7"."""
  lines = []
  trace = error.__traceback__
  while trace is not None:
    if trace.tb_frame.f_code.co_filename == os.path.abspath(path):
      lines.append(trace.tb_lineno)
    trace = trace.tb_next
  if isinstance(error, SyntaxError):
    lines = [error.lineno]
  return f", line {lines[-1]}" if lines else ""


def named(content: Any) -> dict[str, str]:
  """The parts of one's own that a stored configuration chooses.

  Args:
    content: nested mapping of a whole configuration; sections may be missing.

  Returns:
    Kind -> name. Stored with a part is a section with its settings; another
    unknown name is a wrong value as any other.
  """
  found = {}
  for kind, of in KINDS.items():
    section = content.get(of.section) if schema.is_mapping(content) else None
    name = section.get(of.field) if schema.is_mapping(section) else None
    if isinstance(name, str) and schema.is_mapping(section.get(name)):
      found[kind] = name
  return found


def unknown(content: Any) -> dict[str, str]:
  """Those parts of `named` that are not registered now."""
  return {k: v for k, v in named(content).items() if (k, v) not in _active}


def require_known(content: Any) -> None:
  """Requires every part that a stored configuration chooses.

  Args:
    content: nested mapping of a whole configuration.

  Raises:
    UnknownPartError: a part is not registered.
  """
  for kind, name in unknown(content).items():
    of = KINDS[kind]
    raise UnknownPartError(
      f"Expected config.{of.section}.{of.field} to be built in or registered, "
      f"got {name!r}; register it in the configuration file."
    )


@functools.cache
def _extended(cls: type, own: tuple[Part, ...]) -> type:
  of = KINDS[own[0].kind]
  [field] = [f for f in dataclasses.fields(cls) if f.name == of.field]
  choices = (*field.metadata["choices"], *(part.name for part in own))
  return dataclasses.make_dataclass(
    cls.__name__,
    [
      (of.field, str, schema.one_of(field.default, choices)),
      *(
        (
          part.name,
          part.settings,
          dataclasses.field(default_factory=part.settings),
        )
        for part in own
      ),
    ],
    bases=(cls,),
    namespace={"parts": own, "__doc__": cls.__doc__},
    frozen=True,
    kw_only=True,
  )


def _part(kind: str, name: str, build: Callable[..., Any]) -> Part:
  """Reads the signature of a function."""
  of, what = KINDS[kind], f"{kind} {name!r}"
  placed, named = signatures.arguments(build, what)
  missing = [argument for argument in of.required if argument not in named]
  if len(placed) < len(of.positional) or missing:
    call = ", ".join((*of.positional, *(f"{k}=" for k in of.required)))
    raise TypeError(
      f"Expected the {what} to take ({call}), got {inspect.signature(build)}."
    )
  used = {*placed[: len(of.positional)], *of.keywords, *of.ignored}
  reads, settings = [], []
  hints = signatures.hints(build)
  known = set(schema.names(of.cls)) - {of.field}
  for argument, default in named.items():
    if argument in used:
      continue
    if argument in of.filled or default is inspect.Parameter.empty:
      if argument not in known:
        raise ValueError(
          f"Expected argument {argument} of the {what} to have a default, or "
          f"to be a field of config.{of.section}: {', '.join(sorted(known))}."
        )
      reads.append(argument)
    elif field := signatures.setting(argument, hints.get(argument), default):
      settings.append(field)
  return Part(
    kind,
    name,
    build,
    tuple(reads),
    tuple(argument for argument in of.keywords if argument in named),
    signatures.schema_of(name, settings, f"config.{of.section}.{name}"),
    _running[-1] if _running else None,
  )
