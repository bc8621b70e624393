"""The page of the maths judge, measured on real data.

The folder holds math_test.jsonl.xz, gsm8k_example_model_solutions.jsonl.xz, gsm8k_train.jsonl.xz, math_train.jsonl.xz and
ape210k_valid.jsonl.xz.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import lzma
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from judges.maths import MathsJudge
from judges.solutions.answers import canonical, gold_answer
from judges.solutions.arithmetic import check_equations
from judges.solutions.comparer import SymbolicComparer
from studies.study import Study

COMMAND = "`python -m studies page judge_maths --set data=FOLDER`"
NUM_GOLDS = 400
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
CHINESE_FORMS = ("答案是{}。", "解：列式计算。\n答：{}", "所以结果为【{}】", "【答案】{}", "计算得\n#### {}")
HOSTILE = {
    "tower of powers": "9^{9^{9^{9^{9}}}}",
    "huge power": "12345678901234567890^{987654321987654321}",
    "deep parentheses": "(" * 900 + "3" + ")" * 900,
    "deep fractions": "\\frac{1}{1+" * 150 + "2" + "}" * 150,
    "factorial": "(10^{9})!",
    "long sum": "\\sum_{n=1}^{10^{12}} \\frac{1}{n^{2}+x}",
    "integral": "\\int_0^1 \\frac{\\sin(x^{x^x})}{x^{100}+\\cos(x)} dx",
    "100,000 digits": "7" * 100_000,
}


def read_rows(path: Path) -> list[dict[str, object]]:
    """Rows of a compressed JSONL file."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def measure_math(judge: MathsJudge, folder: Path, seed: int) -> Iterator[str]:
    """Golds against their own solutions, and against the solution of another problem of the sample."""
    rows = random.Random(seed).sample(read_rows(folder / "math_test.jsonl.xz"), NUM_GOLDS)
    solutions = [str(row["solution"]) for row in rows]
    golds = [gold_answer(solution) for solution in solutions]
    start = time.perf_counter()
    own = [judge.judge("", solution, gold).details["correct"] for solution, gold in zip(solutions, golds, strict=True)]
    seconds = time.perf_counter() - start
    yield f"| MATH golds that verify against their own solution | {sum(own):.0f} of {len(own)} | all 400 |"
    others = [(i, golds[(i + shift) % NUM_GOLDS]) for shift in (1, 7, 50) for i in range(NUM_GOLDS)]
    pairs = [(solutions[i], other) for i, other in others if canonical(other) != canonical(golds[i])]
    refused = [judge.judge("", solution, other).details["correct"] == 0 for solution, other in pairs]
    yield f"| mismatched golds refused | {sum(refused)} of {len(refused)} ({sum(refused) / len(refused):.2%}) | >= 98% |"
    algebra = SymbolicComparer(judge.timeout)
    with contextlib.closing(algebra):
        again = [algebra.is_same(gold, gold) is True for gold in golds]
    yield f"| the same 400 by computer algebra alone (no comparison of spellings) | {sum(again)} of {len(again)} | |"
    respelled = [(gold, rewrite) for gold in golds for rewrite in respell(gold)]
    accepted = [judge.judge("", f"So it is \\boxed{{{rewrite}}}.", gold).details["correct"] for gold, rewrite in respelled]
    yield f"| golds respelled (slash fractions, spaces, `x =`) that verify | {sum(accepted):.0f} of {len(accepted)} | |"
    changed = [(gold, change_digit(gold)) for gold in golds if any(c.isdigit() for c in gold)]
    refused = [judge.judge("", f"So it is \\boxed{{{other}}}.", gold).details["correct"] == 0 for gold, other in changed]
    yield f"| golds with one digit changed that are refused | {sum(refused)} of {len(refused)} | |"
    yield f"| time per MATH response | {1000 * seconds / NUM_GOLDS:.1f} ms | |"


def respell(gold: str) -> Iterator[str]:
    """The same value written differently."""
    if "\\frac{" in gold:
        yield re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", gold)
    if "\\text" not in gold:
        yield re.sub(r"(?<=[\w}])([+\-,])", r" \1 ", gold)
    if "=" not in gold and "," not in gold and "\\text" not in gold:
        yield f"x = {gold}"


def change_digit(gold: str) -> str:
    """Another value: the last digit moved by one to four."""
    position = max(i for i, character in enumerate(gold) if character.isdigit())
    digit = int(gold[position])
    return gold[:position] + str(digit + (1 if digit < 9 else -4)) + gold[position + 1 :]


