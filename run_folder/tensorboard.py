"""The TensorBoard logger of a run: the metrics that a reader looks at, each with its description. The rows hold all metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary
from torch.utils.tensorboard.summary import hparams
from typing_extensions import override

from run_folder.descriptions import description_of

ROWS_ONLY = (
    # By class of token.
    r".*/(shared|divergent|overlap|novel)/.*",
    # What differs from a metric that is shown by a length or a reference alone.
    r"likelihood/.*/(logp_per_token|change)",
    r"softmax_grad/.*/(l1|log_pi_gradient|log_pi_gradient_from_reference|log_pi_gradient_per_token_from_reference)",
    r"softmax_grad/corollary1(_per_token|_from_reference)?",
    r"dispersion/.*/(exp_entropy|sum_sq_probs|argmax_rate)",
    r"dispersion/(bank/)?(off_pair_path_mass|log_seen_mass)",
    # Of single kinds of probes: their change per token is shown.
    r"likelihood/bank/(?!chosen/|rejected/)[^/]+/(logp|valley)",
    r"dispersion/bank/(?!chosen/|rejected/)[^/]+/(entropy|top1_mass)",
    r"dispersion/bank/(?!probes/)[^/]+/(change|change_per_token|index|index_per_token)",
    r"dispersion/bank/probes/(change|index)",
    # Units and errors of other metrics.
    r"likelihood/bank/.*_spread",
    # What the probability of harm is made of.
    r"harm/(?!probability).*",
    # Of single steps: noise to the eye.
    r"degradation/(bank/)?flips_to_(right|wrong)",
    r"head/(chosen|rejected)/(predicted|explained|norm)|head/ches|head/sign_agreement",
)
"""Tags, as regular expressions, that stand in `<run>/diagnostics` and not in TensorBoard."""

_HIDDEN = re.compile("|".join(f"(?:{pattern})" for pattern in ROWS_ONLY))


def is_shown(tag: str) -> bool:
    """Whether TensorBoard has it."""
    return _HIDDEN.fullmatch(tag) is None


def add_summary(logger: TensorBoardLogger, summary: Summary, step: int | None = None) -> None:
    """Write a summary as it is: Lightning's own way, for the writer has no other."""
    logger.experiment._get_file_writer().add_summary(summary, step)


class RunLogger(TensorBoardLogger):
    """Lightning's logger, with fewer tags, a description on each (the "i" beside a chart's name) and half the bytes a point.

    Which tags are left out: `ROWS_ONLY`. Another logger in its place has them all. The numbers of a call are one record: step, time
    and checksums once for all. Arguments are TensorBoardLogger's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._described: set[str] = set()

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        shown = {tag: value for tag, value in metrics.items() if is_shown(tag)}
        # Several curves under one tag, as add_scalars takes them.
        groups = {tag: value for tag, value in shown.items() if isinstance(value, Mapping)}
        values = [self._value(tag, float(value)) for tag, value in shown.items() if tag not in groups]
        if values:
            add_summary(self, Summary(value=values), step)
        if groups:
            super().log_metrics(groups, step)

    @rank_zero_only
    def compare_by(self, settings: Mapping[str, float | str], ends: Mapping[str, float]) -> None:
        """Fill the HParams tab, which compares runs. Unlike `log_hyperparams` it logs no metric a second time.

        Args:
            settings: what runs differ in.
            ends: last values of metrics that have been logged; the tab reads their points.
        """
        for summary in hparams(dict(settings), dict(ends)):
            add_summary(self, summary)

    def _value(self, tag: str, value: float) -> Summary.Value:
        """A point. The first one of a tag has its description: TensorBoard takes it from there."""
        # A prefix makes tags that no page describes.
        if self._prefix:
            return Summary.Value(tag=f"{self._prefix}{self.LOGGER_JOIN_CHAR}{tag}", simple_value=value)
        point = Summary.Value(tag=tag, simple_value=value)
        if tag not in self._described:
            self._described.add(tag)
            point.metadata.summary_description = description_of(tag)
            # Without both, TensorBoard's server puts metadata of its own in their place.
            point.metadata.plugin_data.plugin_name = "scalars"
            point.metadata.data_class = DATA_CLASS_SCALAR
        return point
