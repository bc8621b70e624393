"""The shipped experiments with every callback they have, on tiny models and a few rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from datamodules.pool.files import read_pool, write_pool
from datamodules.pool.schema import PoolRow, Response
from datamodules.tasks.characters import character_tokenizer
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import RandomPolicy
from tests import tiny

ROOT = Path(__file__).parents[1]
EXPERIMENTS = {path.stem: path for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml"))}
BASE = ROOT / "assets" / "arithmetic" / "base"
QUATRAIN = "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
ROWS = 16
"""Problems of a split."""
SPLITS = ("train", "val", "test", "pool")
PROBLEMS: dict[str, Callable[[int], dict[str, str]]] = {
    "GSM8KTask": lambda n: {"question": f"{n} + 1?", "answer": f"#### {n + 1}"},
    "CompetitionMathsTask": lambda n: {"problem": f"{n} + 1?", "solution": f"\\boxed{{{n + 1}}}"},
    "ChineseMathsTask": lambda n: {"original_text": f"{n} + 1?", "ans": str(n + 1), "equation": f"x={n}+1"},
    "PoemTask": lambda n: {"type": "绝句", "title": f"登楼{n}", "author": "王之涣", "text": QUATRAIN},
    "SloganTask": lambda n: {"desc": f"Company {n} sells tea.", "output": f"Tea number {n}"},
}
"""Rows of the tasks whose problems are rows."""
Config = dict[str, Any]


class Shipped:
    """Stand-ins for what the experiments read, in a folder; made once, as no run changes them.

    Args:
        folder: for models, data and runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Heads are 8 wide, which half-precision kernels take.
        self.model = str(folder / "model")
        wide = {**tiny.POLICY["init_args"]["config"], "hidden_size": 32, "max_position_embeddings": 512}
        RandomPolicy(wide, seed=3).build().save(Path(self.model))
        tiny.write_tokenizer(Path(self.model))
        characters = sorted({*QUATRAIN, *"写一首五言绝句题目为《登楼》\n"})
        character_tokenizer("".join(characters)).save_pretrained(folder / "poem_tokenizer")
        self.pairs = str(tiny.write_pairs(folder / "pairs.jsonl", 24))
        self._write_pools()
        self._write_rows()

    def config(self, name: str) -> Config:
        """The experiment's whole config: what is replaced is where models and rows come from, and how many there are."""
        config: Config = composed(EXPERIMENTS[name])
        trainer, model, data = (config[part] for part in ("trainer", "model", "data"))
        trainer |= {"accelerator": "cpu", "enable_model_summary": False}
        trainer["logger"]["init_args"] |= {"save_dir": str(self.folder / "runs"), "name": name}
        if "limit_val_batches" not in trainer:
            trainer |= {"limit_val_batches": 1, "val_check_interval": 1}
        for part in (model, data):
            part["init_args"] = {option: self._replaced(option, value) for option, value in part["init_args"].items()}
        if name.startswith("toy"):
            model["init_args"]["policy"]["init_args"]["width"] = 16
        elif "diagnose" not in name:
            data["init_args"] |= self._fewer(data)
        if "test_decoding" in data["init_args"] and "arithmetic" not in name:
            data["init_args"]["test_decoding"]["max_new_tokens"] = 8
        for callback in trainer["callbacks"]:
            self._shorten(callback)
        return config

    def _replaced(self, option: str, value: Any) -> Any:
        """Paths of models and rows that are not shipped, wherever they stand in an option."""
        if option == "cache_dir":
            return str(self.folder / "cache")
        if option == "rewards":
            return [self._reward(source) for source in value]
        if option in ("policy", "reference", "reward_model") and "path" in value.get("init_args", value):
            return self._with_path(value)
        if option in ("train", "val", "parts"):
            return self._rows(value)
        if option == "pool":
            return str(self.folder / ("arithmetic_pool.jsonl" if "arithmetic" in value else "pool.jsonl"))
        if option == "tokenizer" and value is not None:
            return str(BASE) if "arithmetic" in value else str(self.folder / "poem_tokenizer")
        return self._task(value) if option == "task" else value

    def _with_path(self, recipe: Config) -> Config:
        # A reward model's recipe is of one class, which the config does not name.
        arguments = recipe.get("init_args", recipe)
        arguments["path"] = str(BASE) if "arithmetic" in arguments["path"] else self.model
        return recipe

    def _reward(self, source: Config) -> Config:
        arguments, folder = source.setdefault("init_args", {}), self.folder / "reward_model"
        if "path" in arguments:
            arguments["path"] = str(folder)
            if not folder.exists():
                RewardModelSpec(str(BASE), likelihood_scale=0.5).build().save(folder)
        if "policy" in arguments:
            self._with_path(arguments["policy"])
        return source

    def _rows(self, value: Config) -> Config:
        if "path" in value:
            return {"path": self.pairs}
        plain = {"class_path": "datamodules.formats.columns.PairColumns"}
        return {name: {**part, "train": {"path": self.pairs}, "format": plain} for name, part in value.items()}

    def _task(self, task: Config) -> Config:
        arguments = task.setdefault("init_args", {})
        kind = task["class_path"].rsplit(".", 1)[1]
        if kind == "JoinedTask":
            arguments["tasks"] = [self._task(each) for each in arguments["tasks"]]
        elif kind == "ArithmeticTask":
            counts: Config = {"num_train": ROWS, "num_val": 4, "num_test": 4, "num_pool": 4}
            arguments |= {name: count for name, count in counts.items() if arguments.get(name)}
        else:
            arguments |= {split: {"path": str(self.folder / f"{kind}_{split}.jsonl")} for split in SPLITS if arguments.get(split)}
        if kind == "PoemTask":
            arguments["rhyme_folder"] = str(self.folder)
        return task

    def _fewer(self, data: Config) -> Config:
        arguments = data["init_args"]
        fewer: Config = {
            "num_probe_prompts": 2,
            "batch_size": 8,
            "prompts_per_rollout": 4,
            "num_samples": 4,
            "prompts_per_batch": 4,
        }
        options = {name: value for name, value in fewer.items() if name in arguments}
        if "max_new_tokens" in arguments:
            options["max_new_tokens"] = 80 if "Rollout" in data["class_path"] else 8
        if "format" in arguments:
            options |= {"format": {"class_path": "datamodules.formats.columns.PairColumns"}, "val_fraction": 0.2, "val": None}
        return options

    def _shorten(self, callback: Config) -> None:
        arguments = callback.setdefault("init_args", {})
        for monitor in arguments.get("monitors", ()):
            self._shorten(monitor)
        if "sampling" in arguments:
            arguments["sampling"]["max_new_tokens"] = 12
        if "pool" in arguments:
            arguments["pool"] = str(self.folder / f"drawn_{len(list(self.folder.glob('drawn_*')))}.jsonl")

    def _write_pools(self) -> None:
        rows, _ = read_pool(ROOT / "assets" / "arithmetic" / "pool.jsonl.xz")
        write_pool(self.folder / "arithmetic_pool.jsonl", list(rows.values())[:60])
        texts = map(json.loads, Path(self.pairs).read_text(encoding="utf-8").splitlines())
        write_pool(self.folder / "pool.jsonl", [PoolRow(row["prompt"], _responses(**row)) for row in texts])

    def _write_rows(self) -> None:
        for kind, make in PROBLEMS.items():
            for number, split in enumerate(SPLITS):
                rows = [make(n) for n in range(ROWS * number, ROWS * (number + 1))]
                path = self.folder / f"{kind}_{split}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for name in ("Pingshui_Rhyme", "Cilin_Rhyme"):
            (self.folder / f"{name}.json").write_text(json.dumps({"平声": {"平声": ["流", "楼"]}}), encoding="utf-8")


def _responses(prompt: str, chosen: str, rejected: str) -> tuple[Response, ...]:
    """Every source once, and a good one of the policy's."""
    scores = {"dataset": 5.0, "policy": 1.0, "small": 2.0}
    own = [Response(f"{chosen} w{number}", source, score) for number, (source, score) in enumerate(scores.items())]
    return *own, Response(f"{rejected} w9", "policy", 4.0)


def composed(path: Path) -> Any:
    """A config with the parts that it names by their paths put in."""
    return _composed(yaml.safe_load(path.read_text(encoding="utf-8")), path)


def _composed(value: Any, path: Path) -> Any:
    if isinstance(value, str) and value.endswith(".yaml"):
        return composed((path.parent / value).resolve())
    if isinstance(value, dict):
        return {key: _composed(item, path) for key, item in value.items()}
    return [_composed(item, path) for item in value] if isinstance(value, list) else value
