"""Strategies that take the step of one process: what is tested runs, all else is refused before a model is built."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.parallel import DistributedDataParallel

from datamodules.contracts.stores import data_of


class Parallel(Enum):
    """How processes share the work."""

    ONE = "one process"
    DDP = "DDP"
    FSDP2 = "FSDP2"


ANY, ALONE = frozenset(Parallel), frozenset({Parallel.ONE})

TRAINED: Mapping[str, frozenset[Parallel]] = {
    "SFTModule": ANY,
    "PreferenceModule": ANY,
    "RewardModule": ANY,
    "OnPolicyPreferenceModule": ANY,
    "PPOModule": ANY,
    "TrainedModule": ALONE,
}
"""Strategies that `fit` is tested under, by module; a subclass counts as the nearest of its bases. docs/performance.md shows it."""

EVALUATED: Mapping[str, frozenset[Parallel]] = {"TrainedModule": ANY, "DiagnosisModule": ALONE}
"""The same of `validate`, `test` and `predict`."""

NAMES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
"""Lightning's registered strategies that are supported; FSDP2 has no name and is given by its class."""

REASONS: Mapping[str, str] = {
    ".": "a class is given with its arguments, as class_path and init_args",
    "ddp": "its processes are made of the running one (fork, spawn), and can hang where that one has threads",
    "fsdp": "it flattens the parameters, which exports, checkpoints and diagnostics read one by one",
    "deepspeed": "its engine averages, clips and steps by itself, unseen by what admits a step; FSDP2 shards the same",
    "xla": "nothing here has been tried on a TPU",
    "tpu": "nothing here has been tried on a TPU",
    "single": "it names no device",
}
"""Why others are not, by a part of their names."""

DDP_OPTIONS = frozenset({"find_unused_parameters", "gradient_as_bucket_view"})
"""Options of DDP that do not change the averaged gradient."""

CHOICES = (
    "Use `strategy: ddp`, or FSDP2: the class lightning.pytorch.strategies.ModelParallelStrategy with `data_parallel_size` of all "
    "processes and `tensor_parallel_size: 1`; for one process `devices: 1` and `strategy: auto`."
)


class Split(NamedTuple):
    """A place among those that share something."""

    rank: int
    size: int


def require_supported_name(strategy: object) -> None:
    """Refuse a strategy of the command line before anything is built, and before Lightning looks for packages and devices.

    Args:
        strategy: a registered name; or a class's path and arguments, as a config has them.

    Raises:
        ValueError: if it is none that is supported.
    """
    if isinstance(strategy, str):
        if strategy not in NAMES:
            _refuse_strategy(f"the strategy {strategy}", strategy)
        return
    name = _class_name(strategy)
    if name not in {kind.__name__ for kind in (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)}:
        _refuse_strategy(name, name)
    if getattr(getattr(strategy, "init_args", None), "start_method", "popen") != "popen":
        _refuse_strategy("DDPStrategy with another start_method than popen", "ddp")


def require_readable_checkpoint(path: str | None, strategy: object) -> None:
    """Refuse a checkpoint in parts where the strategy of the command line reads files.

    Args:
        path: of the checkpoint, if there is one.
        strategy: as of `require_supported_name`.

    Raises:
        ValueError: if it is a folder, and the strategy is not FSDP2.
    """
    reads_folders = _class_name(strategy) == ModelParallelStrategy.__name__
    if path is not None and Path(path).is_dir() and not reads_folders:
        raise ValueError(
            f"expected a checkpoint that is one file, got the folder {path}, which FSDP2 wrote, a part a process. Resume it with "
            "the strategy and the number of processes of the run that wrote it. ModelParallelStrategy with "
            "`save_distributed_checkpoint: false` writes files, which DDP reads too; for weights alone, take the exported folder."
        )


