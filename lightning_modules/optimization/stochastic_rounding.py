"""AdamW for bfloat16 weights: computes the step in float32 and rounds it up or down at random, without bias.

bfloat16 keeps 8 bits: a step below 1/512 of a weight is lost when it is rounded to nearest, and at the learning rates of preference
training nearly every step is. Rounded up with a probability equal to the distance, the weight moves by the step in expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from typing_extensions import override

_MOMENTS = ("exp_avg", "exp_avg_sq")
_CHUNK = 1 << 24
"""Elements stepped together; float32 copies of their weights and gradients are all that a step takes beyond the moments."""


class StochasticAdamW(Optimizer):
    """AdamW (arXiv 1711.05101) whose bfloat16 parameters are rounded stochastically; its moments are float32 for every parameter.

    12 bytes a parameter with its gradient (float32 weights: 16). Parameters of other types are stepped as usual. The random bits
    depend on `seed` and the number of the step alone: replicas stay equal, and a resumed run goes on as if it had not stopped.

    Args:
        params: parameters or groups, as torch takes them.
        lr: learning rate, >= 0.
        betas: decay of the two moments, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: decoupled decay, >= 0.
        seed: of the random bits.

    Raises:
        ValueError: if an argument is out of its range, or a parameter is float16, which has too few exponents to train in.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        if min(lr, eps, weight_decay, *betas) < 0 or max(betas) >= 1:
            raise ValueError(
                f"expected lr, eps, weight_decay >= 0 and betas in [0, 1), got {lr}, {eps}, {weight_decay} and {tuple(betas)}."
            )
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})
        self._seed = seed
        if any(p.dtype == torch.float16 for group in self.param_groups for p in group["params"]):
            raise ValueError("expected bfloat16, float32 or float64 parameters, got float16. Use `trainer.precision: bf16-true`.")

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` computes the loss and the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for chunk in _chunks([parameter for parameter in group["params"] if parameter.grad is not None]):
                self._step(chunk, group, generators)
        return loss

    def _step(self, chunk: list[Parameter], group: dict[str, Any], generators: dict[torch.device, torch.Generator]) -> None:
        weights = [_local(parameter) for parameter in chunk]
        wide = torch.promote_types(weights[0].dtype, torch.float32)
        states = [self._state_of(parameter, wide) for parameter in chunk]
        # End to end, so that a step of hundreds of parameters is some calls and not some for each parameter.
        stepped, gradients = (
            torch.cat([tensor.reshape(-1) for tensor in tensors]).to(wide)
            for tensors in (weights, [_local(parameter.grad) for parameter in chunk if parameter.grad is not None])
        )
        sizes = [weight.numel() for weight in weights]
        first, second = ([_local(state[name]).view(-1) for state in states] for name in _MOMENTS)
        beta1, beta2 = group["betas"]
        adamw(
            list(stepped.split(sizes)),
            list(gradients.split(sizes)),
            first,
            second,
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            foreach=stepped.device.type != "cpu",
        )
        if weights[0].dtype == torch.bfloat16:
            stepped = round_stochastically(stepped, self._generator(stepped.device, int(states[0]["step"]), generators))
        for weight, new in zip(weights, stepped.split(sizes), strict=True):
            weight.copy_(new.view_as(weight))

    def _state_of(self, parameter: Parameter, wide: torch.dtype) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            contiguous = torch.contiguous_format
            state |= {name: torch.zeros_like(parameter, dtype=wide, memory_format=contiguous) for name in _MOMENTS}
        return state

    def _generator(self, device: torch.device, step: int, made: dict[torch.device, torch.Generator]) -> torch.Generator:
        """Generator of the random bits of this step on a device."""
        if device not in made:
            # A prime apart, as the generator of the CPU reads the lower 32 bits only.
            made[device] = torch.Generator(device).manual_seed((self._seed * 1_000_003 + step) % (1 << 32))
        return made[device]

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore; torch would round the moments to the type of the parameters."""
        super().load_state_dict(state_dict)
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        for number, parameter in zip(numbers, parameters, strict=True):
            saved = state_dict["state"].get(number, {})
            self.state[parameter] |= {name: saved[name].to(parameter.device) for name in _MOMENTS if name in saved}


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    """bfloat16 neighbours of float32 values, the upper with probability (value - lower) / (upper - lower).

    The expectation is the value. Infinities and NaN stay what they are; values above the largest bfloat16 may become infinite.

    Args:
        values: float32, any shape.
        generator: of the random bits, on the device of `values`.
    """
    # The 16 lower bits of a float32 are the distance to the bfloat16 below (in magnitude): adding 16 random bits carries into the
    # upper half exactly that often.
    bits = values.view(torch.int32)
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    return ((bits + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def require_weights_that_move(optimizer: Optimizer) -> None:
    """Refuse to train half-precision weights with an optimizer that rounds its steps to nearest.

    Raises:
        ValueError: if a parameter is bfloat16 or float16 and the optimizer is not `StochasticAdamW`.
    """
    if isinstance(optimizer, StochasticAdamW):
        return
    halves = {p.dtype for group in optimizer.param_groups for p in group["params"]} & {torch.bfloat16, torch.float16}
    if halves:
        raise ValueError(
            f"expected float32 weights under {type(optimizer).__name__}, got {', '.join(map(str, halves))}, which small steps "
            f"do not move. Use `trainer.precision: bf16-mixed` (and `dtype: float32` of the policy), or the optimizer "
            f"{StochasticAdamW.__module__}.{StochasticAdamW.__name__} with bf16-true."
        )


def _chunks(parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Consecutive parameters of one type and device, of `_CHUNK` elements at the most or alone."""
    chunk: list[Parameter] = []
    size = 0
    for parameter in parameters:
        like = chunk and (chunk[0].dtype, chunk[0].device) == (parameter.dtype, parameter.device)
        if chunk and (not like or size + parameter.numel() > _CHUNK):
            yield chunk
            chunk, size = [], 0
        chunk.append(parameter)
        size += parameter.numel()
    if chunk:
        yield chunk


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be sharded: every element is stepped by itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
