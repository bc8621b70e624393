"""What is said of an object that lacks what a contract asks; and that the data modules and modules keep theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.base import BaseDataModule
from datamodules.contracts.stores import (
    ProbeStore,
    PromptStore,
    ReferenceStore,
    SampledStore,
    SplitStore,
    TaskStore,
    Tokenizer,
    data_of,
    meets,
    require,
)
from datamodules.pool.rollouts import RolloutDataModule
from datamodules.sampling import SamplingDataModule
from datamodules.tasks.arithmetic.task import ArithmeticTask


def sampling() -> SamplingDataModule:
    return SamplingDataModule(ArithmeticTask(), "tokenizer")


def test_a_data_module_meets_its_contracts_without_being_asked_for_a_property() -> None:
    """The tokenizer of this one is not there to be loaded."""
    data = sampling()
    assert require(data, SampledStore) is data
    assert all(meets(data, contract) for contract in (SplitStore, ReferenceStore, ProbeStore, TaskStore))
    assert all(hasattr(RolloutDataModule, name) for name in ("rollout_prompts", "task_prompts", "tokenizer", "judge"))


@pytest.mark.parametrize(
    ("given", "contract", "words"),
    [
        (None, SplitStore, r"expected a data module of packed examples \(one of datamodules/\), got none\."),
        (
            sampling(),
            PromptStore,
            r"expected a data module that gives prompts to sample for \(datamodules.pool.rollouts.RolloutDataModule\), "
            r"got SamplingDataModule, which has no rollout_prompts\.",
        ),
        (SimpleNamespace(eos_token_id=0), Tokenizer, "expected a tokenizer, got SimpleNamespace, which has no decode"),
    ],
)
def test_what_is_missing_is_said_in_words(given: object, contract: type[Any], words: str) -> None:
    assert not meets(given, contract)
    with pytest.raises(ValueError, match=words):
        require(given, contract)


def test_a_run_with_loaders_alone_has_no_data_module() -> None:
    trainer: Any = SimpleNamespace()
    assert data_of(trainer) is None
    assert issubclass(SamplingDataModule, BaseDataModule)
