"""The tokens with which a model ends a completion."""

from __future__ import annotations

from transformers import PreTrainedModel


def ends_of(model: PreTrainedModel, vocab_size: int) -> frozenset[int]:
    """Ids of `eos_token_id` in the generation configuration (Gemma and Phi list several) and in the configuration.

    A single id that transformers took from the defaults of a configuration class is nobody's word, and left out: the
    tokenizer says what ends a completion.
    """
    generation = getattr(model, "generation_config", None)
    found: set[int] = set()
    for source, is_default in (
        (generation, getattr(generation, "_from_model_config", True)),
        (model.config.get_text_config(), True),
    ):
        ids = getattr(source, "eos_token_id", None)
        if isinstance(ids, list | tuple):
            found.update(ids)
        elif isinstance(ids, int) and not is_default:
            found.add(ids)
    return frozenset(number for number in found if 0 <= number < vocab_size)
