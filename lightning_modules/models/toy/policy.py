"""The paper's toy policy (Sec. 3.2): a three-layer perceptron from a one-hot prompt to a categorical over single responses.

Differs from the paper: S seeds stand side by side as a batch dimension of every parameter, so that one run gives every
curve an error bar. Width and activation are not stated in the paper; the defaults fit its curves best.

Shapes: S seeds, P prompts, V responses, H width, K scored positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.checks.finite import require_finite_weights
from lightning_modules.models.heads.output_head import ReplicatedHead
from lightning_modules.models.policy import Policy
from lightning_modules.models.sharding import AS_HELD, Gathering, is_first_rank
from lightning_modules.token_stats import TokenStats

Activation = Literal["relu", "tanh"]

_WEIGHTS, _SHAPE = "toy.safetensors", "toy.json"


@dataclass(frozen=True, slots=True)
class ToyShape:
    """Everything about a ToyPolicy but its weights.

    Raises:
        ValueError: if a count is below 1 or the activation is unknown.
    """

    num_seeds: int = 5
    """S: independent replicas in one model."""
    num_prompts: int = 4
    """P. Prompt p of seed s is the token s * P + p."""
    num_responses: int = 10
    """V. A response is one token in [0, V)."""
    width: int = 512
    """H, units of both hidden layers."""
    activation: Activation = "relu"
    """After each hidden layer."""

    def __post_init__(self) -> None:
        counts = (self.num_seeds, self.num_prompts, self.num_responses, self.width)
        if min(counts) < 1 or self.activation not in get_args(Activation):
            raise ValueError(
                f"expected num_seeds, num_prompts, num_responses, width >= 1 and activation relu or tanh, got {counts} and "
                f"{self.activation!r}. Correct the policy's arguments."
            )

    @property
    def layer_sizes(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the three layers."""
        return (self.num_prompts, self.width), (self.width, self.width), (self.width, self.num_responses)


