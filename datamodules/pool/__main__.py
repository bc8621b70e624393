"""Inspects, checks and joins response pools: `python -m datamodules.pool stats|validate|merge`."""

import os
import sys

from datamodules.pool.commands import main

try:
    code = main()
    sys.stdout.flush()
except BrokenPipeError:
    # The reader of the pipe has closed it (`| head`). Python flushes once more at exit, which has to go nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 0
raise SystemExit(code)
