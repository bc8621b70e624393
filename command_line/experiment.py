"""The command line of an experiment: LightningCLI with the changes that docs/architecture.md lists."""

from __future__ import annotations

import sys
from pathlib import Path
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from typing_extensions import override

from callbacks.control.stop_on_signal import StopOnSignal
from callbacks.output.console import silence_libraries
from callbacks.saving.checkpoint_file import require_whole
from command_line.advice import Asked
from command_line.appending_parts import require_no_appending_parts
from command_line.help import FULL
from command_line.jsonargparse_rules import our_rules
from command_line.loggers import give_folder, name_runs
from command_line.option_order import require_kept_options
from command_line.parser import ExperimentParser
from command_line.saved_config import SaveRunConfig
from command_line.shipped import find_shipped, with_shipped_files
from datamodules.base import BaseDataModule
from datamodules.toy.scenarios import initial_row
from lightning_modules.models.files.checkpoint_folders import tokenizer_at
from lightning_modules.optimization.precision import require_supported_precision
from lightning_modules.processes.strategies import require_readable_checkpoint, require_supported_name
from lightning_modules.trained import TrainedModule
from prefscope import __version__

DEBUG = "--debug"
"""Shows the traceback of a failure. No option of a run: it is in no saved config."""


class ExperimentCLI(LightningCLI):
    """A command line whose runs go to `runs/<experiment>/version_N`, N counting up.

    <experiment> is the file name of the (first) config; a logger that is given a `name` keeps it. The saved config holds the
    name, so that running it again counts on in the same folder.
    """

    @override
    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        # Of both: the loader takes up a position, the module its weights.
        self.model.allow_changed_data = self.datamodule.allow_changed_data = self.config[self.subcommand].allow_changed_data

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        # Behind those that write checkpoints, which Lightning puts last.
        trainer.callbacks.sort(key=lambda callback: isinstance(callback, StopOnSignal))  # type: ignore[attr-defined]
        return trainer

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--allow_changed_data",
            type=bool,
            nargs="?",
            const=True,
            default=False,
            help="Resume (ckpt_path) although the training data, or the reference, are not the checkpoint's.",
        )
        parser.link_arguments("data.init_args.scenario", "model.init_args.policy.init_args.initial_row", compute_fn=initial_row)
        parser.link_arguments("data.init_args.num_seeds", "model.init_args.policy.init_args.num_seeds")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        given = sys.argv[1:] if args is None else args
        if isinstance(given, list):
            given = with_shipped_files(given)
            require_no_appending_parts(given)
            require_kept_options(given)
        asked = Asked(given if isinstance(given, list) else ())
        for one in (parser, *self._subcommand_parsers.values()):
            one.asked = asked
        with our_rules(asked.classes):
            if isinstance(given, list):
                # Not by Lightning, which warns of arguments beside those of the process.
                self.config = parser.parse_args(["--help" if word == FULL else word for word in given if word != DEBUG])
            else:
                super().parse_arguments(parser, args)

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning's own reads the whole file here, for hyperparameters that no checkpoint of ours has.
        _require_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

    @override
    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        find_shipped(config)
        require_supported_name(config.trainer.strategy)
        require_supported_precision(config.trainer.precision, config.trainer.accelerator)
        _require_room_for_callbacks(config.trainer)
        _leave_out_switched_off(config.trainer)
        require_readable_checkpoint(config.get("ckpt_path"), config.trainer.strategy)
        give_folder(config.trainer)
        if config.config:
            name_runs(config.trainer.logger, Path(config.config[0].relative).stem)
        _share_tokenizer(config)


_SWITCHES = {"enable_progress_bar": ProgressBar, "enable_checkpointing": Checkpoint, "enable_model_summary": ModelSummary}
"""Option of the trainer -> the callbacks that it switches off."""


def _require_room_for_callbacks(trainer: Namespace) -> None:
    if trainer.barebones:
        raise ValueError(
            "expected trainer.barebones: false, got true: a run needs its logger and its callbacks. To time steps alone, pass "
            "--trainer.callbacks '[]'; to try a config and keep nothing, --trainer.fast_dev_run true."
        )


def _is_of(found: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(found, type) and issubclass(found, kinds)


def _leave_out_switched_off(trainer: Namespace) -> None:
    """Take callbacks that an option switches off from the list: Lightning refuses the two together, and configs name both."""
    off = tuple(kind for option, kind in _SWITCHES.items() if trainer.get(option) is False)
    callbacks = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks] if trainer.callbacks else []
    kept = [callback for callback in callbacks if not _is_of(locate(callback.class_path), off)]
    if len(kept) < len(callbacks):
        trainer.callbacks = kept


def _require_checkpoint(path: str | None) -> None:
    """Refuse a checkpoint that is not there, or is damaged, before models and data are built."""
    # Lightning's own words for one, such as best, last and registry:<model>, are no paths.
    if path is None or not path.endswith(".ckpt"):
        return
    if Path(path).exists():
        require_whole(Path(path))
        return
    known = sorted(Path("runs").glob("**/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    newest = f"The newest one here is {known[-1]}." if known else "Runs keep theirs at <run folder>/checkpoints/last.ckpt."
    raise FileNotFoundError(f"expected a checkpoint at {path}, got none. {newest}")


def _share_tokenizer(config: Namespace) -> None:
    """Let a data module whose `tokenizer` is null take the one that lies with the weights of the policy, or of the reward model."""
    data, model = config.data.init_args, config.model.init_args
    recipe = model.get("policy") or model.get("reward_model")
    if recipe is not None and data.get("tokenizer", "") is None:
        # A reward model's recipe is of one class, which the config does not name.
        arguments = recipe.get("init_args", recipe)
        # Of a folder of checkpoints, or an adapter, it may lie elsewhere.
        data.tokenizer = arguments.get("path") and tokenizer_at(arguments.path)
        if arguments.get("trust_remote_code"):
            data.trust_remote_code = True


def run_experiment(args: ArgsType = None) -> LightningCLI:
    """Run one subcommand; `args` replaces the command line.

    Raises:
        SystemExit: with 143, 130 or 138 when SIGTERM, SIGINT or SIGUSR1 has stopped the run, with 2 for unreadable arguments.
    """
    stop = StopOnSignal()
    silence_libraries()
    with stop.listening():
        return ExperimentCLI(
            TrainedModule,
            BaseDataModule,
            # In no config, for no run does without it.
            trainer_defaults={"callbacks": [stop]},
            save_config_callback=SaveRunConfig,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # It serves save_hyperparameters, which no module here calls: a checkpoint's would override the command line.
            load_from_checkpoint_support=False,
            parser_kwargs={"version": __version__},
            parser_class=ExperimentParser,
            args=args,
        )