class ToyPolicy(Policy):
    """pi(.|x) = softmax(W3 f(W2 f(W1 onehot(x) + b1) + b2) + b3), one such network for each seed.

    Prompts and responses have alphabets of their own: prompt tokens in [0, S * P), responses in [0, V). Seed s draws its
    weights from `seed + s`, uniform in +-1/sqrt(inputs), so that it is the network a one-seed policy of that seed is.

    Args:
        shape: sizes and activation.
        seed: of the first replica's weights.
    """

    def __init__(self, shape: ToyShape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.vocab_size = shape.num_responses
        generators = [torch.Generator().manual_seed(seed + number) for number in range(shape.num_seeds)]
        layers = [(_uniform(generators, i, o, i), _uniform(generators, 1, o, i)) for i, o in shape.layer_sizes]
        self.weights = nn.ParameterList([weight for weight, _ in layers])
        self.biases = nn.ParameterList([bias for _, bias in layers])

    def forward(self, batch: CompletionBatch) -> TokenStats:
        """Statistics at the K scored positions, exact: the vocabulary is small enough for a plain softmax.

        Raises:
            ValueError: if a prompt or response has more than one token, or is not one of this policy's.
        """
        prompts = batch.input_ids[batch.target_index]
        self._require_own(batch, prompts)
        hidden = self._hidden()
        log_probs = self._logits(hidden).log_softmax(-1).flatten(0, 1)
        probs = log_probs.detach().exp()
        top1_probs, top1 = probs.max(-1)
        others = probs[prompts].scatter(1, batch.target_ids[:, None], 0)
        return TokenStats(
            logps=log_probs[prompts, batch.target_ids],
            entropy=-(probs * log_probs.detach()).sum(-1)[prompts],
            sum_sq_probs=probs.square().sum(-1)[prompts],
            top1_probs=top1_probs[prompts],
            is_top1=top1[prompts] == batch.target_ids,
            target_sequence=batch.target_sequence,
            num_sequences=batch.num_sequences,
            hidden=hidden.detach().flatten(0, 1)[prompts],
            other_sq_probs=others.square().sum(-1),
        )

    def output_head(self, batch: CompletionBatch) -> ReplicatedHead:
        """The last layer of the seed that each scored position belongs to (see `Policy`)."""
        seeds = batch.input_ids[batch.target_index] // self.shape.num_prompts
        return ReplicatedHead(self.weights[2].detach(), self.biases[2].detach().squeeze(1), seeds)

    def logits(self) -> Tensor:
        """`[S, P, V]` logits of every prompt of every seed. Differentiable."""
        return self._logits(self._hidden())

    def _hidden(self) -> Tensor:
        """`[S, P, H]` input of the last layer."""
        activate = torch.relu if self.shape.activation == "relu" else torch.tanh
        # A one-hot input picks a row of W1, so that all prompts together are W1 itself.
        first = activate(self.weights[0] + self.biases[0])
        return activate(torch.baddbmm(self.biases[1], first, self.weights[1]))

    def _logits(self, hidden: Tensor) -> Tensor:
        # In float32 or better whatever the weights and the run are, as of every head.
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.baddbmm(self.biases[2].to(dtype), hidden.to(dtype), self.weights[2].to(dtype))

    def _require_own(self, batch: CompletionBatch, prompts: Tensor) -> None:
        num_prompts = self.shape.num_seeds * self.shape.num_prompts
        longest, prompt, response = max(batch.query_lengths), int(prompts.max()), int(batch.target_ids.max())
        if longest > 1 or prompt >= num_prompts or response >= self.vocab_size:
            raise ValueError(
                f"expected prompts of one token in [0, {num_prompts}) and responses of one token in [0, {self.vocab_size}), got "
                f"up to {longest} tokens, prompts up to {prompt}, responses up to {response}. Use datamodules.toy.data, and give "
                "the data module and the policy the same num_seeds."
            )

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], parameters: Sampling, *, eos_token_id: int, seed: int) -> list[list[int]]:
        """One response for each prompt, always one token: there is no end of sequence to draw (see `Policy`)."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.tensor([prompt[-1] for prompt in prompts])
        logits = self.logits().flatten(0, 1).cpu()[rows]
        if parameters.temperature == 0:
            return logits.argmax(-1, keepdim=True).tolist()
        probs = _nucleus((logits / parameters.temperature).softmax(-1), parameters.top_p)
        return torch.multinomial(probs, 1, generator=generator).tolist()

    def fingerprint(self) -> str:
        """sha256 over weights and shape (see `Policy`)."""
        digest = hashlib.sha256(json.dumps(asdict(self.shape)).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
        return digest.hexdigest()

    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        """Refuses: the toy has nothing to shard."""
        raise ValueError("expected the toy on one process or under `ddp`, got FSDP2. Its few weights need no sharding.")

    def save(self, folder: Path) -> None:
        """Write safetensors and shape; `SavedToyPolicySpec(str(folder))` loads them (see `Policy`)."""
        if not is_first_rank():
            return
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"expected {folder} to be empty, got files in it. Choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}, folder / _WEIGHTS)
        (folder / _SHAPE).write_text(json.dumps(asdict(self.shape), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The policy that `save` wrote.

        Raises:
            ValueError: if the folder holds none, or one with NaN or infinity.
        """
        if not (folder / _SHAPE).is_file() or not (folder / _WEIGHTS).is_file():
            raise ValueError(
                f"expected {_SHAPE} and {_WEIGHTS} in {folder}, got no such files. Give a folder that ToyPolicy.save wrote."
            )
        policy = cls(ToyShape(**json.loads((folder / _SHAPE).read_text(encoding="utf-8"))))
        policy.load_state_dict(load_file(folder / _WEIGHTS))
        require_finite_weights(policy, f"the policy in {folder}")
        return policy


def _uniform(generators: Sequence[torch.Generator], rows: int, columns: int, inputs: int) -> nn.Parameter:
    """`[S, rows, columns]` uniform in +-1/sqrt(inputs), torch's own start of a linear layer; one generator a seed."""
    draws = [torch.rand(rows, columns, generator=generator) for generator in generators]
    return nn.Parameter((2 * torch.stack(draws) - 1) * inputs**-0.5)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The smallest set of most likely responses that holds `top_p`, its probabilities as they were and the rest 0."""
    ordered, order = probs.sort(-1, descending=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(probs).scatter(-1, order, ordered * kept)
