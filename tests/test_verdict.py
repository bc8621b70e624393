"""The sentences on a run, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from run_folder.rows import Track
from run_folder.verdict import Outcome, Verdict, alarm_sentence, method_of, verdict_of


def bank(chosen: float, rejected: float) -> dict[str, Track]:
    return {
        "likelihood/bank/chosen/change": [(0, 0.0), (40, chosen)],
        "likelihood/bank/rejected/change": [(0, 0.0), (40, rejected)],
    }


def accuracy(start: float, end: float, problems: int | None = 200) -> dict[str, Track]:
    counted = {} if problems is None else {"task/problems": [(0, float(problems)), (40, float(problems))]}
    return {"task/accuracy": [(0, start), (40, end)], **counted}


def test_a_loss_beyond_chance_by_suppression() -> None:
    verdict = verdict_of(accuracy(0.685, 0.47) | bank(-2.06, -10.56), "DPO")
    # 1.96 sqrt(.685 .315 / 200 + .47 .53 / 200) = 0.0946; drop share 10.56 / 8.50.
    assert verdict.outcome == "worse"
    assert verdict.sentences() == (
        "DPO lost 21.5 points of accuracy: 0.685 -> 0.470. The margin grew by suppression (drop share 1.24). "
        "Beyond chance: 95% interval of the change [-31, -12] points on 200 problems."
    )


def test_a_gain_within_chance_is_no_gain() -> None:
    verdict = verdict_of(accuracy(0.685, 0.715), "SFT-DPO")
    assert verdict.outcome == "same"
    assert verdict.headline == "SFT-DPO gained 3 points of accuracy: 0.685 -> 0.715."
    assert verdict.certainty == "Within chance: 95% interval of the change [-6, +12] points on 200 problems."


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        (-1.0, -3.0, "by suppression (drop share 1.50)"),
        (1.0, -3.0, "mostly because rejected fell (drop share 0.75)"),
        (3.0, -1.0, "mostly because chosen rose (drop share 0.25)"),
        (3.0, 1.0, "although both sides rose (drop share -0.50)"),
    ],
)
def test_how_the_margin_grew(chosen: float, rejected: float, words: str) -> None:
    assert verdict_of(bank(chosen, rejected), "DPO").cause == f"The margin grew {words}."


def test_a_margin_that_shrank_has_no_share() -> None:
    assert verdict_of(bank(-2.0, -1.0), "DPO").cause == "The margin did not grow (-1.00 nats)."


def test_nothing_judged_says_so() -> None:
    verdict = verdict_of({"train/loss": [(0, 1.0), (9, 0.1)]}, "SFT")
    assert (verdict.outcome, verdict.headline) == ("not judged", "SFT: not judged, so whether answers got better is not known.")
    once = verdict_of({"val/accuracy": [(40, 0.75)]}, "The reward model")
    assert once.outcome == "not judged"
    assert "0.750, read once" in once.headline


def test_rewards_judge_no_answers() -> None:
    verdict = verdict_of({"val/rewards/accuracies": [(10, 0.5), (40, 0.75)]}, "DPO")
    assert verdict.headline == "DPO gained 25 points of reward accuracy on held-out pairs: 0.500 -> 0.750 since step 10."
    assert verdict.certainty == "What it writes was not judged."


ROWS: list[dict[str, Any]] = [{"step": 15, "property": "drastic_drop"}, {"step": 18, "property": "suppression"}]


def judged(outcome: Outcome, *, is_of_answers: bool = True) -> Verdict:
    return Verdict(outcome, "", "", "", is_of_answers)


def test_silence_is_told_from_nobody_listening() -> None:
    quiet = {"drastic_drop": "did not fire", "dispersion": "not judged: mass not measured"}
    nobody = "Warnings and notices: not judged."
    assert alarm_sentence([], {}, judged("worse")) == nobody
    assert alarm_sentence([], {"dispersion": "not judged: mass not measured"}, judged("worse")) == nobody
    assert alarm_sentence([], quiet, judged("worse")) == "No property shows. Not judged: dispersion."
    calm = quiet | {"harm": "no warning: at most 12% likely to end worse (step 30)"}
    assert alarm_sentence([], calm, judged("worse")).startswith(
        "No warning: at most 12% likely to end worse (step 30). No property"
    )
    judged_none = {"dispersion": "not judged: mass not measured", "harm": "no warning"}
    assert alarm_sentence([], judged_none, judged("worse")) == "No warning. Not judged: dispersion."
    unknown = quiet | {"harm": "not judged: mass/chosen/moved was not measured"}
    assert alarm_sentence([], unknown, judged("worse")).startswith("Whether harm is likely was not judged. No property shows.")


WARNING = {"step": 12, "property": "suppression", "level": "warning", "probability": 0.84}


def test_a_warning_and_accuracy_are_reconciled() -> None:
    assert alarm_sentence(ROWS, {}, judged("worse")) == "Shows: drastic drop (since step 15), suppression (since step 18)."
    # A notice claims no harm: there is nothing to take back.
    assert alarm_sentence(ROWS, {}, judged("better")) == alarm_sentence(ROWS, {}, judged("worse"))
    warned = alarm_sentence([*ROWS, WARNING], {}, judged("worse"))
    assert warned.startswith("Warned at step 12: 84% likely to end worse than it began (suppression). Shows: drastic drop")
    assert alarm_sentence([WARNING], {}, judged("same")).endswith("The warning was wrong: accuracy did not change beyond chance.")
    # A better ranking of pairs is no sign that answers are unharmed.
    assert "wrong" not in alarm_sentence([WARNING], {}, judged("better", is_of_answers=False))
    own = {"step": 3, "property": "forgetting", "level": "warning", "probability": None}
    assert alarm_sentence([own], {}, judged("worse")) == "Warned at step 3: by a rule of your own (forgetting)."


@pytest.mark.parametrize(
    ("module", "arguments", "name"),
    [
        ("preference.PreferenceModule", {"loss": {"class_path": "lightning_modules.losses.dpo.DPOLoss"}}, "DPO"),
        ("preference.PreferenceModule", {"loss": {"class_path": "x.SFTDPOLoss"}}, "SFT-DPO"),
        ("on_policy.OnPolicyPreferenceModule", {"loss": {"class_path": "x.IPOLoss"}}, "On-policy IPO"),
        ("ppo.module.PPOModule", {"advantages": {"class_path": "x.GAE"}}, "PPO"),
        ("ppo.module.PPOModule", {"advantages": {"class_path": "x.RLOO"}}, "RLOO"),
        ("sft.SFTModule", {}, "SFT"),
        ("diagnosis.DiagnosisModule", {"loss": {"class_path": "x.DPOLoss"}}, "The policy"),
        ("reward.RewardModule", {"loss": {"class_path": "x.BradleyTerry"}}, "The reward model"),
    ],
)
def test_the_method_has_its_usual_name(module: str, arguments: dict[str, Any], name: str) -> None:
    assert method_of({"model": {"class_path": f"lightning_modules.{module}", "init_args": arguments}}) == name


def test_what_is_not_known_is_not_made_up() -> None:
    assert method_of({}) == "The run"
