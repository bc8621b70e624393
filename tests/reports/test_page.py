"""The page: complete, self-contained, and clear about what was not measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typing_extensions import override

from report import main
from reports.catalogue import PLOTS
from reports.groups import grouped
from reports.page import report_page
from reports.runs import load_run
from reports.sections.details import alarms_html, doctor_html
from reports.sections.heatmaps import pair_of
from reports.sections.start_end import markdown_table
from tests.reports.made_up import config, heatmap_rows, language_rows, toy_rows, write_run


class Reader(HTMLParser):
    """Collects what a browser would follow, and ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.targets.append(value or "")
            if name == "id":
                self.ids.append(value or "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = language_rows() | {"token_heatmap": heatmap_rows()}
    return write_run(tmp_path_factory.mktemp("runs") / "made_up" / "version_0", rows)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report_page([load_run(folder)])


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    reader = Reader(page)
    assert reader.targets
    assert [target for target in reader.targets if not target.startswith("#")] == []
    assert {target.removeprefix("#") for target in reader.targets} <= set(reader.ids)
    assert not re.search(r"https?://|@import|<script|<link|url\((?!#)", page)


def test_every_figure_has_its_sentence(page: str) -> None:
    for plot in PLOTS:
        if not plot.is_optional:
            assert f'<section id="{plot.name}">' in page
            assert escape(plot.title) in page
            assert escape(plot.meaning) in page
    # The drawing is there once, and a picture a panel shows a part of it.
    assert page.count('<svg class="whole"') == len([plot for plot in PLOTS if not plot.is_optional])
    assert page.count('<use href="#drop-whole"/>') == 3


def test_a_phone_needs_no_sideways_scrolling(page: str) -> None:
    # Every panel is a picture of its own, none has a least width, and the columns give way.
    assert "min-width" not in page
    widths = [float(width) for width in re.findall(r'viewBox="\S+ \S+ (\S+) \S+"', page)]
    assert len(widths) > 20
    assert "minmax(min(100%, 18rem), 1fr)" in page


def test_text_of_the_data_is_text(page: str) -> None:
    assert "Say &lt;script&gt;" in page
    assert "&lt;b&gt;" in page


def test_names_of_sides_and_steps_are_text(tmp_path: Path) -> None:
    row = heatmap_rows()[0]
    hostile = {"<img src=x>": row["chosen"], "rejected": row["rejected"], "prompt": "p", "step": 0}
    folder = write_run(tmp_path / "made_up" / "version_0", {"token_heatmap": [hostile]})
    run = replace(load_run(folder), alarms=[{"step": "<img src=x>", "property": "<img>", "message": "<img>"}])
    page = report_page([run])
    assert "<img" not in page
    # The alarm's step in the headline and among the alarms, and the side.
    assert page.count("&lt;img src=x&gt;") == 3


def test_the_heatmap_marks_where_the_sides_part() -> None:
    assert [side.divergent for side in pair_of(heatmap_rows()[0]).sides] == [1, 1]


def test_what_was_not_measured_names_its_callback(tmp_path: Path) -> None:
    own = config()
    del own["trainer"]["callbacks"]
    page = report_page([load_run(write_run(tmp_path / "bare" / "version_0", {}, own))])
    for name in ("likelihood.LikelihoodMonitor", "softmax_gradient.SoftmaxGradientMonitor", "dispersion.DispersionMonitor"):
        assert f"--trainer.callbacks+=callbacks.diagnostics.{name}" in page
    assert "callbacks.diagnostics.toy_ledger" not in page, "not everybody trains the toy"


def test_a_run_that_lacks_what_another_has_is_named(tmp_path: Path) -> None:
    toy, bare = (
        write_run(tmp_path / "toy" / "version_0", toy_rows()),
        write_run(tmp_path / "bare" / "version_0", {}, config(lr=1.0)),
    )
    page = report_page([load_run(toy), load_run(bare)])
    assert (
        "Not measured by bare. To have it measured: <code>--trainer.callbacks+=callbacks.diagnostics.toy_ledger.ToyLedger" in page
    )
    # Settings that differ stand beside one another.
    assert re.search(r"<th>model.init_args.optimizer.init_args.lr</th><td>1e-05</td><td>1.0</td>", page)


def test_alarms_tell_their_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "made_up" / "version_0", {})
    assert "not switched on" in alarms_html([load_run(folder)])
    judged = {"step": 9, "verdicts": {"dispersion": "not judged: m was not measured", "suppression": "shows from step 120"}}
    (folder / "diagnostics" / "judged.jsonl").write_text(json.dumps(judged) + "\n")
    assert "made_up/version_0: dispersion: not judged: m was not measured.</p>" in alarms_html([load_run(folder)])
    row = {"step": 120, "property": "suppression", "message": "the margin grows only as rejected falls: drop share 1.4"}
    (folder / "diagnostics" / "alarms.jsonl").write_text(json.dumps(row) + "\n")
    assert "step 120: notice, suppression.</b> the margin grows only as rejected falls: drop share 1.4" in alarms_html(
        [load_run(folder)]
    )


def test_what_the_data_doctor_found_stands_in_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "made_up" / "version_0", {})
    assert "callbacks.output.data_doctor.DataDoctor" in doctor_html([load_run(folder)])
    found = {"rows": {"empty prompt": 3}, "pairs": {"longer_wins": 0.68}, "warnings": ["the longer one wins < 68%"]}
    (folder / "data_doctor.json").write_text(json.dumps(found))
    page = doctor_html([load_run(folder)])
    assert "<th>rows, empty prompt</th><td>3</td>" in page
    assert "<th>pairs, longer wins</th><td>0.68</td>" in page
    assert "the longer one wins &lt; 68%" in page


def test_the_table_tells_first_and_last(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / "made_up" / f"version_{seed}", language_rows(offset), config(seed)))
        for seed, offset in enumerate((0.0, 2.0))
    ]
    lines = markdown_table(grouped(runs)).splitlines()
    assert lines[0] == "| first -> last reading | made_up (2 runs) |"
    assert "| log-likelihood, rejected (nats) | -59.0 -> -61.0 [-62.0, -60.0] |" in lines
    assert "| loss, training (nats) | 0.750 -> 0.500 [0.500, 0.500] |" in lines


def test_the_command_writes_page_pictures_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy, out = write_run(tmp_path / "toy" / "version_0", toy_rows()), tmp_path / "out"
    main([str(toy), "--output", str(out / "r.html"), "--png", str(out / "png"), "--table", str(out / "t.md")])
    written = capsys.readouterr().out.splitlines()
    assert written[0] == str(out / "r.html")
    assert {path.stem for path in (out / "png").iterdir()} == {"objective", "figure_2", "figure_3", "ledger"}
    assert all(Path(path).stat().st_size > 0 for path in written)


def test_the_command_leaves_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected the folder of a run"):
        main([str(tmp_path), "--output", str(tmp_path / "r.html")])
