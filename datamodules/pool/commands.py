"""The command line of `python -m datamodules.pool`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median

from datamodules.pool.files import read_pool, write_pool
from datamodules.pool.merge import SourceStats, merge_rows, pool_stats
from datamodules.pool.scenarios import SCENARIOS, PairRules, view_scenario
from datamodules.pool.schema import PoolRow

_FEW_SCORES = 10


def main(arguments: Sequence[str] | None = None, program: str = "python -m datamodules.pool") -> int:
    """Run one command, which help calls by the name of the program; returns the exit code."""
    parser = argparse.ArgumentParser(prog=program, description="Look at, check and merge response pools.")
    commands = parser.add_subparsers(required=True)
    for name, function in (("stats", _stats), ("merge", _merge), ("validate", _validate)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("pools", nargs="+", help="JSONL or Parquet, plain, .gz or .xz")
        command.set_defaults(run=function)
    commands.choices["merge"].add_argument("--output", required=True, help="the ending names the format")
    for name, default, text in (
        ("--min-gap", 1.0, "points by which the best response must beat the worst to make a pair"),
        ("--min-chosen-score", None, "points that the chosen response must have"),
    ):
        commands.choices["stats"].add_argument(name, type=float, default=default, help=text)
    options = parser.parse_args(arguments)
    return int(options.run(options))


def _stats(options: argparse.Namespace) -> int:
    """What is in each pool, by source, and how many pairs each scenario would have."""
    rules = PairRules(min_gap=options.min_gap, min_chosen_score=options.min_chosen_score)
    for path in options.pools:
        rows = _clean_rows(path)
        print(f"{path}: {len(rows)} prompts")
        for stats in pool_stats(rows):
            print(_describe(stats))
        for scenario in SCENARIOS:
            view = view_scenario(dict(enumerate(rows)), scenario, shared=(scenario,), rules=rules)
            print(f"  scenario {scenario} alone: {view.summary()}")
        print(f"  shared by all four: {len(view_scenario(dict(enumerate(rows)), 1, rules=rules).pairs)} prompts")
    return 0


def _merge(options: argparse.Namespace) -> int:
    """One pool of several: a row a prompt, with the responses of all."""
    rows = merge_rows(row for path in options.pools for row in _clean_rows(path))
    write_pool(options.output, rows)
    print(f"{options.output}: {len(rows)} prompts, {sum(len(row.responses) for row in rows)} responses")
    return 0


def _validate(options: argparse.Namespace) -> int:
    """Check every row; the exit code is 1 if any is bad."""
    reports = [read_pool(path)[1] for path in options.pools]
    for report in reports:
        print(report.summary())
    return int(any(report.num_bad for report in reports))


def _clean_rows(path: str) -> list[PoolRow]:
    rows, report = read_pool(path)
    report.require_clean()
    return list(rows.values())


def _describe(stats: SourceStats) -> str:
    scores = _describe_scores(stats)
    lines = [
        f"  {stats.source}: {stats.responses} responses to {stats.prompts} prompts, {stats.distinct:.0%} of them distinct, "
        f"{stats.characters:.0f} characters on average",
        f"    mean score {stats.mean_score:.2f} ({scores}), {stats.unscored} unscored",
        f"    judged by {', '.join(stats.judges) or 'nobody'}; models {', '.join(name[:12] for name in stats.models) or 'unknown'}",
    ]
    return "\n".join(lines)


def _describe_scores(stats: SourceStats) -> str:
    """How often each score was given; of graded scores the range and the median."""
    if len(stats.scores) <= _FEW_SCORES:
        return ", ".join(f"{score:g}: {count}" for score, count in sorted(stats.scores.items()))
    scores = sorted(stats.scores.elements())
    return f"{scores[0]:.3g} to {scores[-1]:.3g}, median {median(scores):.3g}"
