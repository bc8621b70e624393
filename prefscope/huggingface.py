"""A callback for trainers built on Hugging Face's (TRL, axolotl, LLaMA-Factory): diagnoses the run while it trains.

```python
from prefscope.huggingface import PrefscopeCallback

trainer = DPOTrainer(..., callbacks=[PrefscopeCallback(pairs="pairs.jsonl")])
```
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from prefscope.application import own_process
from prefscope.pairs import Pairs, pairs_file

_LAUNCHERS = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|NODE_RANK|(TORCHELASTIC|ACCELERATE|SLURM|OMPI|PMI)_\w+"
)
"""Variables that say which process of a training this is: the diagnosis is none of them."""


class PrefscopeCallback(TrainerCallback):  # type: ignore[misc]
    """Starts `prefscope diagnose --follow` on the trainer's output folder, and ends it with the training.

    Each checkpoint that the trainer saves is read once. The page is `<output folder>/prefscope/report.html`; curves and rows are
    beside it, and `prefscope.log` has what the diagnosis says. It runs in a process of its own, on the CPU by default, started by
    the main process of the training alone. If it fails, the training goes on. If the training is killed, it reads what is there
    and ends.

    Args:
        pairs: a file, or rows, with a prompt, a chosen and a rejected answer.
        reference: what the training starts from; by default the name of the trainer's model, and of an adapter its base.
        options: of `prefscope diagnose`; `["--trainer.accelerator=auto"]` takes the GPU, which has to have room for the model.
        patience: seconds to wait, when the training has ended, for what is still to be read.
    """

    def __init__(
        self,
        pairs: Pairs,
        reference: str | None = None,
        *,
        options: Sequence[str] = ("--trainer.accelerator=cpu",),
        patience: float = 600.0,
    ) -> None:
        self.pairs = pairs
        self.reference = reference
        self.options = options
        self.patience = patience
        self.page: Path | None = None
        """Where the page will be."""
        self._process: subprocess.Popen[bytes] | None = None

    @override
    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self._process is not None:
            return
        try:
            self._start(Path(args.output_dir), self.reference or _start_of(kwargs.get("model")))
        # The training is what matters.
        except Exception as error:
            print(f"prefscope: the diagnosis of this training could not start. {type(error).__name__}: {error}")
            return
        never = getattr(args.save_strategy, "value", args.save_strategy) == "no"
        hint = " No checkpoint will be saved (save_strategy: no), so there will be nothing to read." if never else ""
        print(f"prefscope: reads each checkpoint; page: {self.page}; log: {self._log}.{hint}")

    @override
    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            self._finish(process)
        except Exception as error:
            print(f"prefscope: {type(error).__name__}: {error}")
        finally:
            if process.poll() is None:
                process.terminate()

    @property
    def _log(self) -> Path:
        assert self.page is not None, "set at the start"
        return self.page.with_name("prefscope.log")

    def _start(self, folder: Path, reference: str | None) -> None:
        here = folder / "prefscope"
        here.mkdir(parents=True, exist_ok=True)
        self.page = here / "report.html"
        words = [str(folder), "--follow", "--until-closed", f"--pairs={pairs_file(self.pairs, here)}", f"--output={self.page}"]
        words += [f"--trainer.logger.save_dir={here}", *([f"--reference={reference}"] if reference else []), *self.options]
        variables = {name: value for name, value in os.environ.items() if not _LAUNCHERS.fullmatch(name)}
        with self._log.open("wb") as log:
            # It ends when this end of the pipe is closed, which the system does for a process that is killed.
            self._process = subprocess.Popen(
                own_process("diagnose", *words),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        pipe: IO[bytes] | None = process.stdin
        assert pipe is not None, "opened with a pipe"
        pipe.close()
        print(f"prefscope: reads the last checkpoint (at most {self.patience:g} s; Ctrl-C leaves it out).")
        try:
            process.wait(self.patience)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # It concludes with what it has read.
            process.terminate()
            process.wait(30)
        print("\n".join(_end_of(self._log, process.returncode)))


def _start_of(model: object) -> str | None:
    """Name of the model that a training starts from; None for an adapter, which says itself what it is trained on."""
    if hasattr(model, "get_base_model"):
        return None
    return getattr(model, "name_or_path", None) or None


def _end_of(log: Path, code: int) -> list[str]:
    """The verdict, which comes last; or what went wrong."""
    lines = [line.rpartition("\r")[2].rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    first = next((place for place, line in enumerate(lines) if re.match(r"\d+ checkpoints?, step ", line)), None)
    if code == 0 and first is not None:
        return lines[first:]
    return [f"prefscope: the diagnosis ended with exit code {code}. {log} ends with:", *lines[-3:]]
