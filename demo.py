"""Trains two short runs and compares them: plain DPO, and a setting that does well. `make demo` runs this.

Both start from the embedded model and see the same pairs in the same order (scenario 1: the model's own best and worst answers).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from callbacks.output.console import say
from callbacks.output.run_summary import Line, further_options, next_steps, opening, summary_lines
from command_line.failures import exit_code
from reports.page import report_page
from reports.runs import load_run
from run_folder.program import spelled
from run_folder.rows import tracks_of
from train import main

EXPERIMENTS = ("demo_dpo", "demo_sft_dpo")
OPENING = (
    "Two runs from the same model on the same pairs: DPO, which will solve fewer problems than before, then the same with a "
    "likelihood term, which will not. Each takes a minute; the comparison comes last."
)
CONFIGS = Path(__file__).parent / "configs" / "experiment"


def run(experiment: str) -> tuple[Path, str, tuple[str, ...]]:
    """Train; returns the run's folder, its last checkpoint, and the options that take it further."""
    trainer = main(["fit", "--config", str(CONFIGS / f"{experiment}.yaml")]).trainer
    assert trainer.log_dir is not None, "the demo's configs have a logger"
    return Path(trainer.log_dir), str(Path(trainer.log_dir) / "checkpoints" / "last.ckpt"), further_options(trainer)


def comparison(runs: Mapping[str, list[Line]]) -> Table:
    """What every run did, a column a run; all start from the same place."""
    table = Table(title="The same model, the same pairs, as many steps", title_justify="left", caption_justify="left")
    table.caption = "Log-likelihoods: nats per completion, mean over the frozen probe bank. Accuracy: held-out problems solved."
    for header in ("", "start", *runs):
        table.add_column(header, justify="left" if not header else "right")
    by_name = [{line.name: line for line in lines} for lines in runs.values()]
    for name, line in by_name[0].items():
        ends = [lines[name] for lines in by_name if name in lines]
        start = "" if line.start is None else f"{line.start:.{line.digits}f}"
        table.add_row(name, start, *(f"{end.end:.{end.digits}f}" for end in ends))
    return table


def said(folders: Mapping[str, Path]) -> list[str]:
    """What became of each run, a line each."""
    return [f"{name}: {' '.join(opening(folder, tracks_of(folder)))}" for name, folder in folders.items()]


def demo(args: Sequence[str] | None = None) -> None:
    """Run both, compare them, and say where to look next."""
    argparse.ArgumentParser(prog=spelled("python demo.py"), description=OPENING).parse_args(args)
    console = Console()
    say(console, OPENING)
    runs = {experiment: run(experiment) for experiment in EXPERIMENTS}
    folders = {experiment: folder for experiment, (folder, *_) in runs.items()}
    tracks = {experiment: summary_lines(tracks_of(folder)) for experiment, folder in folders.items()}
    page = folders[EXPERIMENTS[0]].parents[1] / "demo.html"
    page.write_text(report_page([load_run(folder) for folder in folders.values()]), encoding="utf-8")
    say(console, "", comparison(tracks), *said(folders), f"Report of both:  {page}", "Curves of both:  tensorboard --logdir runs")
    say(console, next_steps(*runs[EXPERIMENTS[0]])[-1])


if __name__ == "__main__":
    is_debug = "--debug" in sys.argv
    sys.exit(exit_code(lambda: demo([argument for argument in sys.argv[1:] if argument != "--debug"]), is_debug=is_debug))
