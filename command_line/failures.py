"""Ends a failed run with a sentence and an exit code; an error of the program itself also leaves its traceback."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from command_line.causes import innermost
from command_line.short_names import ROOT
from run_folder.program import spelled

_LINES = 6
_BROKEN_PIPE = 128 + signal.SIGPIPE
"""The exit code of a process that this ends, as shells have it."""

_EXTRAS = {"math_verify": "judges", "openai": "judges", "vllm": "vllm", "flash_attn": "fa2"}
"""Package -> the optional dependencies that bring it."""

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|Unable to allocate", re.IGNORECASE)
_NO_ACCELERATOR = re.compile(
    r"`?(\w+?)Accelerator`? can not run on your system|No supported gpu backend found|Found no NVIDIA driver"
)
_PEER_GONE = re.compile(r"Connection (closed|reset) by peer|Socket closed|gloo.*(Broken pipe|EnforceNotMet)|ncclRemoteError")
_DEVICES = re.compile(r"You requested gpu: \[(.*)\]\s*But your machine only has: \[(.*)\]")
_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def exit_code(work: Callable[[], object], is_debug: bool) -> int:
    """Do the work: 0; or 1 where it failed, with what failed on the error output.

    Args:
        work: may raise; SystemExit passes, with its own code.
        is_debug: whether failures pass too, so that Python shows where they were raised.
    """
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has closed it (`| head`). Python flushes once more at exit, which has to go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        if is_debug:
            raise
        print(f"{_rank()}error: {told(error)}", file=sys.stderr)
        _leave_peers()
        return 1
    return 0


def _leave_peers() -> None:
    """Of several processes, end this one now: what Python does at its end may wait for the others, which wait for this one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def told(error: Exception) -> str:
    """A failure in at most 8 lines."""
    return spelled(_told(error))


def _told(error: Exception) -> str:
    text = str(error)
    if "Union subtypes" in text:
        text = "; ".join(innermost(text).reasons)
    words = _known(error, text)
    if words is not None:
        return words
    if text.startswith("expected ") or _is_raised_by_us(error):
        return _shortened(text)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" in {frame.filename}, line {frame.lineno}" for frame in last)
    return (
        f"{type(error).__name__}: {_shortened(text, 3)}\n"
        f"at:{place}\nNothing here foresaw it. The traceback is in {_saved(error)}; --debug shows it on the next try."
    )


def _known(error: Exception, text: str) -> str | None:
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names or isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return (
            f"the memory is full: {_shortened(text, 1)}\n"
            "Lower --data.max_tokens_per_batch first: it bounds the memory of a pass and changes no result.\n"
            "Next: --data.max_length, --trainer.precision bf16-mixed, or --model.policy.gradient_checkpointing true."
        )
    if _PEER_GONE.search(text):
        return "another process of the run has ended, for which this one waited. Why is in its own words, beside these."
    if match := _DEVICES.search(text):
        return f"expected as many devices as trainer.devices asks for, [{match[1]}], got [{match[2]}]. Lower --trainer.devices."
    if match := _NO_ACCELERATOR.search(text):
        kind = match[1] or "GPU"
        return f"expected a {kind} device for trainer.accelerator, got none. Use --trainer.accelerator auto, or cpu.{_hint()}"
    if "invalid accelerator name" in text or ("accelerator" in text and "MisconfigurationException" in names):
        return f"{_shortened(text, 2)}\nUse --trainer.accelerator auto, gpu or cpu."
    if text.startswith("`devices`"):
        return f"expected a number >= 1, auto or a list for trainer.devices. {_shortened(text, 1)} Change --trainer.devices."
    return _of_system(error, names, text)


def _of_system(error: Exception, names: set[str], text: str) -> str | None:
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get(str(error.name).split(".")[0])):
        return f"expected the package {error.name}, got none. Install it: pip install '.[{extra}]'"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full{_of(error)}. Make room, or write elsewhere: --trainer.logger.save_dir <folder>."
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"cannot write{_of(error)}: {error.strerror}. Choose another folder: --trainer.logger.save_dir <folder>."
    if "MisconfigurationException" in names:
        return f"{_shortened(text)}\nChange the option of the trainer that it names."
    return None


def _of(error: OSError) -> str:
    return f" to {error.filename}" if error.filename else ""


def _hint() -> str:
    torch = sys.modules.get("torch")
    return f" PyTorch {torch.__version__} sees no GPU: `nvidia-smi` says whether the driver does." if torch else ""


def _is_raised_by_us(error: Exception) -> bool:
    """Whether a statement of ours raised it, and no library or operator."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not (frames[-1].line or "").startswith("raise "):
        return False
    file = Path(frames[-1].filename)
    # An environment may lie in the checkout, as this may lie in an environment.
    return file.is_relative_to(ROOT) and "site-packages" not in file.relative_to(ROOT).parts


def _shortened(text: str, lines: int = _LINES) -> str:
    full = [line.rstrip() for line in text.splitlines() if line.strip()] or ["no message"]
    return "\n".join(full[:lines])


def _saved(error: Exception) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="prefscope-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.writelines(traceback.format_exception(error))
    return file.name


def _rank() -> str:
    """Of several processes, which one failed."""
    utilities = sys.modules.get("lightning.pytorch.utilities")
    rank = getattr(getattr(utilities, "rank_zero_only", None), "rank", None)
    return f"[process {rank}] " if rank else ""
