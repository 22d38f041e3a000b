"""For programs of tests, too short for garbage collection to pay.

Python would also collect among all objects when the program exits.
"""

import atexit
import gc


def collect_no_garbage():
  """Switches garbage collection off, to the end of the process."""
  gc.disable()
  atexit.register(gc.freeze)
