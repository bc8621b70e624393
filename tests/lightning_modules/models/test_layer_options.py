"""Checkpointed or compiled layers: the same loss and gradients, another price."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.layers.compiling import CompiledForward
from lightning_modules.models.scalars.critic import OwnBody
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.sharding import whole_copy
from lightning_modules.models.specs import RandomPolicy
from tests.lightning_modules.models import architectures
from tests.lightning_modules.models.architectures import config, make_batch


def spec(model_type: str = "llama", **options: Any) -> RandomPolicy:
    return replace(RandomPolicy(config(model_type), seed=1), **options)


def loss_and_gradients(policy: CausalLMPolicy, batch: CompletionBatch) -> list[Tensor]:
    policy.zero_grad()
    sums = policy(batch).sum_by_sequence()
    loss = -torch.nn.functional.logsigmoid(0.3 * (sums[::2] - sums[1::2])).sum()
    loss.backward()
    return [loss.detach(), *(p.grad for p in policy.parameters() if p.grad is not None)]


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for ours, theirs in zip(got, want, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6


class Counter(TorchDispatchMode):
    """How often products and other operators ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch.utils has no annotation here
        self.products = self.attentions = self.others = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.products += "mm" in name
        self.attentions += "attention" in name and "backward" not in name
        self.others += "mm" not in name and "attention" not in name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("how", [True, "selective"])
def test_checkpointing_changes_nothing_but_memory(model_type: str, how: bool | str, layout: str) -> None:
    batch = make_batch()
    plain, checkpointed = (spec(model_type, layout=layout, gradient_checkpointing=h).build() for h in (False, how))
    assert_same(loss_and_gradients(checkpointed, batch), loss_and_gradients(plain, batch))


def test_selective_checkpointing_recomputes_no_product_and_no_attention() -> None:
    counts = {}
    for how in (False, "selective", True):
        policy = spec(gradient_checkpointing=how).build()
        with Counter() as counts[how]:
            loss_and_gradients(policy, make_batch())
    plain, selective, whole = counts.values()
    assert selective.products == plain.products < whole.products
    assert selective.attentions == plain.attentions < whole.attentions
    assert selective.others > plain.others


def test_another_word_for_checkpointing_is_refused() -> None:
    with pytest.raises(ValueError, match="false, true or selective, got 'some'"):
        spec(gradient_checkpointing="some").build()


SIZES = (((6, (4, 7)), (3, (5, 2)), (1, (3, 2))), ((9, (2, 3)), (5, (6, 7))), ((2, (1, 1)), (3, (3, 2)), (4, (4, 9)), (5, (2, 2))))
"""Batches of other numbers of prompts and tokens; none has as many tokens as the model is wide, which tracing would notice."""


QUIET = (
    # PyTorch's own: tracing looks at `.grad` of inner tensors, the compiler imports what is deprecated.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
)


def quiet(test: Any) -> Any:
    for mark in QUIET:
        test = mark(test)
    return test


@pytest.mark.slow
@quiet
@pytest.mark.parametrize("checkpoints", [False, True])
def test_compiled_layers_give_the_same_from_one_program(monkeypatch: pytest.MonkeyPatch, checkpoints: bool) -> None:
    compiled, plain = spec(compile=True, gradient_checkpointing=checkpoints).build(), spec().build()
    assert compiled.fingerprint() == plain.fingerprint()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    programs = []
    for shapes in SIZES:
        monkeypatch.setattr(architectures, "SHAPES", shapes)
        assert_same(loss_and_gradients(compiled, make_batch()), loss_and_gradients(plain, make_batch()))
        programs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert programs[0] == programs[-1] > 0


class Backend:
    """Compiles nothing, and counts programs and how often they run."""

    def __init__(self) -> None:
        self.programs = self.runs = 0

    def __call__(self, graph: torch.fx.GraphModule, _example: list[Tensor]) -> Any:
        self.programs += 1

        def run(*arguments: Any) -> Any:
            self.runs += 1
            return graph.forward(*arguments)

        return run


