"""What a process of a sharded run needs of the host's memory to start: a whole model that is then cut, or its own part alone.

`MALLOC_MMAP_THRESHOLD_=65536 python -m bench.start_memory --out docs/results/scaling/start.md` (gloo; seconds on a free core). The
variable has glibc give back what is freed, which it keeps otherwise and which would be counted.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from bench.gloo import together
from bench.markdown import write_lines
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy

MALLOC = "MALLOC_MMAP_THRESHOLD_"
SIZES = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 20, "vocab_size": 2048}
"""Embeddings are a twentieth of it, as of a 7B model."""
CONFIG = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024} | SIZES


def cut_when_whole(path: str, mesh: DeviceMesh) -> nn.Module:
    """As a policy starts that cannot be read in parts."""
    policy = PretrainedPolicy(path=path).build()
    policy.shard(mesh)
    return policy


def read_in_parts(path: str, mesh: DeviceMesh) -> nn.Module:
    """As one starts that can."""
    policy = PretrainedPolicy(path=path).build_sharded(mesh)
    assert policy is not None, "a Llama can be read in parts"
    return policy


WAYS: Mapping[str, Callable[[str, DeviceMesh], nn.Module]] = {"whole, then cut": cut_when_whole, "in parts": read_in_parts}


def start(folder: Path, way: str) -> None:
    """In each process: start twice, first a small model, so that what is allocated once is not counted; note the peak."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    WAYS[way](str(folder / "small"), mesh)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = _kilobytes("VmRSS")
    policy = WAYS[way](str(folder / "large"), mesh)
    peak = torch.tensor(1024 * (_kilobytes("VmHWM") - before))
    distributed.all_reduce(peak, op=distributed.ReduceOp.MAX)
    size = sum(parameter.numel() * parameter.element_size() for parameter in policy.parameters())
    if distributed.get_rank() == 0:
        (folder / "found").write_text(f"{size} {int(peak)}", encoding="utf-8")
    distributed.destroy_process_group()


def _kilobytes(entry: str) -> int:
    found = re.search(rf"{entry}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None, "Linux"
    return int(found[1])


def measure(folder: Path, way: str, size: int) -> tuple[int, int]:
    """Bytes of the model, and the peak that a start adds to the process of `size` that needs most."""
    together(size, start, folder, way)
    weights, peak = (folder / "found").read_text(encoding="utf-8").split()
    return int(weights), int(peak)


def check(out: Path) -> None:
    """Write both for 2 and 4 processes."""
    lines = ["| processes | whole, then cut: MB | in parts: MB |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), 0
        for size, config in {"small": CONFIG | {"hidden_size": 64, "vocab_size": 64}, "large": CONFIG}.items():
            RandomPolicy(config).build().save(folder / size)
        for processes in (2, 4):
            found = [measure(folder, way, processes) for way in WAYS]
            weights = found[0][0]
            lines.append(f"| {processes} | " + " | ".join(f"{peak / 1e6:.0f}" for _, peak in found) + " |")
    setting = [f"{MALLOC}={os.environ[MALLOC]}"] if MALLOC in os.environ else []
    command = shlex.join([*setting, "python", "-m", "bench.start_memory", *sys.argv[1:]])
    text = (
        f"# Memory of the host while a sharded run starts\n\n`{command}` (torch {torch.__version__}, gloo, a thread a process): "
        f"peak resident memory that building a random Llama of {weights / 1e6:.0f} MB (float32) and sharding it (FSDP2) adds to "
        "the process that needs most, with the check of its log-probs on a short batch. In parts each process reads its own rows "
        "of the files (`lightning_modules/models/files/shards.py`); the check gathers what is in no layer, and one layer at a "
        "time.\n\n"
    )
    write_lines(out, text, lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    check(parser.parse_args().out)
