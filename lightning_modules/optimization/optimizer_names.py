"""Optimizer states by the names of parameters, which are the same on any number of processes and under any strategy.

torch numbers the parameters of an optimizer, and Lightning under FSDP2 those of the module: with frozen ones among them the two
differ, and neither reads what the other has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn import Parameter

State = Mapping[str, Any]
"""As `Optimizer.state_dict` has it."""


def by_name(state: State, names: Sequence[str]) -> dict[str, Any]:
    """Its numbers replaced.

    Args:
        state: of an optimizer; one whose parameters have names is given back as it is.
        names: of the parameters with these numbers.
    """
    return _renamed(state, dict(enumerate(names)))


def by_number(state: State, names: Sequence[str]) -> dict[str, Any]:
    """The reverse of `by_name`.

    Raises:
        ValueError: if a parameter has a state and is not trained here.
    """
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [
        key for group in state.get("param_groups", ()) for key in group["params"] if isinstance(key, str) and key not in numbers
    ]
    if unknown:
        raise ValueError(
            f"expected a checkpoint of the parameters that are trained here, got the optimizer's state of {len(unknown)} others "
            f"({unknown[0]}, ...). Use the config of its run."
        )
    return _renamed(state, numbers)


def names_of(module: nn.Module, parameters: Iterable[Parameter | Mapping[str, Any]]) -> list[str]:
    """Names of an optimizer's parameters, which may come in groups, in its order."""
    known = {id(parameter): name for name, parameter in module.named_parameters()}
    flat = [one for each in parameters for one in (each["params"] if isinstance(each, Mapping) else [each])]
    return [known[id(parameter)] for parameter in flat]


def _renamed(state: State, keys: Mapping[Any, Any]) -> dict[str, Any]:
    if not state:
        # Of a rank that writes nothing.
        return {}
    groups = [{**group, "params": [keys.get(key, key) for key in group["params"]]} for group in state["param_groups"]]
    return {**state, "state": {keys.get(key, key): value for key, value in state["state"].items()}, "param_groups": groups}
