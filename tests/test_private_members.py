"""Private members of libraries that the code leans on: the whole list, where each is, and that it is still there.

A new one is found by walking the code, and one that a release of its library takes away fails here before it fails a run. The
bounds of the libraries are in pyproject.toml; a release beyond them is to be tried with this file first.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from jsonargparse import _typehints
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, launchers
from torch.utils.tensorboard import SummaryWriter
from transformers import PretrainedConfig, PreTrainedModel

from tests.test_architecture import PACKAGES, files, module_name, tree

NO_PRIVATE = {"_asdict", "_exit", "_replace"}
"""Names that look private and are documented: of named tuples and of `os`."""


def _objects() -> dict[str, object]:
    """Library member -> what has it."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    epoch, strategy, module = trainer.fit_loop.epoch_loop, DDPStrategy(), torch.nn.Module()
    return {
        # Lightning, to take its answer to SIGTERM away (callbacks/control/stop_on_signal.py).
        "_signal_connector": trainer,
        "_sigterm_notifier_fn": trainer._signal_connector,
        "_broadcast_sigterm_tensor": epoch,
        "_SubprocessScriptLauncher": launchers,
        # Whether a validation follows the step, and who started the processes: it says so nowhere else.
        "_should_check_val_fx": epoch,
        "_data_fetcher": trainer.fit_loop,
        "_accelerator_connector": trainer,
        # Whether FSDP2 writes a folder or a file: it says so nowhere else.
        "_save_distributed_checkpoint": ModelParallelStrategy(),
        # What a strategy of the user averages otherwise (lightning_modules/processes/strategies.py).
        **dict.fromkeys(("_ddp_comm_hook", "_ddp_comm_wrapper", "_model_averaging_period", "_ddp_kwargs"), strategy),
        # torch: which gradients the float16 scaler saw overflow; a module's parts, to make a copy of it without its weights.
        "_found_inf_per_device": torch.amp.GradScaler,
        **dict.fromkeys(("_parameters", "_modules", "_buffers", "_forward_hooks", "_forward_pre_hooks"), module),
        **dict.fromkeys(("_state_dict_hooks", "_state_dict_pre_hooks"), module),
        "_version": torch.zeros(1),
        "_get_file_writer": SummaryWriter,
        # transformers: which attention a model has, and its layers for FSDP2.
        "_attn_implementation": PretrainedConfig(),
        **dict.fromkeys(("_no_split_modules", "_supports_attention_backend", "_supports_sdpa"), PreTrainedModel),
        # jsonargparse: how a config is read; tests/test_command_line.py holds that each is called.
        "_typehints": __import__("jsonargparse"),
        **dict.fromkeys(("resolve_class_path_by_name", "discard_init_args_on_class_path_change", "adapt_class_type"), _typehints),
        # RunCheckpoint is a ModelCheckpoint that saves at other times, and removes in another order.
        **dict.fromkeys(
            (
                "_should_skip_saving_checkpoint",
                "_save_topk_checkpoint",
                "_monitor_candidates",
                "_remove_checkpoint",
                "_save_checkpoint",
            ),
            ModelCheckpoint,
        ),
    }


@cache
def own_names() -> frozenset[str]:
    """Private names that our code defines."""
    nodes = [node for path in files(*PACKAGES) for node in ast.walk(tree(path))]
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    fields = {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    stored = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node)}
    return frozenset(defined | fields | stored)


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def foreign_members() -> Iterator[tuple[str, str]]:
    """(file, private member of something else) for every place in the code."""
    for path in files(*PACKAGES):
        for node in ast.walk(tree(path)):
            names = [node.attr] if isinstance(node, ast.Attribute) and not _is_own(node) else []
            is_ours = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) and not is_ours else []
            for name in names:
                if name.startswith("_") and not name.startswith("__") and name not in NO_PRIVATE:
                    yield module_name(path), name


def test_every_private_member_of_a_library_is_on_the_list() -> None:
    listed = _objects()
    new = sorted({f"{place}: {name}" for place, name in foreign_members() if name not in listed and name not in own_names()})
    assert not new, "do without it, or say in _objects() what has it and why it is needed"
    text = "".join(path.read_text(encoding="utf-8") for path in files(*PACKAGES))
    assert [name for name in listed if name not in text] == [], "take it off the list"


@pytest.mark.filterwarnings("ignore::Warning")
def test_every_one_is_still_there() -> None:
    assert {name for name, owner in _objects().items() if not hasattr(owner, name)} == set()
