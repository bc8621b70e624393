"""Makes `python -m prefscope` the same as the command `prefscope`."""

import sys

from prefscope.command import main

if __name__ == "__main__":
    sys.exit(main())
