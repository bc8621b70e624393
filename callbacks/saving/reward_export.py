"""Exports the trained reward model as a folder that PPO, critics, the reward-model judge and transformers load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from callbacks.answers.texts import hub_tokenizer_of
from callbacks.saving.policy_export import PolicyExport
from datamodules.contracts.stores import SplitStore, data_of, require
from datamodules.tokens.layout import share_laid_out, trained_tokenizer
from lightning_modules.contracts import HasRewardModel
from lightning_modules.models.scalars.reward_model import RewardModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_PROMPTS = 64
"""Training prompts that are looked at to see how they were laid out."""


class RewardExport(PolicyExport):
    """Saves the reward model to `<run>/reward_model` when a fit has ended; never over an earlier one, and not after an error.

    The folder's chat template and padding token are those that give the trained reward in plain transformers, at the last token:
    `model(**tokenizer.apply_chat_template([user, assistant], return_dict=True, return_tensors="pt")).logits`, in batches with
    `padding=True`. For a template with something behind the end of a turn (a line break), and for training on plain text, that is
    another template than the policy's. Where no template gives it, a warning says so when the fit starts.
    """

    folder_name = "reward_model"

    def __init__(self) -> None:
        super().__init__()
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @override
    def trained(self, pl_module: LightningModule) -> HasRewardModel:
        return require(pl_module, HasRewardModel)

    @override
    def exported(self, pl_module: LightningModule) -> RewardModel:
        return require(pl_module, HasRewardModel).reward_model

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        tokenizer = hub_tokenizer_of(trainer)
        if tokenizer is not None:
            self._tokenizer = _as_trained(tokenizer, trainer)

    @override
    def save_tokenizer(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        super().save_tokenizer(self._tokenizer or tokenizer, folder)
        if self._tokenizer is not None:
            _set_padding(folder, self._tokenizer.pad_token_id)


def _as_trained(tokenizer: PreTrainedTokenizerBase, trainer: Trainer) -> PreTrainedTokenizerBase | None:
    examples = require(data_of(trainer), SplitStore).dataset("train").examples
    share = share_laid_out(tokenizer, [example.prompt_ids for example in examples[:NUM_PROMPTS]])
    if 0 < share < 1:
        rank_zero_warn(
            f"The reward model is trained on prompts in the chat template ({share:.0%} of the first {NUM_PROMPTS}) and on others. "
            "The exported folder will lay conversations out with the template."
        )
    try:
        return trained_tokenizer(tokenizer, is_chat=share > 0)
    except ValueError as error:
        rank_zero_warn(
            f"The exported folder will keep the chat template as it is, and may give other rewards than trained: {error}"
        )
        return None


def _set_padding(folder: Path, token_id: int) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    config.get_text_config().pad_token_id = token_id
    config.save_pretrained(folder)
