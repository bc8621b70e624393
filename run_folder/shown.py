"""Texts, pictures and spreads of values, in the loggers that hold them: TensorBoard, Weights & Biases, MLflow.

Others (CSVLogger) have numbers alone; the run's folder has texts as rows, and heat-maps as pages. Call all on any rank: the first
one writes.
"""

from __future__ import annotations

import io
from importlib import import_module

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from run_folder.tensorboard import add_summary

COLORS = 64
"""Of a picture: a third of the bytes of all, and no difference to the eye."""

BUCKETS = 30
"""Of a histogram: as many as TensorBoard draws."""


def show_text(trainer: Trainer, tag: str, text: str, step: int) -> None:
    """Write a text (Markdown) at a step."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_text(tag, text, step)
            case WandbLogger():
                logger.log_table(tag, columns=["step", "text"], data=[[step, text]], step=step)
            case MLFlowLogger():
                logger.experiment.log_text(logger.run_id, text, f"{tag}/step_{step:06d}.md")


def holds_pictures(trainer: Trainer) -> bool:
    """Whether a picture has anybody to show it; drawing takes time."""
    holders = (TensorBoardLogger, WandbLogger, MLFlowLogger)
    return trainer.is_global_zero and any(isinstance(logger, holders) for logger in trainer.loggers)


def show_picture(trainer: Trainer, tag: str, figure: Figure, step: int) -> None:
    """Write a figure at a step."""
    if not holds_pictures(trainer):
        return
    image = _painted(figure)
    for logger in trainer.loggers:
        match logger:
            case TensorBoardLogger():
                add_summary(logger, Summary(value=[Summary.Value(tag=tag, image=_encoded(image))]), step)
            case WandbLogger():
                logger.log_image(tag, [image.convert("RGB")], step=step)
            case MLFlowLogger():
                logger.experiment.log_image(logger.run_id, image, f"{tag}/step_{step:06d}.png")


def show_values(trainer: Trainer, tag: str, values: NDArray[np.float64], step: int) -> None:
    """Write the histogram of values at a step. MLflow has none: the rows have quantiles."""
    known = values[np.isfinite(values)]
    for logger in trainer.loggers if trainer.is_global_zero and len(known) else ():
        match logger:
            case TensorBoardLogger():
                logger.experiment.add_histogram(tag, known, step, bins=BUCKETS)
            case WandbLogger():
                counted = np.histogram(known, BUCKETS)
                # wandb is not a dependency; whoever has the logger has it.
                logger.log_metrics({tag: import_module("wandb").Histogram(np_histogram=counted)}, step)


def _painted(figure: Figure) -> Image.Image:
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(drawn, format="png", dpi=figure.dpi)
    return Image.open(drawn).convert("RGB").quantize(COLORS)


def _encoded(image: Image.Image) -> Summary.Image:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Summary.Image(width=image.width, height=image.height, colorspace=3, encoded_image_string=file.getvalue())
