"""The trained reward model in a folder of its own: what PPO, a critic, or the reward-model judge loads."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from lightning.pytorch import LightningModule
from typing_extensions import override

from callbacks.policy_export import PolicyExport, SavingPolicy, SavingTokenizer

LAYOUT = "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ eos_token }}"
"""Plain text as training lays it out: the prompt, the response, the end of sequence, nothing between."""


class RewardedModule(Protocol):
    """What the export needs of a module."""

    reward_model: SavingPolicy


class RewardExport(PolicyExport):
    """Saves the reward model to `<run>/reward_model` when a fit has ended; never over an earlier one, and not after an error.

    A tokenizer without a chat template gets one that lays plain text out as training did, so that `RewardModelJudge` and other
    tools score what was trained.
    """

    folder_name = "reward_model"

    @override
    def exported(self, pl_module: LightningModule) -> SavingPolicy:
        return cast(RewardedModule, pl_module).reward_model

    @override
    def save_tokenizer(self, tokenizer: SavingTokenizer, folder: Path) -> None:
        super().save_tokenizer(tokenizer, folder)
        if getattr(tokenizer, "chat_template", None) is None:
            (folder / "chat_template.jinja").write_text(LAYOUT, encoding="utf-8")
