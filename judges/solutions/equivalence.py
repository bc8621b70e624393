"""Decides whether two final answers are equal: by spelling, then by exact value, then by computer algebra."""

from __future__ import annotations

import re

from judges.solutions.answers import as_number, canonical
from judges.solutions.comparer import SymbolicComparer

_IN_BASE = re.compile(r"(?P<digits>-?[0-9a-f]+)_\{?(?P<base>\d+)\}?")


def same_answer(gold: str, candidate: str, comparer: SymbolicComparer) -> bool | None:
    """Whether `candidate` answers as `gold` does; None if that could not be decided within the comparer's limits.

    Numbers, by far the most frequent case, never leave this process. Two different numbers are different without asking further.
    """
    spellings = canonical(gold), canonical(candidate)
    if spellings[0] == spellings[1]:
        return True
    bases = [_IN_BASE.fullmatch(spelling) for spelling in spellings]
    if bases[0] and bases[1]:
        return bases[0].groups() == bases[1].groups()  # math-verify takes the base for a decoration
    gold_number, candidate_number = as_number(gold), as_number(candidate)
    if gold_number is not None and candidate_number is not None:
        return gold_number.equals(candidate_number)
    return comparer.is_same(gold, candidate)
