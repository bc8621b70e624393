"""Prints help without importing torch: the subcommands, and the choices for every part that has a short name."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from command_line.short_names import ROOT, Choice, choices, class_path_of, found, lineage
from run_folder.program import spelled

PARTS = {
    "model": "TrainedModule",
    "data": "BaseDataModule",
    "loss": "Loss",
    "format": "RowFormat",
    "policy": "PolicySpec",
    "task": "Task",
    "judge": "Judge",
    "callbacks": "Callback",
}
"""Last word of an option -> the base of the classes that it takes."""

SUBCOMMANDS = {
    "fit": "train, and validate on the way",
    "validate": "one pass over the validation split, or a diagnosis of checkpoints",
    "test": "one pass over the test split, or a task's results",
    "predict": "draw responses",
}
STRATEGIES = "auto, ddp; FSDP2 by its class lightning.pytorch.strategies.ModelParallelStrategy"
_WIDTH = 100
_HELP = {"-h", "--help"}
FULL = "--trainer.help"
"""Asks for every option, of the trainer too, which takes the imports."""


def help_page(arguments: Sequence[str]) -> str | None:
    """The page that is asked for; None where it is none of these, or a run is asked for."""
    for place, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option.startswith("--") and option.endswith(".help") and option != FULL:
            following = "".join(arguments[place + 1 : place + 2])
            return _part(option.removeprefix("--").removesuffix(".help"), value or following)
    if not _HELP & {*arguments}:
        return None
    subcommands = [argument for argument in arguments if argument in SUBCOMMANDS]
    return spelled(_subcommand(subcommands[0])) if subcommands else program_page()


def program_page(others: Mapping[str, str] | None = None) -> str:
    """What the command can do.

    Args:
        others: `{subcommand: what it does}` of those that are no runs.
    """
    lines = [f"  {name:10}{what}" for name, what in (SUBCOMMANDS | dict(others or {})).items()]
    page = "\n".join(
        [
            "usage: python train.py SUBCOMMAND --config configs/experiment/<name>.yaml [--<option> <value> ...]",
            "",
            *lines,
            "",
            "Options of one: python train.py fit --help. Version: --version.",
            *_list("Experiments", (path.stem for path in sorted((ROOT / "configs/experiment").glob("*.yaml")))),
        ]
    )
    return spelled(page)


def _subcommand(name: str) -> str:
    resume = "go on from a checkpoint" if name == "fit" else "weights of a checkpoint"
    return "\n".join(
        [
            f"usage: python train.py {name} --config configs/experiment/<name>.yaml [--<option> <value> ...]",
            f"{SUBCOMMANDS[name].capitalize()}. Every value of the config can be given as an option, after --config:",
            "",
            "  --trainer.max_steps 100            optimizer steps (--trainer.max_epochs: passes)",
            "  --trainer.accelerator cpu          auto, cpu, gpu; --trainer.devices 2 --trainer.strategy ddp",
            "  --trainer.precision bf16-mixed     32-true by default",
            "  --trainer.logger.save_dir runs     the run goes to <save_dir>/<experiment>/version_N",
            "  --trainer.callbacks+ <name>        one more; --trainer.callbacks.help lists them",
            "  --model.policy.path <model>        a folder, a hub name or a .gguf file",
            "  --model.optimizer.lr 5e-6",
            "  --model.loss simpo --model.loss.beta 2.5",
            "  --data.train.path pairs.jsonl --data.format hh",
            f"  --ckpt_path <run>/checkpoints/last.ckpt   {resume}",
            "  --seed_everything 0",
            "  --print_config                     the whole config, and no run (last on the line)",
            "  --debug                            the traceback of a failure",
            *_list("Losses (--model.loss.help)", choices("Loss")),
            *_list("Formats (--data.format.help)", choices("RowFormat")),
            *_list("Strategies", [STRATEGIES]),
            *_list("Modules (--model.help)", choices("TrainedModule")),
            *_list("Data modules (--data.help)", choices("BaseDataModule")),
            "",
            f"One choice: --model.loss.help simpo. All options of the trainer: python train.py {name} {FULL}",
        ]
    )


def _part(option: str, name: str) -> str | None:
    part = option.rsplit(".", 1)[-1]
    if part not in PARTS:
        return None
    base = PARTS[part]
    if name and not name.startswith("-"):
        path = class_path_of(base, name.rsplit(".", 1)[-1])
        choice = found(path.rsplit(".", 1)[-1]) if path else None
        # Of others the full parser knows more: what they hand on, and what is linked.
        return _described(choice, option) if choice and _is_dataclass(choice) else None
    known = choices(base)
    width = max(map(len, known)) + 2
    rows = [textwrap.shorten(f"{key} {choice.summary}", _WIDTH + 20).removeprefix(key).strip() for key, choice in known.items()]
    lines = [f"  {key:{width}}{row}" for key, row in zip(known, rows, strict=True)]
    return "\n".join(
        [
            f"--{option} takes one of these, or the path of a class or of a YAML file:",
            "",
            *lines,
            "",
            f"One of them: --{option}.help <name>",
        ]
    )


def _described(choice: Choice, option: str) -> str:
    rows = [line for field in _fields(choice) for line in field]
    options = [f"Options, --{option}.<name> <value>:", *rows] if rows else ["It has no options."]
    return "\n".join([choice.class_path, "", choice.docstring, "", *options])


def _fields(choice: Choice) -> Iterator[tuple[str, str]]:
    """Name with type and default, and the sentence below it, of every field; those of bases first."""
    named: dict[str, tuple[str, str]] = {}
    for one in reversed([one for one in lineage(choice) if _is_dataclass(one)]):
        body = one.node.body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
                default = f" = {ast.unparse(node.value)}" if node.value else "   (required)"
                told = (
                    ast.literal_eval(after.value) if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                named[node.target.id] = (
                    f"  {node.target.id}: {ast.unparse(node.annotation)}{default}",
                    f"      {' '.join(str(told).split())}",
                )
    yield from named.values()


def _is_dataclass(choice: Choice) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in choice.node.decorator_list)


def _list(title: str, names: Sequence[str] | Iterator[str] | dict[str, Choice]) -> list[str]:
    return ["", f"{title}:", *textwrap.wrap(", ".join(names), _WIDTH, initial_indent="  ", subsequent_indent="  ")]