def require_tested(module: LightningModule, stage: str) -> None:
    """Refuse a run whose steps would not be those of one process.

    Call it when the processes are up and no model is built (`setup`).

    Args:
        module: attached to its trainer.
        stage: fit, validate, test or predict.

    Raises:
        ValueError: if the strategy is not tested for the module, averages otherwise, or the data is split over other ranks than
            those that average gradients.
    """
    strategy = module.trainer.strategy
    kind = kind_of(strategy)
    table = TRAINED if stage == "fit" else EVALUATED
    tested = next(table[base.__name__] for base in type(module).__mro__ if base.__name__ in table)
    if kind not in tested:
        names = " or ".join(sorted(one.value for one in tested))
        raise ValueError(
            f"expected {type(module).__name__} to run `{TrainerFn(stage).value}` under {names}, which is what is tested, got "
            f"{kind.value} with {module.trainer.world_size} process(es). Set trainer.devices to 1 and trainer.strategy to auto."
        )
    given = getattr(data_of(module.trainer), "step_part", None)
    part = None if given is None else Split(*given)
    own = averaging(strategy, kind)
    require_same_ranks(own if part is None else part, own)


def kind_of(strategy: Strategy) -> Parallel:
    """What a strategy does with several processes.

    Raises:
        ValueError: if it is not supported, or has options that change the averaged gradient.
    """
    # By type and not by instance: a subclass does otherwise somewhere.
    if type(strategy) is SingleDeviceStrategy:
        return Parallel.ONE
    if type(strategy) is DDPStrategy:
        _require_plain_average(strategy)
        return Parallel.DDP
    if type(strategy) is ModelParallelStrategy:
        return Parallel.FSDP2
    name = type(strategy).__name__
    return _refuse_strategy(name, name)


def averaged(strategy: Strategy, *, is_last: bool) -> AbstractContextManager[None]:
    """Context of one of a step's backward passes: DDP averages the gradients of all of them once, with the last."""
    if is_last or not isinstance(strategy, ParallelStrategy):
        return nullcontext()
    return cast(AbstractContextManager[None], strategy.block_backward_sync())


def averaging(strategy: Strategy, kind: Parallel) -> Split:
    """This process among those whose gradients are averaged.

    Raises:
        ValueError: if layers are split over processes (`tensor_parallel_size` above 1).
    """
    if kind is not Parallel.FSDP2:
        return Split(cast(Any, strategy).global_rank, cast(Any, strategy).world_size) if kind is Parallel.DDP else Split(0, 1)
    mesh = cast(ModelParallelStrategy, strategy).device_mesh
    data, layers = mesh["data_parallel"], mesh["tensor_parallel"].size()
    if layers > 1:
        raise ValueError(
            f"expected tensor_parallel_size: 1, got {layers}: no layer here is split over processes, and each of them would train "
            f"on other data without being averaged. Set data_parallel_size to {data.size() * layers} and tensor_parallel_size to 1."
        )
    return Split(data.get_local_rank(), data.size())


def require_same_ranks(data: Split, gradients: Split) -> None:
    """Every process that averages gradients takes its own part of a step, and no other does.

    Args:
        data: the part of a step that this process is given.
        gradients: its place among those that average.

    Raises:
        ValueError: if the two differ.
    """
    if data != gradients:
        raise ValueError(
            f"expected the data to be split over the processes that average gradients, got part {data.rank} of {data.size} of "
            f"each step at place {gradients.rank} of {gradients.size}: the step would not be that of the whole batch. {CHOICES}"
        )


def _class_name(strategy: object) -> str:
    return str(getattr(strategy, "class_path", "")).rsplit(".", 1)[-1]


def _require_plain_average(strategy: DDPStrategy) -> None:
    hooks = {
        "ddp_comm_hook": strategy._ddp_comm_hook,
        "ddp_comm_wrapper": strategy._ddp_comm_wrapper,
        "model_averaging_period": strategy._model_averaging_period,
    }
    given = [name for name, value in hooks.items() if value is not None]
    # A config's object comes with all of torch's options, at their defaults.
    defaults = {name: option.default for name, option in signature(DistributedDataParallel).parameters.items()}
    options = strategy._ddp_kwargs.items()
    given += sorted(name for name, value in options if name not in DDP_OPTIONS and value != defaults.get(name, value))
    if given:
        raise ValueError(
            f"expected DDP to average gradients as they are, got {', '.join(given)}. Leave them out; tested are "
            f"{', '.join(sorted(DDP_OPTIONS))}."
        )


def _refuse_strategy(what: str, name: str) -> Parallel:
    reason = next((why for part, why in REASONS.items() if part in name.lower()), "nobody has tested it here")
    raise ValueError(f"expected a strategy whose steps are tested to be those of one process, got {what}: {reason}. {CHOICES}")
