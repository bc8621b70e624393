"""Options of how decoder layers run, shared by policies, reward models and critics; none changes a result."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.layers.checkpointing import Checkpointing, enable_checkpointing
from lightning_modules.models.layers.compiling import compile_layers


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """Attention, what is kept for backward, and compilation."""

    attention: str = "auto"
    """Attention backend of packed batches, by name, or the fastest that is there."""
    gradient_checkpointing: Checkpointing = False
    """Recompute each layer in backward (true: least memory, about a third more compute), or only what is cheap (`selective`)."""
    compile: bool = False
    """Compile the decoder layers with `torch.compile`: minutes at the first step, faster ones after it. Not with
    `selective` checkpointing: compiled layers compute again what is cheap by themselves."""

    def backend_selector(self) -> BackendSelector:
        """Chooses the attention backend.

        Raises:
            ValueError: if the backend is not installed, or the options exclude each other.
        """
        if self.compile and self.gradient_checkpointing not in (True, False):
            raise ValueError(
                f"expected gradient_checkpointing true or false for compiled layers, got {self.gradient_checkpointing!r}. They "
                "already recompute cheap operations: use false, or true for the least memory."
            )
        return BackendSelector(self.attention)

    def checkpoint_layers(self, model: PreTrainedModel) -> None:
        """Keep less for backward, where that is asked for; compiled layers do so themselves."""
        if self.gradient_checkpointing and not self.compile:
            enable_checkpointing(model, self.gradient_checkpointing)

    def prepare_layers(self, model: PreTrainedModel) -> None:
        """Checkpoint or compile the layers of a model that scores, in place."""
        self.checkpoint_layers(model)
        if self.compile:
            compile_layers(model, checkpoints=bool(self.gradient_checkpointing))
