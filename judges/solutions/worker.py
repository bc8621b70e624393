"""The process behind `SymbolicComparer`: reads pairs of answers and tells whether sympy finds them equal.

Run as a script, so that it needs no other file of this package. One JSON list `[gold, candidate]` a line in, one word a line out.
"""

import contextlib
import json
import os
import sys
from typing import TextIO

MEMORY_LIMIT = 4 << 30  # bytes of address space: a tower of powers must end in MemoryError, not in the machine's swap


def limit_memory() -> None:
    """Cap the address space, on systems that can (POSIX)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def is_same(gold: str, candidate: str) -> bool:
    """Whether math-verify finds two LaTeX answers equal; its own timeouts are off, as the parent ends this process."""
    from math_verify import parse, verify

    golds, candidates = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, candidate))
    return bool(verify(golds, candidates, timeout_seconds=None))


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer `true`, `false` or `error` to each line until the input ends; says `ready` first."""
    is_same("1", "1")  # the slow imports happen before the parent starts its clock
    print("ready", file=replies, flush=True)
    for line in requests:
        try:
            word = str(is_same(*json.loads(line))).lower()
        except (Exception, RecursionError, MemoryError):
            word = "error"
        print(word, file=replies, flush=True)


if __name__ == "__main__":
    limit_memory()
    # What sympy or its parsers print must not be taken for a reply.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, channel)
