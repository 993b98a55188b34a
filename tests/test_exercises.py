"""The exercises and the engine behind them.

The first part finds all exercises by itself. A new chapter needs its `chNN_checks.py`, notebooks
that call `check`, and a `tests/wrong_answers_chNN.py` beside this file.
"""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from IPython.core.compilerop import CachingCompiler

from companion import exercises
from companion.exercises import all_exercises, check, exercises_of, hint, judge
from companion.notebooks import ROOT, all_notebooks

EXERCISES = all_exercises()
SOLUTIONS = [path for path in all_notebooks() if path.stem == "exercise-solutions"]
STUBS = [path for path in all_notebooks() if path.stem in ("exercises", "bug-zoo")]


def load(path):
    """A module from a file that is not on the path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRONG_ANSWERS = [
    case
    for path in sorted(Path(__file__).parent.glob("wrong_answers_*.py"))
    for case in load(path).WRONG_ANSWERS
]


def cells(path, kind):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


@pytest.fixture(scope="module")
def answers():
    """{notebook: [(number, answer), ...]} as handed to `check` where the notebooks are run."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROFILE", "pocket")
        patch.setenv("MPLBACKEND", "agg")
        for path in [*SOLUTIONS, *STUBS]:
            handed_over = found[path] = []
            patch.setattr(exercises, "check", lambda *call, to=handed_over: to.append(call))
            patch.chdir(path.parent)
            namespace = {"__name__": "__main__"}
            for source in cells(path, "code"):
                exec(compile(source, path.name, "exec"), namespace)
    return found


def answers_to(number, answers, paths):
    return [answer for path in paths for n, answer in answers[path] if n == number]


# Every exercise


@pytest.mark.parametrize("number", EXERCISES)
def test_the_worked_solution_is_right(number, answers):
    solutions = answers_to(number, answers, SOLUTIONS)
    assert solutions
    assert [str(judge(number, answer)) for answer in solutions] == [f"{number}: right."]


@pytest.mark.parametrize("number", EXERCISES)
def test_the_stub_is_not_done_and_the_specimen_not_right(number, answers):
    (stub,) = answers_to(number, answers, STUBS)
    assert judge(number, stub).status == ("not yet" if "bug" in number else "not done yet")


@pytest.mark.parametrize(
    "number, rule, answer",
    WRONG_ANSWERS,
    ids=[f"{number}-{getattr(answer, '__name__', rule)}" for number, rule, answer in WRONG_ANSWERS],
)
def test_a_wrong_answer_gets_the_message_meant_for_it(number, rule, answer):
    verdict = judge(number, answer)
    assert (verdict.status, verdict.rule) == ("not yet", rule)
    assert verdict.message.startswith(getattr(EXERCISES[number], rule).message)


@pytest.mark.parametrize("number", EXERCISES)
def test_an_exercise_has_two_wrong_answers(number):
    assert sum(number == wrong for wrong, _, _ in WRONG_ANSWERS) >= 2


def test_every_rule_refuses_some_wrong_answer():
    """A rule that never refuses anything would be no rule. Shared ones count once."""
    needed = {rule.__func__ for exercise in EXERCISES.values() for rule in exercise.rules()}
    used = {getattr(EXERCISES[number], rule).__func__ for number, rule, _ in WRONG_ANSWERS}
    assert needed - used == set()
    assert len(needed) > len(EXERCISES)  # control: rules were found


@pytest.mark.parametrize("number", EXERCISES)
def test_an_exercise_says_what_it_is(number):
    exercise = EXERCISES[number]
    assert exercise.title and exercise.answer
    assert len(exercise.hints) >= 2
    assert exercise.rules()
    messages = [rule.message for rule in exercise.rules()]
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("number", EXERCISES)
def test_notebooks_give_an_exercise_the_title_of_its_checks(number):
    heading = rf"^#+ (Exercise )?{re.escape(number)}: {re.escape(EXERCISES[number].title)}$"
    for paths in (STUBS, SOLUTIONS):
        texts = [text for path in paths for text in cells(path, "markdown")]
        assert sum(bool(re.search(heading, text, flags=re.M)) for text in texts) == 1


