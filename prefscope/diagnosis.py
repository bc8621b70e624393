"""`prefscope.diagnose`: a diagnosis of a policy as a Python object."""

from __future__ import annotations

import html
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from prefscope.application import own_process
from prefscope.pairs import Pairs, pairs_file

if TYPE_CHECKING:
    from pandas import DataFrame

_TOLD = 4000
"""Characters of the process's own words that are kept for an error."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found; printed, it is the verdict."""

    verdict: str
    """A few lines: what the likelihoods did, how sure that is, and what was not judged."""
    properties: dict[str, str]
    """Property -> `shows ...`, `no sign`, or `not judged: ...` with the reason."""
    harm: str
    """How likely it is that the answers got worse, by the calibrated warning; or `not judged: ...` with the reason."""
    table: DataFrame
    """A row a checkpoint (`step`), a column a metric: likelihoods, rewards and accuracies, with 95% intervals over pairs."""
    page: Path
    """The report."""
    folder: Path
    """Where the rows are (`diagnostics/*.jsonl`), and TensorBoard's events."""

    def __str__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<pre>{html.escape(self.verdict)}</pre><p>Page: <code>{html.escape(str(self.page))}</code></p>"


def diagnose(
    checkpoints: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    pairs: Pairs,
    reference: str | PathLike[str] | None = None,
    output: str | PathLike[str] = "report.html",
    limit: int = 500,
    options: Sequence[str] = (),
) -> Diagnosis:
    """Read checkpoints on pairs, in a process of its own, whose progress goes to the error output.

    Args:
        checkpoints: models or adapters, or folders that hold them, in order.
        pairs: a file, or rows, with a prompt, a chosen and a rejected answer.
        reference: the model that the training started from; of adapters their base by default.
        output: the page.
        limit: pairs to read, drawn at random.
        options: further ones of `prefscope diagnose`, such as `--data.format=sharegpt` or `--trainer.accelerator=cpu`.

    Raises:
        RuntimeError: if nothing could be read, with the reason in words.
    """
    given = [checkpoints] if isinstance(checkpoints, str | PathLike) else checkpoints
    with tempfile.TemporaryDirectory(prefix="prefscope-") as folder:
        result = Path(folder, "result.json")
        named = [] if reference is None else [f"--reference={reference}"]
        words = [*map(str, given), *named, f"--pairs={pairs_file(pairs, Path(folder))}", f"--output={output}", f"--limit={limit}"]
        command = own_process("diagnose", *words, f"--json={result}", *options)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None, "opened with a pipe"
            told = _passed_on(process.stderr)
        if process.returncode or not result.is_file():
            raise RuntimeError(_reason(told) or f"expected a diagnosis, got exit code {process.returncode}.")
        return _read(json.loads(result.read_text(encoding="utf-8")))


def _passed_on(stream: IO[bytes]) -> str:
    """Show what the process says, its bars too; returns the end of it."""
    told = ""
    while chunk := getattr(stream, "read1", stream.read)(1024):
        text = chunk.decode("utf-8", "replace")
        sys.stderr.write(text)
        sys.stderr.flush()
        told = (told + text)[-_TOLD:]
    return told


def _reason(told: str) -> str:
    """From the line that names what failed on."""
    lines = told.rstrip().splitlines()
    first = next((place for place, line in enumerate(lines) if "error: " in line or "diagnose: " in line), max(0, len(lines) - 3))
    return "\n".join(lines[first:])


def _read(result: dict[str, Any]) -> Diagnosis:
    # Not above: a program that imports the package to train has no use for it, and it takes half a second.
    from pandas import DataFrame

    table = DataFrame(result["checkpoints"])
    return Diagnosis(
        verdict="\n".join(result["verdict"]),
        properties=result["properties"],
        harm=result["harm"],
        table=table.set_index("step") if "step" in table else table,
        page=Path(result["page"]),
        folder=Path(result["folder"]),
    )
