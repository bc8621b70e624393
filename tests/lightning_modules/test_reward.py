"""The reward model: loss and gradients by hand, scores against transformers and the judge, a run that learns and resumes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import tensor
from torch.optim import SGD
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from callbacks.diagnostics.reward_monitor import reward_readings
from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.tokens.layout import trained_tokenizer
from judges.reward_model import RewardModelJudge
from lightning_modules.losses.bradley_terry import BradleyTerry
from lightning_modules.models.layers.compiling import compile_layers
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.scalars.scalar_model import load_scalar
from lightning_modules.reward import RewardModule
from lightning_modules.reward_output import RewardOutput
from lightning_modules.steps.comparisons import comparisons
from tests import tiny
from tests.lightning_modules.stubs import make_pairs
from tests.test_resume import differences
from train import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal LM with its tokenizer, as an SFT run leaves it."""
    return tiny.write_model(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with a head that says something."""
    scalar = load_scalar(str(model))
    torch.nn.init.normal_(scalar.head.weight, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("reward") / "reward_model"
    scalar.save(folder)
    trained_tokenizer(AutoTokenizer.from_pretrained(model), is_chat=False).save_pretrained(folder)
    return folder


def scored(*scores: float | None, role: Role = Role.SAMPLE) -> Example:
    completions = [TokenizedCompletion((4, 5), role, "ranked", score) for score in scores]
    pair = (TokenizedCompletion((6,), Role.CHOSEN, "chosen", 5.0), TokenizedCompletion((7,), Role.REJECTED, "rejected", 1.0))
    return Example((1, 2), (*pair, *completions))


UNSCORED = (TokenizedCompletion((6,), Role.CHOSEN, "chosen", 5.0), TokenizedCompletion((7,), Role.REJECTED, "rejected"))


def test_the_loss_by_hand() -> None:
    chosen, rejected = tensor([2.0, 0.0]), tensor([1.0, 3.0])
    plain = [math.log1p(math.exp(-1)), math.log1p(math.exp(3))]
    torch.testing.assert_close(BradleyTerry()(chosen, rejected), tensor(plain))
    margin = [math.log1p(math.exp(-1 + 0.5 * 4)), math.log1p(math.exp(3 + 0.5 * 1))]
    torch.testing.assert_close(BradleyTerry(margin_per_point=0.5)(chosen, rejected, tensor([4.0, 1.0])), tensor(margin))
    torch.testing.assert_close(BradleyTerry(centring=0.1)(chosen, rejected), tensor([plain[0] + 0.9, plain[1] + 0.9]))


def test_a_margin_needs_scores() -> None:
    with pytest.raises(ValueError, match="expected judge scores for the margin"):
        BradleyTerry(margin_per_point=0.5)(tensor([1.0]), tensor([0.0]))
    with pytest.raises(ValueError, match="got 1 of 2 pairs without"):
        BradleyTerry(margin_per_point=0.5).require_scores(pack([scored(), replace(scored(), completions=UNSCORED)]).pair_score_gaps)


def test_both_gradients_are_equal_and_opposite_whatever_the_weights() -> None:
    """dl/dr+ = -sigma(r- - r+): what the paper says of reward models, read off the step as the callbacks do."""
    rewards = tensor([2.0, 1.0, 0.0, 3.0]).requires_grad_()
    chosen, rejected, weights = rewards[[0, 2]], rewards[[1, 3]], tensor([1.0, 0.25])
    chosen.retain_grad()
    rejected.retain_grad()
    losses = BradleyTerry()(chosen, rejected)
    ((weights * losses).sum() * 0.125).backward()
    output = RewardOutput(chosen, rejected, losses.detach(), weights, tensor([1.0]), gradient_scale=0.125, accumulation=1)
    readings = reward_readings(output)
    expected = -torch.sigmoid(tensor([-1.0, 3.0]))
    torch.testing.assert_close(readings["reward/chosen/gradient"], expected)
    torch.testing.assert_close(readings["reward/rejected/gradient"], -expected)
    torch.testing.assert_close(readings["reward/gradient_sum"], torch.zeros(2))


def test_scored_samples_are_compared_with_all_that_score_otherwise() -> None:
    compared = comparisons(pack([scored(3.0, 1.0), scored()]))
    # Of the first prompt: 5 > 1, 5 > 3, 5 > 1, 3 > 1, 3 > 1; of the second its pair.
    assert sorted(map(tuple, compared.pairs.tolist())) == [(0, 1), (0, 2), (0, 3), (2, 1), (2, 3), (4, 5)]
    assert compared.weights.tolist() == pytest.approx([0.2] * 5 + [1.0])


def test_the_loss_that_is_logged_is_the_one_that_is_trained(tmp_path: Path) -> None:
    """A prompt with six comparisons beside one with a single pair: both count as one, in training and in validation."""
    model = tiny.write_model(tmp_path / "policy")
    module = RewardModule(RewardModelSpec(str(model)), partial(SGD, lr=0.0))
    module.configure_model()
    assert isinstance(module.reward_model.head, torch.nn.Linear)
    torch.nn.init.normal_(module.reward_model.head.weight, generator=torch.Generator().manual_seed(1))
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = pack([replace(scored(3.0, 2.0), prompt_ids=(3, 9)), scored()])
    rewards, scores = module.reward_model(batch).detach(), batch.scores
    assert scores is not None
    compared = [[(i, j) for i in group for j in group if scores[i] > scores[j]] for group in (range(4), range(4, 6))]
    expected = [sum(math.log1p(math.exp(rewards[j] - rewards[i])) for i, j in pairs) / len(pairs) for pairs in compared]
    step = module.training_step(batch, 0)
    assert step["loss"].item() == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert module._train_means.compute()["train/loss"] == pytest.approx(sum(expected) / 2, abs=1e-6)
    module.validation_step(batch, 0)
    assert module._eval_means.compute()["val/loss"] == pytest.approx(sum(expected) / 2, abs=1e-6)


def test_probes_and_unscored_samples_are_compared_with_nothing() -> None:
    assert comparisons(pack([scored(3.0, role=Role.PROBE)])).pairs.tolist() == [[0, 1]]
    assert comparisons(pack([scored(None)])).pairs.tolist() == [[0, 1]]


def test_what_is_compared_of_a_prompt_does_not_depend_on_the_others_of_its_batch() -> None:
    pair = replace(scored(), completions=UNSCORED)
    assert comparisons(pack([pair, scored(3.0)])).pairs.tolist() == [[0, 1], [2, 3], [2, 4], [4, 3]]


def test_a_prompt_without_a_comparison_is_refused() -> None:
    alone = replace(scored(), completions=scored().completions[:1])
    with pytest.raises(ValueError, match="a better and a worse response for each of 1 prompts, got 1 without"):
        comparisons(pack([alone]))


def test_packed_scores_are_those_of_transformers(trained: Path) -> None:
    batch = pack(make_pairs(3))
    plain = AutoModelForSequenceClassification.from_pretrained(trained)
    ids = [(*example.prompt_ids, *completion.token_ids) for example in make_pairs(3) for completion in example.completions]
    with torch.no_grad():
        expected = [plain.score(plain.model(tensor([row])).last_hidden_state)[0, -1, 0].item() for row in ids]
        torch.testing.assert_close(RewardModelSpec(str(trained)).build()(batch), tensor(expected), atol=1e-5, rtol=1e-5)
    assert max(expected) - min(expected) > 0.1


def test_the_judge_scores_what_was_trained(trained: Path) -> None:
    """The exported folder lays plain text out as training does: prompt, response, end of sequence."""
    tokenizer = AutoTokenizer.from_pretrained(trained)
    prompt, response = tokenizer("w1 w2 w3")["input_ids"], [*tokenizer(" w7 w8")["input_ids"], tokenizer.eos_token_id]
    batch = pack([Example(tuple(prompt), (TokenizedCompletion(tuple(response), Role.SAMPLE, "sample"),))])
    with torch.no_grad():
        reward = RewardModelSpec(str(trained)).build()(batch).item()
    assert RewardModelJudge(str(trained)).judge("w1 w2 w3", " w7 w8 ").score == pytest.approx(reward, abs=1e-5)


def test_a_new_head_says_nothing_and_an_old_one_is_kept(model: Path, trained: Path) -> None:
    batch = pack(make_pairs(3))
    with torch.no_grad():
        assert RewardModelSpec(str(model)).build()(batch).abs().max() == 0
        assert RewardModelSpec(str(trained)).build()(batch).abs().max() > 0.1
    frozen = RewardModelSpec(str(model), freeze_body=True).build()
    assert [name for name, parameter in frozen.named_parameters() if parameter.requires_grad] == ["model.score.weight"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_it_gives_the_same_rewards_and_gradients(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_layers: list[PreTrainedModel] = []

    def compile_quickly(model: PreTrainedModel, checkpoints: bool) -> None:
        compiled_layers.append(model)
        compile_layers(model, backend="eager")

    monkeypatch.setattr("lightning_modules.models.layers.layer_options.compile_layers", compile_quickly)
    plain, compiled = (RewardModelSpec(str(trained), compile=compiles).build() for compiles in (False, True))
    batch = pack(make_pairs(3))
    for reward_model in (plain, compiled):
        reward_model(batch).square().sum().backward()
    assert len(compiled_layers) == 1
    torch.testing.assert_close(compiled(batch), plain(batch))
    assert compiled.fingerprint() == plain.fingerprint()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a model's folder, a .gguf file or a hub name, got .*nothing"):
        RewardModelSpec(str(tmp_path / "nothing")).build()


def config(folder: Path, model: Path, **options: Any) -> Path:
    module = {
        "class_path": "lightning_modules.reward.RewardModule",
        "init_args": {
            "reward_model": {"path": str(model)},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}},
            "loss": {"centring": 0.01},
        },
    }
    callbacks: list[dict[str, Any]] = [
        {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 21, "keep_all": True}},
        {"class_path": "callbacks.diagnostics.reward_monitor.RewardMonitor", "init_args": {"every_n_steps": 2}},
        {"class_path": "callbacks.saving.reward_export.RewardExport"},
    ]
    data = tiny.pair_data(folder, num_probe_prompts=0, count=30)
    trainer = tiny.trainer(folder, callbacks, max_epochs=-1, val_check_interval=4, check_val_every_n_epoch=None)
    path = folder / "rm.yaml"
    path.write_text(yaml.safe_dump({"seed_everything": 0, "trainer": trainer | options, "model": module, "data": data}))
    return path


def test_a_run_learns_exports_and_resumes_to_the_same_bits(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    path = config(tmp_path, model, max_steps=48, log_every_n_steps=6)
    whole = main(["fit", "--config", str(path)])
    assert whole.trainer.callback_metrics["train/rewards/accuracies"] > 0.8
    assert 0 <= whole.trainer.callback_metrics["val/calibration_error"] <= 1
    assert 0 <= whole.trainer.callback_metrics["val/accuracy"] <= 1
    runs = tmp_path / "runs" / "rm"
    assert RewardModelJudge(str(runs / "version_0" / "reward_model")).judge("w1 w2", "w3").score != 0
    middle = next((runs / "version_0" / "checkpoints").glob("*step=21.ckpt"))
    main(["fit", "--config", str(path), "--ckpt_path", str(middle)])
    # Each run has two loggers, and each of them a folder.
    states = [torch.load(runs / f"version_{n}" / "checkpoints" / "last.ckpt", weights_only=True) for n in (0, 2)]
    for state in states:
        state["callbacks"] = {}
    assert list(differences(*states)) == []


def test_the_wrong_vocabulary_is_no_critic(model: Path) -> None:
    from lightning_modules.models.scalars.critic import OwnBody
    from lightning_modules.models.specs import RandomPolicy

    policy = RandomPolicy(tiny.POLICY["init_args"]["config"] | {"vocab_size": 40}).build()
    with pytest.raises(ValueError, match="a critic over the policy's 40 tokens, got one over 31"):
        OwnBody(str(model)).build(policy)
