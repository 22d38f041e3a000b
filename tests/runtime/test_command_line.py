"""Flags, configuration files and signals of the entry points, in process."""

import dataclasses
import importlib.machinery
import pathlib
import re
import subprocess
import sys
import types

import pytest
from absl import flags

from robust_info import config
from robust_info.config import file as file_lib
from robust_info.config import schema
from robust_info.runtime import command_line, interruption, streams

ROOT = pathlib.Path(__file__).parents[2]
# Sends itself a signal at the first import that takes long.
AT_THE_IMPORTS = """
import importlib.abc, os, runpy, sys
class Finder(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name == "robust_info":
      os.kill(os.getpid(), int(sys.argv[2]))
sys.meta_path.insert(0, Finder())
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture
def parse(monkeypatch):
  """Function from arguments to the checked configuration, with new flags."""

  def parse(*arguments):
    values = flags.FlagValues()
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    holder = command_line.define_config(values)
    values(sys.argv)
    return command_line.checked_config(holder, values)

  return parse


def write(tmp_path, body):
  path = tmp_path / "mine.py"
  path.write_text(body)
  return path


def test_configuration_is_read_without_load_module(parse, monkeypatch):
  # Python 3.15 has no such method.
  for cls in importlib.machinery.SourceFileLoader.__mro__:
    if "load_module" in vars(cls):
      monkeypatch.delattr(cls, "load_module")
  assert not hasattr(importlib.machinery.SourceFileLoader, "load_module")
  config = parse(
    f"--config={ROOT}/configs/digits.py",
    "--config.train.learning_rate=0.25",
    "--config.model.hidden_sizes=(7,)",
  )
  assert config.data.name == "digits"
  assert config.train.learning_rate == 0.25
  assert config.model.hidden_sizes == (7,)


def test_configuration_file_takes_its_argument_and_may_define_classes(
  parse, tmp_path
):
  path = write(
    tmp_path,
    "import dataclasses\n"
    "from robust_info import config\n"
    "@dataclasses.dataclass\n"
    "class Choice:\n"
    "  seed: 'int'\n"
    "def get_config(text):\n"
    "  result = config.defaults()\n"
    "  result.seed = Choice(int(text)).seed\n"
    "  return result\n",
  )
  assert parse(f"--config={path}:41").seed == 41


@pytest.mark.parametrize(
  ("body", "message"),
  [
    (
      "def get_config():\n  x = 1\n  return x / 0\n",
      ", line 3: ZeroDivisionError: division by zero",
    ),
    ("x = (\n", ", line 1: SyntaxError: '(' was never closed"),
    ("import no_such_module_here\n", ", line 1: ModuleNotFoundError: No mod"),
    ("def get_config():\n  raise SystemExit(3)\n", ", line 2: SystemExit: 3"),
    ("x = 1\n", "expected a function get_config(), got none; see configs"),
    ("get_config = 1\n", "expected a function get_config(), got none"),
    (
      "def get_config():\n  pass\n",
      "expected get_config() to return a ConfigDict",
    ),
  ],
)
def test_error_in_a_configuration_file_names_file_and_line(
  parse, tmp_path, body, message
):
  path = write(tmp_path, body)
  with pytest.raises(file_lib.FileError) as error:
    parse(f"--config={path}")
  assert f"In {path}" in str(error.value)
  assert message in str(error.value)


@pytest.mark.parametrize("path", ["", "configs", "configs/nope.py"])
def test_missing_configuration_file_is_named(parse, path):
  with pytest.raises(file_lib.FileError, match=f"file {path}; "):
    parse(f"--config={path}")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "Cannot read --flagfile={}: No such file or directory."),
    (b"\xff", "Cannot read the file of --flagfile: it is not text"),
    (b"--config.train.num_epoch=1", "did you mean config.train.num_epochs?"),
    (b"--config.train=1", "Expected a field of config.train, got '--config.tr"),
  ],
)
def test_error_in_a_file_of_flags_is_that_of_the_command_line(
  parse, tmp_path, capsys, content, message
):
  path = tmp_path / "flags"
  if content is not None:
    path.write_bytes(f"--config={ROOT}/configs/digits.py\n".encode() + content)
  with pytest.raises((SystemExit, flags.Error)) as error:
    parse(f"--flagfile={path}")
  shown = capsys.readouterr().err + str(error.value)
  assert message.format(path) in shown


def test_field_without_a_configuration_names_the_missing_flag(capsys):
  with pytest.raises(SystemExit):
    command_line._parse(["train.py", "--config.train.num_epochs=1"])
  line = capsys.readouterr().err
  assert line.startswith(
    "Error: Expected --config=FILE with --config.train.num"
  )


def test_field_without_an_effect_ends_the_command_in_one_line(parse, capsys):
  with pytest.raises(SystemExit) as error:
    parse(
      f"--config={ROOT}/configs/digits.py",
      "--config.objective.name=kl",
      "--config.objective.num_steps=10",
    )
  assert error.value.code == command_line.USAGE_ERROR
  line = capsys.readouterr().err
  assert line.startswith("Error: Expected no config.objective.num_steps")
  assert line.count("\n") == 1


@pytest.mark.parametrize("argument", ["--output=", "--runs="])
def test_empty_path_of_a_flag_is_refused_by_name(argument):
  values = flags.FlagValues()
  flags.DEFINE_multi_string("runs", None, "", flag_values=values)
  command_line.require_path("runs", values)
  command_line.define_directory("output", "", values)
  with pytest.raises(flags.IllegalFlagValueError, match=argument[:-1]):
    values(["evaluate.py", argument])


def test_path_of_a_flag_may_be_repeated():
  values = flags.FlagValues()
  flags.DEFINE_multi_string("runs", None, "", flag_values=values)
  command_line.require_path("runs", values)
  values(["evaluate.py", "--runs=b", "--runs=c"])
  assert values.runs == ["b", "c"]


@pytest.fixture
def fields():
  """Function from arguments to the values of the flags of a schema."""

  def parse(*arguments):
    values = flags.FlagValues()
    found = command_line.define_fields(
      config.EvaluationConfig,
      leave_out=["validation_examples"],
      flag_values=values,
    )
    values(["evaluate.py", *arguments])
    return command_line.field_values(found), values

  return parse


def test_fields_of_a_schema_are_flags_with_its_types_texts_and_limits(fields):
  assert fields()[0] == {}
  values, defined = fields(
    "--num_steps=3", "--epsilon=0.5", "--norm=l2", "--epsilon_grid=0,0.5"
  )
  assert values == {
    "num_steps": 3,
    "epsilon": 0.5,
    "norm": "l2",
    "epsilon_grid": (0.0, 0.5),
  }
  assert {*defined} == {
    field.name for field in dataclasses.fields(config.EvaluationConfig)
  } - {"validation_examples"}
  assert defined["restarts"].help.startswith("number of restarts of the PGD")


@pytest.mark.parametrize(
  "argument",
  ["--num_steps=0", "--norm=l7", "--epsilon=-1", "--epsilon_grid=0,-1",
   "--epsilon_grid=0,x", "--epsilon=nan", "--epsilon=inf",
   "--epsilon_grid=0,inf"],
)  # fmt: skip
def test_a_flag_of_a_field_meets_its_condition(fields, argument):
  with pytest.raises(flags.IllegalFlagValueError, match=argument[2:7]):
    fields(argument)


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
@pytest.mark.parametrize("number", [2, 15])
def test_signal_among_the_imports_is_one_line(program, number):
  result = subprocess.run(
    [sys.executable, "-c", AT_THE_IMPORTS, ROOT / program, str(number)],
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert result.returncode == 128 + number
  assert result.stderr == f"Error: Stopped by signal {number}.\n"


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
def test_a_package_that_is_not_installed_is_one_line(program):
  result = subprocess.run(
    # Nothing but the standard library, as before any installation, also where
    # PYTHONPATH names the packages.
    [sys.executable, "-ES", program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert result.returncode == 1
  [line] = result.stderr.splitlines()
  assert line.startswith("Error: No module named ")
  assert "pip install '.[train]'" in line


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_help_has_every_flag_and_field(name):
  result = subprocess.run(
    [sys.executable, ROOT / f"{name}.py", "--help"],
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stderr == ""
  sources = (ROOT / f"{name}.py", pathlib.Path(command_line.__file__))
  named = re.compile(r'(?:DEFINE_\w+|define_directory)\(\s*"(\w+)"')
  wanted = {n for path in sources for n in named.findall(path.read_text())}
  wanted.add("config")
  if name == "evaluate":
    wanted |= {*schema.names(config.EvaluationConfig)}
    wanted.remove("validation_examples")
  else:
    wanted |= {f"config.{field}" for field in config.flatten(config.Config())}
  shown = re.findall(r"^  --(?:\[no\])?([\w.]+)", result.stdout, re.MULTILINE)
  assert sorted(shown) == sorted({*wanted, "verbosity"})
  assert max(map(len, result.stdout.splitlines())) <= 90


def test_request_to_stop_is_never_hidden():
  shown = []
  stops = [interruption.Stopped(15), KeyboardInterrupt()]
  for error in (OSError(28, "full"), *stops):
    command_line._named_only(
      shown.append,
      types.SimpleNamespace(object=None, err_msg=None, exc_value=error),
    )
  assert [one.exc_value for one in shown] == stops


@pytest.mark.parametrize(
  ("error", "leaves"),
  [
    (interruption.Stopped(15), True),
    (KeyboardInterrupt(), True),
    (ValueError("wrong"), False),
  ],
)
def test_a_stop_ends_the_process_at_once(monkeypatch, capsys, error, leaves):
  left = []
  monkeypatch.setattr(streams, "leave", left.append)
  with pytest.raises(SystemExit):
    command_line._fail(error, 143)
  assert left == [143] * leaves
  assert capsys.readouterr().err.startswith("Error: ")
