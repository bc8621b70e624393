"""A judge that compares a response with the gold answer by its words."""

from __future__ import annotations

import unicodedata

from judges.base import Judge, Verdict


class AnswerJudge(Judge):
    """1 if the response has the words of the gold answer one after another, else 0; case, width and punctuation do not count.

    `details`: `exact`, whether it has no other words.

    Args:
        exact: whether only a response without other words is right.
    """

    name = "answer"
    version = "1"
    scale = (0.0, 1.0)

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        if exact:
            self.name = "answer:exact"

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one response.

        Raises:
            ValueError: without a gold answer.
        """
        gold, said = _words(answer or ""), _words(response)
        if not gold:
            raise ValueError(
                f"expected a gold answer to compare with, got none for the prompt {prompt[:80]!r}. Give every row one "
                "(column `answer`), name a judge that needs none, or none (judge: null)."
            )
        starts = [i for i in range(len(said) - len(gold) + 1) if said[i : i + len(gold)] == gold]
        is_exact = said == gold
        right = is_exact or (bool(starts) and not self.exact)
        reason = f"{'is' if is_exact else 'has' if starts else 'does not have'} the gold answer {str(answer).strip()[:80]!r}"
        return Verdict(float(right), reason, details={"exact": float(is_exact)})


def _words(text: str) -> list[str]:
    """Runs of letters and digits, in one case and one width; a decimal point or a sign within a number belongs to it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = [
        character if character.isalnum() or _is_of_number(folded, position) else " " for position, character in enumerate(folded)
    ]
    return "".join(kept).split()


def _is_of_number(text: str, position: int) -> bool:
    """Whether a point is between digits, or a minus is before a digit and not after a word."""
    before, after = text[position - 1 : position], text[position + 1 : position + 2]
    if text[position] == ".":
        return before.isdigit() and after.isdigit()
    return text[position] == "-" and after.isdigit() and not before.isalnum()
