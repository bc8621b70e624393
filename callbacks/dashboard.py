"""TensorBoard's custom-scalars page: one row of charts for each of the paper's three properties."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.run_files import tensorboard_writer

Layout = dict[str, dict[str, tuple[str, list[str]]]]
"""`{row: {chart: (kind, [regular expression of tags])}}`, as `SummaryWriter.add_custom_scalars` takes it."""


def _lines(*tags: str) -> tuple[str, list[str]]:
    return "Multiline", [f"^{tag}$" for tag in tags]


LAYOUT: Layout = {
    "1 Drastic drop": {
        "likelihood, change since step 0 (nats per token, probe bank)": _lines(
            "likelihood/bank/(chosen|rejected)/change_per_token"
        ),
        "likelihood, change since the reference (nats per token, training)": _lines(
            "likelihood/(chosen|rejected)/change_per_token"
        ),
        "drop share (above 1: chosen falls too)": _lines("likelihood/drop_share", "likelihood/bank/drop_share"),
        "gradient in pi: log|dl/dpi| per token (nats)": _lines("softmax_grad/(chosen|rejected)/log_pi_gradient_per_token"),
        "gradient at the logits (L2, mean token)": _lines("softmax_grad/(chosen|rejected)/l2"),
    },
    "2 Degradation": {
        "pairs by direction of (chosen, rejected)": _lines("degradation/quadrant/.*"),
        "weight left in the loss": _lines("degradation/(weight|saturated)"),
        "incentives: d_w, d_l": _lines("softmax_grad/(chosen|rejected)/incentive"),
        "ranking and reward accuracy": _lines("degradation/ranking_accuracy", "train/rewards/accuracies"),
        "chosen tokens by what rejected holds (change, nats)": _lines("degradation/chosen/.*/change_per_token"),
    },
    "3 Dispersion": {
        "probes against pairs: index (nats per token)": _lines("dispersion/bank/.*/index_per_token"),
        "likelihood by kind, change since step 0 (nats per token)": _lines("likelihood/bank/.*/change_per_token"),
        "entropy (nats)": _lines("dispersion/(bank/)?(chosen|rejected)/entropy"),
        "mass off the pair where it parts": _lines("dispersion/(bank/)?off_pair_mass"),
        "top-1 mass": _lines("dispersion/(bank/)?(chosen|rejected)/top1_mass"),
    },
}
"""The three properties (paper Sec. 3.1), each with the metrics that show it."""


class PropertyDashboard(Callback):
    """Lays the three properties out as three rows of TensorBoard's Custom Scalars tab; needs a TensorBoardLogger."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is not None:
            writer.add_custom_scalars(LAYOUT)
