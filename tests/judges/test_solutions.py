from fractions import Fraction

import pytest

from judges.solutions.answers import as_number, find_answer, gold_answer
from judges.solutions.arithmetic import check_equations
from judges.solutions.process import has_process, measure_process, repeated_share
from judges.solutions.rationals import evaluate, parse_rational


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1,234.5", Fraction(-2469, 2)),
        ("3/4", Fraction(3, 4)),
        ("(11/20)", Fraction(11, 20)),
        ("1(3/4)", Fraction(7, 4)),
        ("2 1/2", Fraction(5, 2)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac34", Fraction(3, 4)),
        ("25%", Fraction(25)),
        (".5", Fraction(1, 2)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    number = parse_rational(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize("text", ["", "1e999999999", "2x", "12,34", "3/0", "1" * 60, "one", "3 4"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert parse_rational(text) is None


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("0.25", "25%", True),
        ("25", "25%", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.3333", False),
        ("10000001", "10000002", False),
    ],
)
def test_equal_numbers(a: str, b: str, same: bool) -> None:
    left, right = parse_rational(a), parse_rational(b)
    assert left is not None
    assert right is not None
    assert left.equals(right) is same


@pytest.mark.parametrize(
    ("source", "value"), [("16 - 3 - 4", 9), ("20% * 50", 10), ("2**10", 1024), ("1,000*(2+1)", 3000), ("-3 + 08", 5)]
)
def test_arithmetic_is_exact(source: str, value: int) -> None:
    assert evaluate(source) == value


@pytest.mark.parametrize(
    "source",
    [
        "9**9**9",
        "2**1000000",
        "1/0",
        "__import__('os')",
        "(" * 150 + "1" + ")" * 150 + "+" * 60,
        "1, 2",
        "True + 1",
        "1" * 50 + "+1",
    ],
)
def test_arithmetic_refuses_what_is_big_or_no_arithmetic(source: str) -> None:
    assert evaluate(source) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("答案是42。", "42"),
        ("先求和，所以【24】", "24"),
        ("【解析】先求和。【答案】3/4", "3/4"),
        ("135÷3=45\n答：每班45本。", "每班45本"),
        ("最终答案：x=5", "x=5"),
        ("She makes 9 * 2 = $<<9*2=18>>18.\n#### 1,818", "1,818"),
        (r"We get \boxed{2}, hence \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("The answer is 7. Check: 3 + 4 = 7, and 8 is not 7. #### 9", "9"),
        ("So the answer is $x+1$.", "x+1"),
        ("The final answer is: **12** apples.", "12 apples"),
        ("There are 2 days.\nHe has 3 apples.", "3"),
        ("A: 18", "18"),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str) -> None:
    found = find_answer(text)
    assert found is not None
    assert found.text == answer


def test_no_answer_is_none() -> None:
    assert find_answer("I do not know.") is None


def test_a_gold_may_be_bare_or_a_solution() -> None:
    assert gold_answer("(1, 2)") == "(1, 2)"
    assert gold_answer("3 + 4 = 7\n#### 7") == "7"
    assert gold_answer("First 3.\nThen 4.") == "4"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$18", 18),
        ("18 dollars", 18),
        ("每班45本", 45),
        ("x = 5", 5),
        (r"45^\circ", None),
        ("2x", None),
        ("5 - x", None),
        ("3 hours and 20 minutes", None),
        (r"3\pi", None),
    ],
)
def test_units_are_no_part_of_a_number_but_symbols_are(text: str, value: int | None) -> None:
    number = as_number(text)
    assert (number.value if number else None) == value


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18 a day.", [True]),
        ("135÷3=45（本），3×4=11。", [True, False]),
        (r"Hence $3\cdot 4=12$; also \frac{1}{2} + 1 = 1.5.", [True, True]),
        ("100/3 = 33.33, 2/3 = 0.5", [True, False]),
        ("3 * 4 = 12 = 6 + 7", [True, False]),
        ("20 / 50 = 40%", [True]),
        ("x + 3 + 4 = 19, 2x = 4, f(3) + 1 = 9, 5 + 3x = 8", []),
        ("(3+13,17) = (16,17) and 8 / 2/3 = 12", []),
        ("7 * 3 = 1 (mod 20)", []),
        ("2 + 3 = 5!", []),
    ],
)
def test_only_plain_arithmetic_is_checked(text: str, results: list[bool]) -> None:
    assert list(check_equations(text)) == results


def test_process_and_repetition() -> None:
    assert not has_process("The answer is")
    assert has_process("9 * 2 = 18 eggs a day")
    assert has_process("先算出每个班的人数然后再用总数去除以班级的数目就能得到结果了")
    sentence = "Then we add the numbers again. "
    assert repeated_share(sentence * 4) == pytest.approx(0.75)
    assert repeated_share(sentence * 3) == 0.0


def test_coverage_counts_the_intermediate_results_of_the_reference() -> None:
    reference = "16 - 3 = 13, 13 - 4 = 9, 9 * 2 = 18"
    signals = measure_process("I find 13 eggs.", "She has 16 eggs, eats 3 and bakes 4, sells at 2.", reference, "18")
    assert signals.coverage == pytest.approx(1 / 2)  # of {13, 9}; 18 is the answer
    assert measure_process("13", "", None, "18").coverage is None