def measure_gsm8k(judge: MathsJudge, folder: Path) -> Iterator[str]:
    """Answers of other models against their labels, and how the scores fall."""
    rows = read_rows(folder / "gsm8k_example_model_solutions.jsonl.xz")
    agree, scores = 0, Counter[tuple[bool, int]]()
    start = time.perf_counter()
    for row in rows:
        for model in MODELS:
            labelled: dict[str, object] = row[model]  # type: ignore[assignment]
            verdict = judge.judge(str(row["question"]), str(labelled["solution"]), str(row["ground_truth"]))
            agree += (verdict.details["correct"] == 1) == labelled["is_correct"]
            scores[bool(labelled["is_correct"]), int(verdict.score)] += 1
    count = scores.total()
    milliseconds = 1000 * (time.perf_counter() - start) / count
    yield f"| GSM8K answers of four models that agree with their label | {agree} of {count} ({agree / count:.2%}) | >= 99% |"
    yield f"| time per GSM8K response | {milliseconds:.2f} ms | |"
    for label in (True, False):
        counts = [scores[label, score] for score in range(1, 6)]
        yield f"| scores 1-5 of answers labelled {'right' if label else 'wrong'} | {counts} | |"


def measure_false_alarms(folder: Path) -> Iterator[str]:
    """Arithmetic equations in gold solutions that the rules call wrong."""
    for name, key in (("gsm8k_train", "answer"), ("math_train", "solution")):
        rows = read_rows(folder / f"{name}.jsonl.xz")
        checked = [list(check_equations(str(row[key]))) for row in rows]
        flagged = sum(not all(results) for results in checked)
        total = sum(map(len, checked))
        yield f"| {name}: gold solutions with an equation called wrong | {flagged} of {len(rows)} ({total:,} equations) | |"


def measure_ape210k(judge: MathsJudge, folder: Path) -> Iterator[str]:
    """Chinese golds in five ways of stating an answer, right and mismatched."""
    golds = [str(row["ans"]) for row in read_rows(folder / "ape210k_valid.jsonl.xz")]
    right = [judge.judge("", form.format(gold), gold).details["correct"] for gold in golds for form in CHINESE_FORMS]
    pairs = [(a, b) for a, b in itertools.pairwise(golds) if a != b]
    refused = [judge.judge("", CHINESE_FORMS[0].format(a), b).details["correct"] == 0 for a, b in pairs]
    yield f"| Ape210K golds read back from 5 Chinese answer forms | {sum(right):.0f} of {len(right)} | |"
    yield f"| Ape210K mismatched golds refused | {sum(refused)} of {len(refused)} ({sum(refused) / len(refused):.2%}) | |"


def measure_hostile(timeout: float) -> Iterator[str]:
    """Seconds each hostile expression costs, and whether eight threads at once are served."""
    with MathsJudge(timeout=timeout) as judge:
        judge.judge("", "\\boxed{x+1}", "1+x")
        for name, expression in HOSTILE.items():
            start = time.perf_counter()
            judge.judge("", f"So the answer is \\boxed{{{expression}}}.", "x+3")
            yield f"| {name} | {time.perf_counter() - start:.2f} s | <= {timeout:.0f} s, and the time to end a process |"
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda n: judge.judge("", f"\\boxed{{x+{n}}}", f"{n}+x").details["correct"], range(40)))
        yield f"| 40 symbolic comparisons from 8 threads, after all that | {sum(results):.0f} right | 40 |"


def write(study: Study) -> None:
    """Write maths.md. `data` is the folder that holds the files above."""
    folder, seed, timeout = Path(study.setting("data")), int(study.setting("seed")), float(study.setting("timeout"))
    lines = [f"# {study.title}", "", f"Version {MathsJudge.version}, seed {seed}; {COMMAND}.", ""]
    lines += ["| measured | result | asked |", "|---|---|---|"]
    with MathsJudge(timeout=timeout) as judge:
        lines += [*measure_math(judge, folder, seed), *measure_gsm8k(judge, folder), *measure_ape210k(judge, folder)]
    lines += measure_false_alarms(folder)
    lines += ["", f"Hostile answers, timeout {timeout:.0f} s:", "", "| answer | seconds | asked |", "|---|---|---|"]
    (study.out / "maths.md").write_text("\n".join([*lines, *measure_hostile(timeout)]) + "\n", encoding="utf-8")