@pytest.mark.parametrize("path", STUBS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_each_check_is_followed_by_a_hint_that_waits(path):
    sources = cells(path, "code")
    checks = [i for i, source in enumerate(sources) if source.startswith("check(")]
    assert checks
    for i in checks:
        number = re.match(r'check\("(.+?)"', sources[i])[1]
        assert sources[i + 1] == f'# hint("{number}")'


def test_no_number_is_given_twice():
    for path in ROOT.glob("*/*/*_checks.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        numbers = [
            node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "number"
        ]
        unit = path.stem.split("_")[-2].removeprefix("ch").lstrip("0").upper()
        assert sorted(numbers) == sorted(exercises_of(unit))
        assert all(number.startswith(f"{unit}.") for number in numbers)


def test_the_zoo_shows_the_code_of_its_file(answers):
    """Under the same name; that the code is the same too, test_repository.py sees to."""
    for path in STUBS:
        for number, specimen in answers[path]:
            if "bug" in number:
                (zoo,) = path.parent.glob("*_bug_zoo.py")
                assert re.search(
                    rf"^(def|class) {specimen.__name__}\(", zoo.read_text(encoding="utf-8"), re.M
                )


# The engine, on a chapter of its own


CHAPTER = '''
"""Checks of a chapter that the book does not have."""

import torch

from ch02_checks import BugTargets  # an exercise of another chapter does not become this one's
from companion.exercises import Class, Exercise, Function, must


class Double(Exercise):
    number = "9.1"
    title = "twice as much"
    answer = Function("number", returns=int)
    hints = ("Think of a sum.", "number + ...")

    @must("Twice nothing must be nothing.", on=[0])
    def nothing_stays_nothing(self, double, number):
        return double(number) == 0

    @must("The result must be twice the number.", on=[1, 5, -3])
    def result_is_twice_the_number(self, double, number):
        return double(number) == 2 * number


class Reverse(Exercise):
    number = "9.2"
    answer = Function("items, times", returns=list[int])

    @must("The items must come back in the opposite order.", on=[([1, 2, 3], 1), ([4, 5], 1)])
    def order_is_turned_round(self, reverse, items, times):
        return reverse(items, times) == items[::-1]


class Pair(Exercise):
    number = "9.3"
    answer = tuple[int, str]

    @must("The number must be the length of the word.")
    def number_is_the_length(self, pair):
        return pair[0] == len(pair[1])


class Stack(Exercise):
    number = "9.4"
    answer = Class(list, "items")

    @must("The top must be the last item.", on=[([1, 2],)])
    def top_is_last(self, stack_class, items):
        return stack_class(items).top() == items[-1]


class Dice(Exercise):
    number = "9.5"
    answer = Function("sides", returns=int)

    @must("A throw must be one of the sides.", on=[6])
    def throw_is_a_side(self, throw, sides):
        return 1 <= throw(sides) <= sides


class Flip(Exercise):
    number = "9.6"
    answer = Function("items, times", returns=torch.Tensor)
    ITEMS = torch.tensor([[0.1, 1 / 3], [torch.inf, torch.nan]])

    @must("The rows must come back in the opposite order.", on=[(ITEMS, 1)])
    def rows_are_turned_round(self, flip, items, times):
        return torch.equal(flip(items, times).nan_to_num(), items.flip(0).nan_to_num())


class Thirds(Exercise):
    number = "9.7"
    answer = Function("number", returns=list)

    @must("There must be a third for each number.", on=[3])
    def there_are_thirds(self, thirds, number):
        return len(thirds(number)) == number
'''


@pytest.fixture(autouse=True)
def chapter_nine(tmp_path, monkeypatch):
    """One file is all it takes to add a chapter."""
    (tmp_path / "ch09_checks.py").write_text(CHAPTER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(exercises, "_hints_seen", {})
    yield
    sys.modules.pop("ch09_checks", None)


def printed_by(capsys, number, answer):
    assert check(number, answer) is None  # a notebook would show anything else a second time
    return capsys.readouterr().out


def test_one_file_adds_a_chapter(capsys):
    assert printed_by(capsys, "9.1", lambda number: 2 * number) == "9.1: right.\n"


def test_an_appendix_has_a_file_as_well(tmp_path, capsys):
    text = CHAPTER.replace('"9.', '"C.')
    (tmp_path / "appendix_c_checks.py").write_text(text, encoding="utf-8")
    assert printed_by(capsys, "C.3", (3, "cat")) == "C.3: right.\n"


def test_a_wrong_answer_gets_the_rule_the_input_and_its_own_result(capsys):
    assert printed_by(capsys, "9.1", lambda number: number**2) == (
        "9.1: not yet. The result must be twice the number.\n"
        "    Seen with number = 1\n"
        "    Your code returned 1\n"
    )


def test_a_tensor_is_shown_with_four_decimals(capsys):
    assert "items = [[0.1, 0.3333], [inf, nan]], times = 1\n" in printed_by(
        capsys, "9.6", lambda items, times: items
    )


@pytest.mark.parametrize("pair", [(1 / 3, "1/3"), (torch.tensor(1 / 3), "1/3")])
def test_numbers_within_other_values_are_rounded_too(pair, capsys):
    shown = "Your code returned [(0.3333, '1/3'), {'third': 0.3333}]\n"
    assert shown in printed_by(capsys, "9.7", lambda number: [pair, {"third": pair[0]}])


def test_a_result_of_several_lines_is_shown_in_one(capsys):
    class Lines(list):
        def __repr__(self):
            return "Lines (\n    one: 1\n)"

    printed = printed_by(capsys, "9.7", lambda number: Lines())
    assert printed.endswith("Your code returned Lines ( one: 1 )\n")


def test_a_long_input_is_cut():
    verdict = judge("9.2", lambda items, times: list(range(1000)))
    assert max(map(len, str(verdict).splitlines())) < 300


# Bad input


def test_an_unknown_number_lists_those_of_its_chapter():
    with pytest.raises(ValueError, match=r"'9\.99'.*There are: 9\.1, .*, 9\.7\.$"):
        check("9.99", 1)
    with pytest.raises(ValueError, match=r"'9\.99'"):
        hint("9.99")


@pytest.mark.parametrize("number", ["8.1", "", "x", "2", "ch02", "../2.1"])
def test_an_unknown_chapter_lists_all_exercises(number):
    with pytest.raises(ValueError, match=re.escape(repr(number))) as error:
        check(number, 1)
    assert "2.1" in str(error.value)


@pytest.mark.parametrize("number", [2.1, None, len])
def test_a_number_that_is_no_str_is_refused(number):
    for call in (lambda: check(number, 1), lambda: hint(number)):
        with pytest.raises(
            TypeError, match=f'as a str, for instance "2.1"; this is .*{type(number).__name__}'
        ):
            call()


@pytest.mark.parametrize(
    "number, answer, expected, came",
    [
        ("9.1", 7, "a function of (number)", "an int"),
        ("9.1", int, "a function of (number)", "the class int"),
        ("9.1", lambda a, b: a, "take (number)", "(a, b)"),
        ("9.1", lambda number: "7", "an int", "a str"),
        ("9.1", lambda number: 2.0 * number, "an int", "a float"),
        ("9.2", lambda items, times: [*map(str, items)], "a list of int", "item 0 is a str"),
        ("9.3", 7, "a tuple (int, str)", "an int"),
        ("9.3", lambda: (3, "cat"), "a tuple (int, str)", "a function. Call it"),
        ("9.3", (3, "cat", 3), "a tuple (int, str)", "a tuple of length 3"),
        ("9.3", (3, 3), "a tuple (int, str)", "item 1 is an int, not a str"),
        ("9.4", [1, 2], "a class that extends list", "a list"),
        ("9.4", torch.nn.Linear, "a class that extends list", "Linear does not"),
    ],
)
def test_a_wrong_type_is_named_beside_the_expected_one(number, answer, expected, came):
    verdict = judge(number, answer)
    assert verdict.status == "wrong type"
    assert expected in verdict.message
    assert came in verdict.message


def test_a_list_serves_as_a_tuple_and_an_integer_of_numpy_as_an_int():
    assert judge("9.3", [np.int64(3), "cat"]).status == "right"


def helper_of_the_learner(number):
    return number / 0


def raises(number):
    return helper_of_the_learner(number)


class RaisesInAMethod(list):
    def __init__(self, items):
        super().__init__(items)

    def top(self):
        return self.bottom


@pytest.mark.parametrize(
    "number, answer, error, first, seen_with",
    [
        ("9.1", raises, "ZeroDivisionError", "in raises", "number = 0"),
        ("9.4", RaisesInAMethod, "AttributeError", "in top", "items = [1, 2]"),
    ],
)
def test_an_answer_that_raises_shows_its_own_traceback(
    number, answer, error, first, seen_with, capsys
):
    printed = printed_by(capsys, number, answer)
    assert printed.startswith(
        f"{number}: not yet. Your code raised {error}.\n    Seen with {seen_with}"
    )
    lines = printed.split("Traceback (most recent call last):\n")[1].splitlines()
    assert first in lines[0]  # the learner's frame comes first
    assert lines[-1].startswith(error)
    assert "_checks.py" not in printed
    assert str(Path(exercises.__file__)) not in printed


def test_the_learners_helpers_stay_in_the_traceback(capsys):
    assert "return number / 0" in printed_by(capsys, "9.1", raises)


def test_a_result_that_cannot_be_looked_at_is_no_crash():
    class Stack(list):
        def __init__(self, items):
            super().__init__(items)

    verdict = judge("9.4", Stack)
    assert verdict.status == "error"
    assert "could not be looked at: AttributeError" in verdict.message
    assert "Seen with items" in verdict.message
    assert "Traceback" not in verdict.message


def test_a_base_class_raising_not_implemented_is_no_stub():
    def deeper(number):
        return torch.utils.data.Dataset()[number]

    assert judge("9.1", deeper).status == "error"


# Stubs


def with_dots(number): ...


def with_docstring(number):
    """Twice the number."""


def with_pass(number):
    pass


def with_none(number):
    return None


def with_not_implemented(number):
    raise NotImplementedError


def with_return_forgotten(number):
    number *= 2


class WithAnEmptyMethod(list):
    def __init__(self, items):
        super().__init__(items)

    def top(self):
        """The last item."""


class WithNothing(list):
    pass


@pytest.mark.parametrize(
    "number, stub, says",
    [
        ("9.1", None, ""),
        ("9.1", ..., ""),
        ("9.3", (3, ...), ""),
        ("9.1", with_dots, "with_dots() is still empty"),
        ("9.1", with_docstring, "with_docstring() is still empty"),
        ("9.1", with_pass, "with_pass() is still empty"),
        ("9.1", with_none, "with_none() is still empty"),
        ("9.1", with_not_implemented, "NotImplementedError"),
        ("9.1", with_return_forgotten, "returned None"),
        ("9.4", WithAnEmptyMethod, "top() is still empty"),
        ("9.4", WithNothing, "WithNothing has no methods"),
    ],
)
def test_a_stub_is_not_done_rather_than_wrong(number, stub, says, capsys):
    printed = printed_by(capsys, number, stub)
    assert printed.startswith(f"{number}: not done yet.")
    assert says in printed


@pytest.mark.parametrize("constant", ["x", 0, False, 2.5])
def test_a_function_that_returns_a_constant_is_no_stub(constant):
    namespace = {}
    exec(f"def constant(number):\n    return {constant!r}", namespace)
    assert judge("9.1", namespace["constant"]).status != "not done yet"


# A check leaves no trace


def test_an_answer_that_changes_its_input_spoils_no_later_check():
    def drops_an_item(items, times):
        items.pop()
        return items

    def knows_the_inputs(items, times):
        return {(1, 2, 3): [3, 2, 1], (4, 5): [5, 4]}[tuple(items)]

    assert judge("9.2", drops_an_item).status == "not yet"
    assert judge("9.2", knows_the_inputs).status == "right"


def test_random_numbers_go_on_as_if_nothing_had_been_checked():
    drawn = []

    def throw(sides):
        drawn.append(int(torch.randint(1, 10**6, ())))
        return 1

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    judge("9.5", throw)
    judge("9.5", throw)
    assert torch.equal(torch.rand(3), expected)
    judge("9.5", throw)
    assert drawn[0] == drawn[1] == drawn[2]  # each check draws the same, wherever it starts from
    assert not torch.equal(torch.rand(3), expected)  # control


# Hints


def test_hints_come_one_by_one_and_end_at_the_solution(capsys):
    printed = []
    for _ in range(4):
        hint("9.1")
        printed.append(capsys.readouterr().out.splitlines())
    first, second, place, place_again = printed
    assert first == ["9.1, hint 1 of 2: Think of a sum."]
    assert second == [*first, "9.1, hint 2 of 2: number + ..."]
    assert place[:2] == second
    assert "solution" in place[2] and "exercise-solutions.ipynb" in place[2]
    assert place_again == place


def test_hints_of_one_exercise_do_not_use_up_anothers(capsys):
    hint("9.1")
    hint("2.1")
    assert "2.1, hint 1 of" in capsys.readouterr().out


# In a kernel


def test_a_notebook_names_the_cell_and_no_file(monkeypatch):
    """IPython knows a cell's number by the name under which it compiled it."""
    compiler = CachingCompiler()
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(compile=compiler))
    source = "def raises_in_a_cell(number):\n    return number / 0\n"
    namespace = {"__name__": "__main__"}
    exec(compile(source, compiler.cache(source, number=7), "exec"), namespace)
    message = judge("9.1", namespace["raises_in_a_cell"]).message
    assert '  File "Cell In[7]", line 2, in raises_in_a_cell\n    return number / 0\n' in message
