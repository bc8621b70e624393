"""What is published of held-out runs: rates with intervals, ROC, reliability, lead time, baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from callbacks.alarms.features import FEATURES
from studies.verdict.families import APART, Array, LabelledRun
from studies.verdict.fit import Scored, smallest, threshold_without

BOOTSTRAPS = 400

Track = Callable[[LabelledRun], tuple[list[int], Array]]
"""(steps, values) of a baseline's score, without a running maximum."""


def wilson(hits: int, total: int) -> str:
    """A share with its 95% Wilson interval."""
    if not total:
        return "-"
    z, share = 1.96, hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return f"{share:.2f} [{max(0.0, centre - half):.2f}, {min(1.0, centre + half):.2f}] ({hits} of {total})"


@dataclass(frozen=True)
class Warned:
    """A held-out run, and when it was warned of."""

    run: LabelledRun
    step: int | None

    @property
    def lead(self) -> int | None:
        """Steps from the warning to the reading at which harm shows."""
        harm = self.run.outcome.harm_step
        return None if self.step is None or harm is None else harm - self.step


def warned(scored: Iterable[Scored], threshold: float) -> list[Warned]:
    """When each run is warned of at a threshold."""
    return [Warned(one.run, one.warned_at(threshold)) for one in scored]


def warned_without(scored: Sequence[Scored]) -> list[Warned]:
    """The same, each run at the threshold that the other families chose."""
    chosen = {family: threshold_without(scored, family) for family in dict.fromkeys(one.run.family for one in scored)}
    return [Warned(one.run, one.warned_at(chosen[one.run.family])) for one in scored]


def rates(runs: Sequence[Warned]) -> list[str]:
    """Precision, recall, false-alarm rate, and lead time of the warnings that were right."""
    wrong = [one for one in runs if one.run.outcome.is_wrong]
    right = sum(one.step is not None for one in wrong)
    false = sum(one.step is not None for one in runs if not one.run.outcome.is_wrong)
    return [wilson(right, right + false), wilson(right, len(wrong)), wilson(false, len(runs) - len(wrong)), lead_of(wrong)]


def lead_of(wrong: Sequence[Warned]) -> str:
    """Median lead in steps and as a share of the run; how many came before harm showed."""
    leads = [(one.lead, one.lead / one.run.length) for one in wrong if one.lead is not None]
    if not leads:
        return "-"
    early, same = sum(lead > 0 for lead, _ in leads), sum(lead == 0 for lead, _ in leads)
    steps, share = median(lead for lead, _ in leads), median(share for _, share in leads)
    return f"{steps:+.0f} steps, {share:+.0%} of the run; {early} before harm showed, {same} with it, of {len(leads)}"


def auc_of(scored: Sequence[Scored]) -> str:
    """Area under the ROC curve with a 95% bootstrap interval over cells."""
    from sklearn.metrics import roc_auc_score

    labels, scores = labels_of(scored), np.array([one.highest for one in scored])
    if len(set(labels.tolist())) < 2:
        return "-"
    generator = np.random.default_rng(0)
    areas: list[float] = []
    while len(areas) < BOOTSTRAPS:
        drawn = generator.integers(len(labels), size=len(labels))
        if labels[drawn].any() and not labels[drawn].all():
            areas.append(roc_auc_score(labels[drawn], scores[drawn]))
    low, high = np.quantile(areas, (0.025, 0.975))
    return f"{roc_auc_score(labels, scores):.2f} [{low:.2f}, {high:.2f}]"


def labels_of(scored: Sequence[Scored]) -> Array:
    """Whether each ended wrong."""
    return np.array([one.run.outcome.is_wrong for one in scored])


def recall_at(scored: Sequence[Scored], rate: float = 0.05) -> str:
    """Recall at the threshold that `rate` of all fine runs together reach."""
    trained = [one for one in scored if one.run.family != APART]
    threshold = smallest([one.highest for one in trained if not one.run.outcome.is_wrong], rate)
    wrong = [one for one in trained if one.run.outcome.is_wrong]
    return wilson(sum(one.highest >= threshold for one in wrong), len(wrong))


def baseline(runs: Sequence[LabelledRun], track: Track) -> list[Scored]:
    """Runs scored by a baseline: its highest value so far."""
    scored = []
    for run in runs:
        steps, values = track(run)
        if steps:
            scored.append(Scored(run, steps, np.maximum.accumulate(values)))
    return scored


def chosen_fell(run: LabelledRun) -> tuple[list[int], Array]:
    """Fall of the chosen completions on the bank, nats per token."""
    return _of_bank(run, lambda chosen, rejected: -chosen)


def margin_grows_while_chosen_falls(run: LabelledRun) -> tuple[list[int], Array]:
    """Growth of the margin on the bank, nats per token, where chosen has fallen; else 0."""
    return _of_bank(run, lambda chosen, rejected: max(chosen - rejected, 0.0) if chosen < 0 else 0.0)


def learning_rate(run: LabelledRun) -> tuple[list[int], Array]:
    """The logarithm of the learning rate, known from the start."""
    return [run.reading_steps[0]], np.array([math.log(run.rate)])


def _of_bank(run: LabelledRun, of: Callable[[float, float], float]) -> tuple[list[int], Array]:
    names = [f"likelihood/bank/{side}/change_per_token" for side in ("chosen", "rejected")]
    values = [of(latest[names[0]], latest[names[1]]) for _, _, latest in run.readings]
    return run.reading_steps, np.array(values)


BASELINES: dict[str, Track] = {
    "chosen fell": chosen_fell,
    "the margin grows while chosen falls": margin_grows_while_chosen_falls,
    "learning rate alone": learning_rate,
}


def property_of(weights: Array, sizes: Array) -> str:
    """The property that the heaviest feature of a reading is a sign of."""
    return FEATURES[int((weights * sizes).argmax())].property