def many_sizes(count: int) -> Iterator[tuple[tuple[int, tuple[int, ...]], ...]]:
    draw = Random(0).randint
    for _ in range(count):
        yield tuple((draw(1, 20), (draw(1, 12), draw(1, 12))) for _ in range(draw(1, 4)))


@quiet
@pytest.mark.parametrize("checkpoints", [pytest.param(False, marks=pytest.mark.slow), True])
def test_fifty_lengths_need_the_programs_of_the_first(monkeypatch: pytest.MonkeyPatch, checkpoints: bool) -> None:
    """More layers than a function may have programs; and what is built after the compiled policy leaves attention out of them."""
    backend, deep = Backend(), config("llama") | {"num_hidden_layers": 9}
    compiled = RandomPolicy(deep, seed=1).build()
    compiled.compile_layers(backend, checkpoints=checkpoints)
    plain = RandomPolicy(deep, seed=1).build()
    torch._dynamo.reset()
    programs, runs = [], []
    for number, shapes in enumerate(many_sizes(50)):
        monkeypatch.setattr(architectures, "SHAPES", shapes)
        found = loss_and_gradients(compiled, make_batch())
        programs.append(backend.programs)
        runs.append(backend.runs)
        if number % 10 == 0:
            assert_same(found, loss_and_gradients(plain, make_batch()))
    assert programs[0] == programs[-1] > 0
    # Each layer runs each of its programs once more in backward where it is checkpointed.
    assert runs[-1] - runs[-2] == 9 * programs[0] * (2 if checkpoints else 1)


def test_compiling_selectively_checkpointed_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient_checkpointing true or false for compiled layers, got 'selective'"):
        spec(compile=True, gradient_checkpointing="selective").build()


def test_a_whole_copy_of_a_compiled_model_is_not_compiled() -> None:
    policy = spec().build()
    policy.compile_layers("eager")
    kinds = [
        [isinstance(vars(m).get("forward"), CompiledForward) for m in model.modules()]
        for model in (policy.model, whole_copy(policy.model))
    ]
    assert [sum(kind) for kind in kinds] == [2, 0]


def test_a_compiled_policy_samples_what_the_plain_one_samples() -> None:
    plain, compiled = spec().build(), spec().build()
    compiled.compile_layers("aot_eager")
    torch._dynamo.utils.counters.clear()
    drawn = [p.sample([[3, 4], [5]], Sampling(6), eos_token_id=2, seed=0) for p in (plain, compiled)]
    assert drawn[0] == drawn[1]
    assert not torch._dynamo.utils.counters["stats"]


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"expected a C\+\+ compiler"):
        spec(compile=True).build()


SCALARS: dict[str, Callable[..., nn.Module]] = {
    "head": lambda path, **options: RewardModelSpec(path, **options).build(),
    "likelihood": lambda path, **options: RewardModelSpec(path, likelihood_scale=0.5, **options).build(),
    "critic": lambda path, **options: OwnBody(path, **options).build(spec().build()),
}
"""What gives a number for a prompt and its completions, from the folder of a policy."""


@pytest.mark.parametrize("kind", SCALARS)
def test_reward_models_and_critics_have_the_options_of_policies(kind: str, tmp_path: Path) -> None:
    batch = make_batch()
    spec().build().save(tmp_path)
    found = []
    for how in (False, True, "selective"):
        model = SCALARS[kind](str(tmp_path), gradient_checkpointing=how, attention="sdpa").train()
        # A new head is zero, and so would be the body's gradient.
        for name, parameter in model.named_parameters():
            if "score" in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
        with Counter() as counter:
            values = model(batch, None) if kind == "critic" else model(batch)
            values.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((counter.products, [values.detach(), *gradients]))
    assert found[1][0] > found[0][0] == found[2][0]
    for _, other in found[1:]:
        assert_same(other, found[0][1])
    with pytest.raises(ValueError, match="expected attention backend flash_attention_4 to be installed"):
        SCALARS[kind](str(tmp_path), attention="flash_attention_4")
    with pytest.raises(ValueError, match="expected gradient_checkpointing true or false for compiled layers"):
        SCALARS[kind](str(tmp_path), gradient_checkpointing="selective", compile=True)
