"""Run folders as a run would leave them, with numbers that are made up but told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

STEPS = (0, 5, 10)
KINDS = ("chosen", "rejected", "other_chosen")


def config(seed: int = 0, lr: float = 1e-5) -> dict[str, Any]:
    """A config as a run saves it, as far as the report reads it."""
    return {
        "seed_everything": seed,
        "trainer": {
            "logger": {"init_args": {"name": "made_up"}},
            "callbacks": [{"class_path": "callbacks.diagnostics.likelihood.LikelihoodMonitor"}],
        },
        "model": {"init_args": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": lr}}}},
        "data": {"init_args": {"seed": seed, "path": "pairs.jsonl"}},
    }


def language_rows(offset: float = 0.0) -> dict[str, list[dict[str, Any]]]:
    """Rows of the monitors at three steps; every value its own."""
    monitors = ("likelihood", "softmax_grad", "degradation", "dispersion", "disentanglement", "mass")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in monitors}
    for number, step in enumerate(STEPS):
        values = {"likelihood": {"likelihood/bank/drop_share": 0.5 + number, "likelihood/bank/drop_gap": -0.1 * number}}
        for place, kind in enumerate(KINDS):
            values["likelihood"] |= {
                f"likelihood/bank/{kind}/logp": -50.0 - 10 * place - number + offset,
                f"likelihood/bank/{kind}/logp_per_token": -2.0 - place / 4 - number / 8 + offset,
                f"likelihood/bank/{kind}/change_per_token": 0.1 * place - 0.2 * number + offset,
                f"likelihood/bank/{kind}/valley": 0.1 * place,
            }
        values["softmax_grad"] = {
            f"softmax_grad/{side}/{name}": scale * (1 + place + number)
            for place, side in enumerate(("chosen", "rejected"))
            for name, scale in (("norm", 0.5), ("l2", 0.05), ("log_pi_gradient", 90.0), ("log_pi_gradient_per_token", 1.5))
        } | {
            "softmax_grad/asymmetry": 1.25,
            "softmax_grad/asymmetry_per_token": 0.75,
            "softmax_grad/corollary1_from_reference": 3.0,
        }
        shares = (0.5, 0.25, 0.125, 0.125)
        quadrants = ("chosen_up_rejected_down", "both_up", "chosen_down_rejected_up", "both_down")
        values["degradation"] = {f"degradation/quadrant/{name}": share for name, share in zip(quadrants, shares, strict=True)}
        values["dispersion"] = {f"dispersion/bank/{kind}/index_per_token": 0.1 * number for kind in ("probes", "other_chosen")}
        values["dispersion"] |= {
            "dispersion/bank/off_pair_mass": 0.5 + 0.1 * number,
            "dispersion/bank/chosen/entropy": 2.0 - number / 4,
        }
        values["disentanglement"] = {"head/band_violated": 0.1 * number, "head/centre": 0.5, "head/incentive_ratio": 1.25 + number}
        values["mass"] = {f"mass/{side}/{name}": 0.1 * number for side in ("chosen", "rejected") for name in ("moved", "to_argmax")}
        for name, row in values.items():
            rows[name].append({"step": step, **row})
    return rows


def reward_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of a run that rewards train: its sampled answers take the place of the sides."""
    names = ("objective/scores", "objective/rlhf_reward", "objective/kl", "policy/entropy", "lazy_likelihood/lift")
    gradients = [f"softmax_grad/sample_{side}/{norm}" for side in ("above", "below") for norm in ("norm", "l2")]
    numbered = [(name, 0.1 + 0.2 * place) for place, name in enumerate([*names, *gradients])]
    return {"rewarded": [{"step": step, **{name: value + 0.01 * step for name, value in numbered}} for step in STEPS]}


def toy_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of the toy's ledger for two seeds."""
    masses = {"own_chosen": (0.1, 0.3), "other_chosen": (0.3, 0.1), "own_rejected": (0.1, 0.2), "other_rejected": (0.3, 0.2)}
    seeds = {name: list(values) for name, values in (masses | {"unseen": (0.2, 0.2)}).items()}
    means = {f"toy/{name}": sum(values) / 2 for name, values in seeds.items()}
    gradient = {"gradient/log10_pi/rejected": [1.0, None]}
    return {
        "toy": [{"step": step, **means} for step in STEPS],
        "toy_seeds": [{"step": step, **seeds, **(gradient if step else {})} for step in STEPS],
    }


def write_run(folder: Path, rows: dict[str, list[dict[str, Any]]], own_config: dict[str, Any] | None = None) -> Path:
    """A run folder with rows, config and an event file that has the loss."""
    (folder / "diagnostics").mkdir(parents=True)
    for name, content in rows.items():
        (folder / "diagnostics" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(own_config or config()), encoding="utf-8")
    with SummaryWriter(str(folder)) as writer:
        for step, loss in ((5, 0.75), (10, 0.5)):
            writer.add_scalar("train/loss", loss, step)
    return folder


def heatmap_rows() -> list[dict[str, Any]]:
    """Two readings of one pair, whose sides differ from the second token on."""
    sides = {
        "chosen": {"tokens": ["a", "<b>", "c"], "pushes": [0.0, 0.5, 0.25], "probs": [0.9, 0.5, 0.1]},
        "rejected": {"tokens": ["a", "d"], "pushes": [0.0, -0.5], "probs": [0.9, 0.2]},
    }
    return [{"step": step, "example": 0, "prompt": "Say <script>", **sides} for step in (0, 10)]
