"""Slogans for descriptions of companies (Jin et al. 2021, "Toward Improving Coherence and Diversity of Slogan Generation")."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from datamodules.tasks.base import TaskItem
from datamodules.tasks.rows import Row, RowTask, words
from judges.slogan import SloganJudge

_COMPANY = "<company>"


@dataclass(frozen=True, kw_only=True)
class SloganTask(RowTask):
    """Rows with `desc` and `output`; where the description masks the company's name, `alias` or `company` fills it in.

    The gold answer is the real slogan: a content judge may compare with it, the word count does not. The task's own judge counts
    words alone; for the content too, name `judges.slogan.SloganJudge` with a judge of the content.
    """

    name = "slogan"

    template: str = "Write an advertising slogan of 2-10 words for this company: {description}\nSlogan: "
    """The prompt, which states the word limits; `{description}` stands where the description goes."""

    def __post_init__(self) -> None:
        if "{description}" not in self.template:
            raise ValueError(f"expected a template with {{description}} in it, got {self.template!r}.")

    @override
    def parse(self, row: Row) -> TaskItem:
        description, slogan = (_named(words(row, column), row) for column in ("desc", "output"))
        return TaskItem(self.template.replace("{description}", description), slogan, slogan, is_chat=self.is_chat)

    @override
    def own_judge(self) -> SloganJudge:
        return SloganJudge()


def _named(text: str, row: Row) -> str:
    name = row.get("alias") or row.get("company")
    return text.replace(_COMPANY, name) if isinstance(name, str) else text
