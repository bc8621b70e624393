"""A part of the GPU script that behaves as its name says, for the rehearsal of what can go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from bench.gpu.rows import part_options

options = part_options()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) if options.part == "hangs" else None
options.add("before", value=1, child=child and child.pid)
if options.part == "hangs":
    time.sleep(600)
if options.part == "crashes":
    raise RuntimeError("expected a kernel, got none")
if options.part == "is killed":
    with options.rows.open("a") as file:
        file.write('{"part": "is killed", "name": "cut')
    os.kill(os.getpid(), signal.SIGKILL)
options.add("after", value=2)
