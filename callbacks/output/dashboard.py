"""Lays out TensorBoard's custom-scalars page: an overview and one row of charts for each of the paper's properties; HParams."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.output.hyperparameters import final_metrics, hyperparameters
from run_folder.files import run_folder, tensorboard_writer
from run_folder.tensorboard import RunLogger

Layout = dict[str, dict[str, tuple[str, list[str]]]]
"""`{row: {chart: (kind, [regular expression of tags])}}`, as `SummaryWriter.add_custom_scalars` takes it."""


def _lines(*tags: str) -> tuple[str, list[str]]:
    return "Multiline", [f"^{tag}$" for tag in tags]


LAYOUT: Layout = {
    "Overview": {
        "accuracy": _lines("task/accuracy", "val/accuracy", "val/rewards/accuracies", "train/rewards/accuracies"),
        "chosen, rejected, probes: change since step 0 (nats per token)": _lines(
            "likelihood/bank/(chosen|rejected)/change_per_token", "dispersion/bank/probes/change_per_token"
        ),
        "drop share of the margin (above 1: chosen falls too)": _lines("likelihood/bank/drop_share", "likelihood/drop_share"),
        "mass off the data, off the pair": _lines("dispersion/bank/(off_data_mass|off_pair_mass)"),
        "gradient at the logits, by side (L2, mean token)": _lines("softmax_grad/(chosen|rejected|sample)/l2"),
        "KL to the reference, repeated 4-grams of samples": _lines(
            "on_policy/kl_per_token", "on_policy/(repetition|out_of_reference)", "objective/kl"
        ),
    },
    "1 Drastic drop": {
        "likelihood, change since step 0 (nats per token, probe bank)": _lines(
            "likelihood/bank/(chosen|rejected)/change_per_token"
        ),
        "likelihood, change since the reference (nats per token, training)": _lines(
            "likelihood/(chosen|rejected)/change_per_token"
        ),
        "drop share (above 1: chosen falls too)": _lines("likelihood/drop_share", "likelihood/bank/drop_share"),
        "gradient in pi: log|dl/dpi| per token (nats)": _lines("softmax_grad/(chosen|rejected)/log_pi_gradient_per_token"),
        "Corollary 1 per token, step 0 taken out (nats)": _lines("softmax_grad/corollary1_per_token_from_reference"),
        "gradient at the logits (L2, mean token)": _lines("softmax_grad/(chosen|rejected|sample.*)/l2"),
        "rejected tokens in a valley (p < 0.001)": _lines("likelihood/(bank/)?(chosen|rejected)/valley"),
    },
    "2 Degradation": {
        "probability that the run ends worse than it began": _lines("harm/probability"),
        "pairs by direction of (chosen, rejected), training": _lines("degradation/quadrant/.*"),
        "pairs by direction of (chosen, rejected), probe bank": _lines("degradation/bank/quadrant/.*"),
        "pairs whose own step leaves the disentanglement band": _lines("head/band_violated"),
        "d_w / d_l of the loss, and 1 over it in the middle of the band": _lines("head/(incentive_ratio|centre)"),
        "cosine of the sides' gradients (output layer)": _lines("head/cosine"),
        "weight left in the loss": _lines("degradation/(weight|saturated)"),
        "incentives: d_w, d_l": _lines("softmax_grad/(chosen|rejected)/incentive"),
        "ranking and reward accuracy": _lines("degradation/(bank/)?ranking_accuracy", "train/rewards/accuracies"),
    },
    "3 Dispersion": {
        "probes against pairs: index (nats per token)": _lines("dispersion/bank/.*/index_per_token"),
        "mass off the known responses": _lines("dispersion/bank/off_data_mass"),
        "who gained on rejected (share of the mass that moved)": _lines("mass/rejected/to_(seen|off_data|argmax)"),
        "pairs squeezed since the last reading": _lines("dispersion/bank/squeezed"),
        "samples the reference would hardly write (share)": _lines("on_policy/out_of_reference"),
        "KL of samples to the reference (nats)": _lines("on_policy/kl"),
        "samples: repeated 4-grams, different pairs of tokens": _lines("on_policy/(repetition|distinct_2)"),
        "likelihood by kind, change since step 0 (nats per token)": _lines("likelihood/bank/.*/change_per_token"),
        "entropy (nats)": _lines("dispersion/(bank/)?(chosen|rejected)/entropy"),
        "mass off the pair where it parts": _lines("dispersion/(bank/)?off_pair_mass"),
        "mass of the likeliest token, of the ten likeliest": _lines(
            "dispersion/(bank/)?(chosen|rejected)/top1_mass", "mass/(chosen|rejected)/top10"
        ),
    },
}
"""First what a reader wants to know at once, then the three properties (paper Sec. 3.1), each with the metrics that show it."""


class PropertyDashboard(Callback):
    """Lays an overview and the three properties out as rows of TensorBoard's Custom Scalars tab, which needs a TensorBoardLogger.

    When a fit has ended it fills the HParams tab, which needs a RunLogger.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = tensorboard_writer(trainer)
        if writer is not None:
            writer.add_custom_scalars(LAYOUT)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        logger = next((logger for logger in trainer.loggers if isinstance(logger, RunLogger)), None)
        if not trainer.is_global_zero or logger is None or folder is None or not (folder / "config.yaml").is_file():
            return
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        ends = final_metrics(folder, logged)
        if ends:
            logger.compare_by(hyperparameters(folder), ends)
