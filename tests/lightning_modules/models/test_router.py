"""The load-balancing loss of mixtures of experts: plain transformers' loss on the same sequences, padded."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import SGD
from torch.utils.data import DataLoader

from datamodules.contracts.batches import StepShare
from datamodules.contracts.packing import pack
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.reward import RewardModule
from lightning_modules.sft import SFTModule
from tests.lightning_modules.models.architectures import config, make_batch, sequences
from tests.lightning_modules.stubs import make_pairs

EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    "olmoe": {"num_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8},
    "granitemoe": {"num_local_experts": 4},
}
PADDED_ONLY = {"gpt_oss"}
CASES = [case for case in product(EXPERTS, ("packed", "padded")) if case[1] == "padded" or case[0] not in PADDED_ONLY]


def build(model_type: str, coefficient: float = 0.5, **options: Any) -> CausalLMPolicy:
    fields = config("llama") | {"model_type": model_type, "num_experts_per_tok": 2, **EXPERTS[model_type]}
    asked = {"output_router_logits": True, "router_aux_loss_coef": coefficient}
    return RandomPolicy({**fields, **asked}, seed=1, **options).build()


def plain_loss(policy: CausalLMPolicy) -> Tensor:
    """The whole model's own loss on padded sequences, its labels the completions."""
    pairs = sequences(make_batch())
    ids = pad_sequence([torch.tensor(prompt + completion) for prompt, completion in pairs], batch_first=True)
    mask = pad_sequence([torch.ones(len(prompt + completion)) for prompt, completion in pairs], batch_first=True).long()
    labels = [torch.tensor([-100] * len(prompt) + completion) for prompt, completion in pairs]
    labels_ids = pad_sequence(labels, batch_first=True, padding_value=-100)
    with policy.own_attention():
        loss: Tensor = policy.model(ids, attention_mask=mask, labels=labels_ids, use_cache=False).loss
    return loss


def gradients(policy: CausalLMPolicy, loss: Tensor) -> Tensor:
    policy.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for _, p in sorted(policy.named_parameters()) if p.grad is not None])


@pytest.mark.parametrize(("model_type", "layout"), CASES)
def test_loss_and_gradient_are_those_of_plain_transformers(model_type: str, layout: Any) -> None:
    policy = build(model_type, layout=layout)
    stats = policy(make_batch())
    assert stats.balance_loss is not None
    ours = -stats.logps.mean() + stats.balance_loss
    got, want = gradients(policy, ours), gradients(policy, expected := plain_loss(policy))
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (got - want).norm() < 1e-5 * want.norm()


def test_checkpointed_layers_give_the_same() -> None:
    policy, checkpointed = build("mixtral"), build("mixtral", gradient_checkpointing=True)
    losses = []
    for model in (policy, checkpointed):
        stats = model(make_batch())
        losses.append(gradients(model, -stats.logps.mean() + stats.balance_loss))
    torch.testing.assert_close(losses[0], losses[1])


def test_it_is_there_only_where_the_model_learns_and_its_configuration_asks() -> None:
    policy, batch = build("mixtral"), make_batch()
    with torch.no_grad():
        assert policy(batch).balance_loss is None
    assert policy.eval()(batch).balance_loss is None
    assert build("mixtral", coefficient=0.0)(batch).balance_loss is None
    fields = config("llama") | {"model_type": "mixtral", "num_local_experts": 4, "router_aux_loss_coef": 0.5}
    assert RandomPolicy(fields).build()(batch).balance_loss is None


def test_a_model_that_asks_but_has_no_such_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func")
    with pytest.raises(ValueError, match=r"load-balancing loss .*MixtralForCausalLM.*output_router_logits"):
        build("mixtral")


def test_a_step_adds_it_once_and_logs_it_apart(tmp_path: Path) -> None:
    """Two microbatches: the gradient is that of the mean loss plus the mean of the microbatches' own balance losses."""
    fields = config("llama") | {"model_type": "mixtral", "num_experts_per_tok": 2, **EXPERTS["mixtral"]}
    spec = RandomPolicy({**fields, "output_router_logits": True, "router_aux_loss_coef": 0.5}, seed=1)
    examples = make_pairs(4)
    module = SFTModule(spec, partial(SGD, lr=1.0))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=0,
        accumulate_grad_batches=2,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    share = StepShare(prompts=4, targets=sum(example.num_targets for example in examples), microbatches=2)
    batches = [replace(pack(examples[start : start + 2]), share=share) for start in (0, 2)]
    loader = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type,var-annotated]
    trainer.fit(module, loader, loader)
    start = spec.build()
    stats = [start(batch) for batch in batches]
    nll = -torch.cat([own.logps for own in stats]).mean()
    balance = torch.stack([own.balance_loss for own in stats]).mean()
    want = gradients(start, nll + balance)
    before = spec.build().state_dict()
    moved = [before[name] - value for name, value in module.policy.state_dict().items()]
    names = [name for name, p in sorted(start.named_parameters()) if p.grad is not None]
    got = torch.cat([dict(zip(before, moved, strict=True))[name].flatten() for name in names])
    assert (got - want).norm() < 1e-4 * want.norm()
    metrics = trainer.callback_metrics
    assert metrics["train/loss"].item() == pytest.approx(nll.item(), rel=1e-5)
    assert metrics["train/balance_loss"].item() == pytest.approx(balance.item(), rel=1e-5)


def test_a_reward_model_says_that_it_is_trained_without(tmp_path: Path) -> None:
    build("mixtral").save(tmp_path / "policy")
    module = RewardModule(RewardModelSpec(str(tmp_path / "policy")), partial(SGD, lr=1.0))
    module.configure_model()
    with pytest.warns(UserWarning, match="reward models are trained without it"):
        module.on_fit_start()
