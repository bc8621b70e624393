"""The command line: `python train.py fit|validate|test|predict --config configs/experiment/<name>.yaml`."""

from __future__ import annotations

from lightning.pytorch.cli import ArgsType, LightningCLI

from datamodules.base import BaseDataModule
from lightning_modules.base import BaseModule


def main(args: ArgsType = None) -> LightningCLI:
    """Run one subcommand; `args` replaces the command line (tests call it in process)."""
    return LightningCLI(
        BaseModule,
        BaseDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"version": "0.1.0"},
        args=args,
    )


if __name__ == "__main__":
    main()
