"""Command lines of one program at a fraction of the cost of its start.

Almost all of the time of a start goes into imports. `Preloaded(program, ...)`
is a process that has made the imports of the program. Each command line then
runs in a fork of this process, as the program itself would: with its own
`sys.argv`, streams, signals, exit code and end. No backend of JAX has started
before, so no threads are shared.

`Preloaded` runs this file as a program: python preloaded.py PROGRAM. It sends
one request per line on the standard input. For each request the program answers
with two lines, the process number and, once the process has ended, its exit
code.
"""

import ast
import json
import os
import pathlib
import resource
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import warnings

import short_process


class Preloaded:
  """A process that starts a program repeatedly; a context manager."""

  def __init__(self, program, *, cwd, environment):
    self._server = subprocess.Popen(
      [sys.executable, __file__, program],
      cwd=cwd,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      # Answers are read line by line: no line may wait in a buffer here.
      bufsize=0,
    )

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._server.stdin.close()
    self._server.stdout.close()
    self._server.wait(timeout=60)

  def start(self, *arguments, file_size=None):
    """Starts the program; one at a time, so wait for its end.

    Args:
      *arguments: arguments of the command line.
      file_size: size of the largest file that it may write, in bytes.
    """
    return Process(self._server, [str(a) for a in arguments], file_size)

  def run(self, *arguments, **options):
    """The result of `subprocess.run` for the program with these arguments."""
    return self.start(*arguments, **options).finish()


class Process:
  """A run of the program."""

  def __init__(self, server, arguments, file_size):
    self._server, self._arguments, self.returncode = server, arguments, None
    self._folder = tempfile.TemporaryDirectory()
    streams = [f"{self._folder.name}/{name}" for name in ("out", "err")]
    self._streams = [pathlib.Path(name) for name in streams]
    request = {
      "arguments": arguments,
      "streams": streams,
      "file_size": file_size,
    }
    server.stdin.write(json.dumps(request).encode() + b"\n")
    self.pid = self._read(60)

  def _read(self, timeout):
    """The next number from the server, or None after the timeout."""
    if not select.select([self._server.stdout], [], [], timeout)[0]:
      return None
    return int(self._server.stdout.readline())

  def poll(self, timeout=0):
    """The exit code, as of `subprocess.Popen`; None while it runs."""
    if self.returncode is None:
      self.returncode = self._read(timeout)
    return self.returncode

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)

  def finish(self, timeout=300):
    """Waits for the end and returns exit code and output."""
    if self.poll(timeout) is None:
      self.send_signal(signal.SIGKILL)
      raise TimeoutError(f"{self._arguments} still runs.")
    stdout, stderr = (path.read_text() for path in self._streams)
    self._folder.cleanup()
    return subprocess.CompletedProcess(
      self._arguments, self.returncode, stdout, stderr
    )


def _import(program):
  """Executes the imports at the top of a program."""
  tree = ast.parse(pathlib.Path(program).read_text())
  imports = [
    node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
  ]
  exec(compile(ast.Module(imports, []), program, "exec"), {})


def _become(program, request):
  """Runs the program in this process, to its end."""
  for number, path in enumerate([os.devnull, *request["streams"]]):
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(file, number)
    os.close(file)
  if request["file_size"] is not None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], hard))
  sys.argv = [program, *request["arguments"]]
  runpy.run_path(program, run_name="__main__")


def main():
  """See the module docstring."""
  program = sys.argv[1]
  sys.path[0] = str(pathlib.Path(program).resolve().parent)
  _import(program)
  short_process.collect_no_garbage()
  for line in sys.stdin:
    with warnings.catch_warnings(action="ignore"):
      child = os.fork()
    if child == 0:
      _become(program, json.loads(line))
      return
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
  main()
