"""`python diagnose.py`: what it says of checkpoints, adapters and folders of them, and how it follows a trainer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import diagnose
from diagnosis.watch import Watch
from lightning_modules.models.specs import RandomPolicy
from reports.runs import Run
from run_folder.rows import read_rows, tracks_of
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUICK = ["--trainer.accelerator", "cpu", "--data.num_probe_prompts", "2", "--data.max_length", "60"]


def model_at(folder: Path, seed: int) -> Path:
    RandomPolicy(**(tiny.POLICY["init_args"] | {"seed": seed})).load().save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with pairs and a base that has the tokenizer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["diagnose.py"])
    tiny.write_tokenizer(model_at(tmp_path / "base", 3))
    tiny.write_pairs(tmp_path / "pairs.jsonl", 24)
    return tmp_path


def diagnosed(here: Path, *args: str) -> Path:
    """The folder that a diagnosis wrote."""
    diagnose.main([*args, "--pairs", "pairs.jsonl", *QUICK])
    return max((here / "runs" / "diagnose").iterdir(), key=lambda folder: folder.stat().st_mtime)


def by_transformers(policy: Path, base: Path, pairs: Path) -> float:
    """Mean change of the chosen answers' log-likelihood (nats), by transformers and the chat template alone."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (policy, base)]
    changes: list[float] = []
    for row in map(json.loads, pairs.read_text().splitlines()):
        asked = [{"role": "user", "content": row["prompt"]}]
        answered = [*asked, {"role": "assistant", "content": row["chosen"]}]
        ids = tokenizer.apply_chat_template(answered, return_dict=False)
        begin = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False))
        with torch.no_grad():
            logps = [model(torch.tensor([ids])).logits.log_softmax(-1)[0, :-1] for model in models]
        sums = [of.gather(1, torch.tensor(ids[1:])[:, None])[begin - 1 :].sum().item() for of in logps]
        changes.append(sums[0] - sums[1])
    return sum(changes) / len(changes)


def test_a_folder_of_checkpoints_to_a_verdict(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (10, 20):
        tiny.write_tokenizer(model_at(here / "run" / f"checkpoint-{step}", step))
    model_at(here / "run", 30)
    logged = [{"step": 5, "loss": 0.69, "rewards/margins": 0.1}, {"step": 5, "eval_loss": 0.7}, {"step": 10, "loss": 0.6}]
    (here / "run" / "trainer_state.json").write_text(json.dumps({"global_step": 21, "log_history": logged}))
    folder = diagnosed(here, "run", "--reference", "base", "--output", "out/page.html")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 10
    assert "3 checkpoints, step 10 to 21, beside base, on 24 pairs" in lines[0]
    last = read_rows(folder, "checkpoints")[-1]
    assert f"Chosen fell: {last['pairs/chosen/change']:+.2f}" in lines[1] or "did not move" in lines[1] or "rose" in lines[1]
    assert last["pairs/chosen/change"] == pytest.approx(
        by_transformers(here / "run", here / "base", here / "pairs.jsonl"), abs=1e-3
    )
    assert "not judged" in " ".join(lines)
    assert [step for step, _ in tracks_of(folder)["val/loss"]] == [10, 20, 21]
    assert tracks_of(folder)["trainer/loss"] == [(5, 0.69), (10, 0.6)], "as its own trainer logged it"
    assert "<html" in (here / "out" / "page.html").read_text()


def test_an_adapter_counts_from_its_base(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("diagnosis.checkpoint_verdict.report_page", lambda _: "page")
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(here / "base"), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(str(here / "lora" / "checkpoint-5"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(str(here / "lora" / "checkpoint-10"))
    folder = diagnosed(here, "lora", "--limit", "10")
    rows = {row["step"]: row for row in read_rows(folder, "checkpoints")}
    # B is 0 at the start: the adapter is its base, whose log-probs the reference has.
    assert rows[5]["pairs/chosen/change"] == pytest.approx(0, abs=1e-4)
    assert abs(rows[10]["pairs/chosen/change"]) > 1e-3
    assert rows[10]["pairs/number"] == 10
    assert f"beside {here / 'base'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere", "--reference", "base"], "there is none"),
        (["base"], "expected --reference"),
        (["base", "--reference", "base", "--limit", "0"], "--limit >= 1"),
        (["half", "--reference", "base"], "model.safetensors is not there"),
    ],
)
def test_mistakes_end_in_a_sentence(here: Path, args: list[str], said: str) -> None:
    (here / "half").mkdir()
    (here / "half" / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match=re.escape(said)) as left:
        diagnose.main([*args, "--pairs", "pairs.jsonl", *QUICK])
    assert len(str(left.value).splitlines()) <= 3
    assert not (here / "runs").exists()


def test_a_checkpoint_counts_when_it_is_whole_and_at_rest(tmp_path: Path) -> None:
    watch = Watch([str(tmp_path / "run")])
    assert watch.look() == []
    checkpoint = model_at(tmp_path / "run" / "checkpoint-1", 1)
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[:-5])
    assert [watch.look(), watch.look()] == [[], []], "half written, though at rest"
    (checkpoint / "model.safetensors").write_bytes(weights)
    assert watch.look() == [], "it has just changed"
    (checkpoint / "trainer_state.json").write_text("{}")
    assert watch.look() == [], "its trainer is still writing"
    assert watch.look() == [str(checkpoint)]
    assert watch.look() == [], "once"


def test_it_follows_a_trainer(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Watch.__init__, "__kwdefaults__", (Watch.__init__.__kwdefaults__ or {}) | {"seconds": 0.05})
    # Drawn once for each checkpoint; another test looks at it.
    pages: list[list[Run]] = []

    def page(runs: list[Run]) -> str:
        pages.append(runs)
        return "page"

    monkeypatch.setattr("diagnosis.checkpoint_verdict.report_page", page)
    started = threading.Event()

    def train() -> None:
        model_at(here / "run" / "checkpoint-10", 10)
        while not list(here.glob("runs/diagnose/*/diagnostics/checkpoints.jsonl")) and not started.is_set():
            time.sleep(0.05)
        model_at(here / "run" / "checkpoint-20", 20)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        folder = diagnosed(here, "run", "--reference", "base", "--follow", "--until-idle", "3")
    finally:
        started.set()
        trainer.join()
    assert [row["step"] for row in read_rows(folder, "checkpoints")] == [10, 20]
    assert [len(run.tracks["val/loss"]) for [run] in pages] == [1, 2, 2]
    # What is read while it is written is what is read when it stands.
    again = diagnosed(here, "run", "--reference", "base")
    assert read_rows(folder, "checkpoints") == read_rows(again, "checkpoints")
    assert "2 checkpoints, step 10 to 20" in capsys.readouterr().out


def started(program: str) -> subprocess.Popen[str]:
    """A Python process in the checkout whose input is open."""
    pipe, root = subprocess.PIPE, Path(diagnose.__file__).parent
    return subprocess.Popen([sys.executable, "-c", program], cwd=root, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_closed_input_ends_it_and_a_waiting_one_does_not_abort_it() -> None:
    program = "import time\nfrom diagnosis.watch import Watch, is_input_closed as closed\n"
    ends = "try: Watch([], seconds=0.01, is_over=closed).wait_for_first()\nexcept ValueError as error: print(error)"
    with started(program + ends) as process:
        assert "before its trainer ended" in process.communicate()[0]
    with started(f"{program}closed(); time.sleep(0.2); raise SystemExit(3)") as process:
        # Its input stays open.
        assert process.wait() == 3
        assert process.stdin is not None
        process.stdin.close()
