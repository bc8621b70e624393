"""Measures what options of a step change: a 1.5B model, compiled layers, checkpointing."""

from __future__ import annotations

from dataclasses import replace

from bench.gpu.rows import PartOptions, part_options
from bench.gpu.trained_steps import Setting, figures, quiet, train
from bench.matmul_peak import best_rate


def main(options: PartOptions) -> None:
    """The 1.5B model first: its utilisation is what users of a GPU ask for."""
    quiet()
    peak = best_rate(options.device)
    half, large = (Setting(shape, "bf16-mixed", options.device) for shape in ("qwen2.5-0.5b", "qwen2.5-1.5b"))
    settings = {
        "1.5B": (large, 25),
        "0.5B, compiled": (replace(half, compile=True), 40),
        "1.5B, compiled": (replace(large, compile=True), 40),
        "1.5B, 32 pairs, selective checkpointing": (replace(large, pairs_per_step=32, gradient_checkpointing="selective"), 30),
        "0.5B, selective checkpointing": (replace(half, gradient_checkpointing="selective"), 15),
        "0.5B, full checkpointing": (replace(half, gradient_checkpointing=True), 15),
        "0.5B, compiled, full checkpointing": (replace(half, compile=True, gradient_checkpointing=True), 40),
        "0.5B, long prompts": (replace(half, mix="long_prompt"), 15),
    }
    for name, (setting, seconds) in settings.items():
        if options.has_time_for(name, seconds):
            setting = setting.small() if options.dry_run else setting
            try:
                options.add(name, **figures(setting, train(setting), peak))
            except Exception as error:  # one option that fails must not cost the figures of the next
                options.add(name, failed=f"{type(error).__name__}: {error}"[:500])


if __name__ == "__main__":
    main(part_options())
