"""Exercises that check themselves: `check("2.1", answer)` and `hint("2.1")`.

A chapter's exercises stand in one file, `chNN_checks.py`, beside its notebooks (for an appendix,
`appendix_a_checks.py`). Each is a class that reads like a specification; nothing else has to be
changed to add one:

    class CountTheBlanks(Exercise):
        number = "2.9"
        title = "Counting blanks"
        answer = Function("text", returns=int)
        hints = ("A str has a method for it.", "It is called `count`.")

        @must("A text without a blank has none of them.", on=["", "word"])
        def no_blank_counts_as_zero(self, count, text):
            return count(text) == 0

`answer` is what the learner hands over: a `Function`, a `Class`, or a type, such as `int`,
`list[int]` or `tuple[int, str]`, for a value. The rules are tried in order, each on its cases,
until one does not hold. `tests/test_exercises.py` finds the new exercise by itself, and asks for a
stub, a solution and two wrong answers.
"""

import copy
import dis
import importlib
import importlib.util
import inspect
import numbers
import sys
import traceback
import types
from typing import NamedTuple, get_args, get_origin

UNITS = (*"123456789", *"ABCDE")  # chapters and appendices: what stands before a number's dot
LONGEST_SHOWN = 200  # characters of an input or a result, in a message

_hints_seen = {}  # {number: how many}, as long as this Python runs


# What a chapter's file says


class Exercise:
    """Base of all exercises.

    Attributes:
        number: "2.1"; what stands before the dot is the chapter.
        title: a few words.
        answer: the kind of answer: a `Function`, a `Class` or a type.
        hints: from a nudge to nearly the solution.
        solution: where a learner finds the worked solution.

    Methods marked with `must` are the rules; a base class may hold rules that several share.
    """

    number = title = answer = None
    hints = ()
    solution = "exercise-solutions.ipynb, beside this notebook"

    def rules(self):
        """Methods marked with `must`, those of a base class first, each in its written order."""
        names = {name: None for base in reversed(type(self).__mro__) for name in vars(base)}
        found = [getattr(self, name) for name in names]
        return [rule for rule in found if hasattr(rule, "message")]


def must(message, on=((),)):
    """Mark a method as a rule: it returns whether the answer does what it must.

    Args:
        message: shown when it does not. It names the property and does not give the code away.
        on: inputs to try, passed after the answer. An input of several values is a tuple.
    """

    def mark(rule):
        rule.message = message
        rule.cases = [case if isinstance(case, tuple) else (case,) for case in on]
        return rule

    return mark


class Function:
    """An answer that is a function.

    Args:
        parameters: their names, as in "text, ids".
        returns: type of the result, as for a value.
    """

    def __init__(self, parameters, returns):
        self.parameters = parameters
        self.returns = returns

    def __str__(self):
        return f"a function of ({self.parameters})"

    def fault(self, answer):
        """Why the answer is not of this kind, or None."""
        if not callable(answer) or isinstance(answer, type):
            advice = " Hand over the function itself: its name, without brackets behind it."
            return f"The answer must be {self}, but is {_kind_of(answer)}.{advice}"
        return _signature_fault(answer, self.parameters)

    def prepare(self, function):
        """The function, so that each of its results is looked at and remembered."""
        return _Watched(function, self.returns)


class Class:
    """An answer that is a class.

    Args:
        base: the class that it extends.
        parameters: names of what it is made from, as in "vocab".
    """

    def __init__(self, base, parameters):
        self.base = base
        self.parameters = parameters

    def __str__(self):
        return f"a class that extends {self.base.__name__}"

    def fault(self, answer):
        """Why the answer is not of this kind, or None."""
        if not isinstance(answer, type):
            advice = " Hand over the class itself: its name, without brackets behind it."
            return f"The answer must be {self}, but is {_kind_of(answer)}.{advice}"
        if not issubclass(answer, self.base):
            return f"The answer must be {self}, but {answer.__name__} does not."
        return _signature_fault(answer, self.parameters)

    def prepare(self, answer):
        return answer


class _Value:
    """An answer that is a value of a type. A list may come for a tuple, NumPy's int for an int."""

    def __init__(self, type_):
        self.type = type_

    def fault(self, answer):
        """Why the answer is not of this type, or None."""
        advice = " Call it, and hand over what it returns." if inspect.isroutine(answer) else ""
        fault = _type_fault(answer, self.type, "The answer")
        return fault and fault + advice

    def prepare(self, answer):
        return answer


# What a learner calls


def check(number, answer):
    """Print whether the answer is right or, if not, what it does not do yet.

    Args:
        number: the exercise, as in "2.1".
        answer: what the exercise asks for: a value, or a function or class itself.

    Raises:
        TypeError: `number` is not a str.
        ValueError: no exercise has this number; the message lists those that there are.
    """
    __tracebackhide__ = True  # IPython then shows the learner's line alone
    print(judge(number, answer))


def hint(number):
    """Print the exercise's first hint; each further call adds the next one.

    After the last hint comes the place of the solution.

    Raises:
        TypeError, ValueError: as `check`.
    """
    __tracebackhide__ = True
    exercise = find(number)
    seen = _hints_seen[number] = _hints_seen.get(number, 0) + 1
    # The earlier ones too: a cell that is run again loses what it printed before.
    for count, text in enumerate(exercise.hints[:seen], start=1):
        print(f"{number}, hint {count} of {len(exercise.hints)}: {text}")
    if seen > len(exercise.hints):
        print(f"{number}: these are all the hints. A solution is in {exercise.solution}.")


class Verdict(NamedTuple):
    """What `check` prints. `rule` is the name of the rule that was being tried, if any."""

    number: str
    status: str  # "right", "not yet", "not done yet", "wrong type" or "error"
    message: str = ""
    rule: str = ""

    def __str__(self):
        status = "not yet" if self.status in ("wrong type", "error") else self.status
        return f"{self.number}: {status}. {self.message}".rstrip()


def judge(number, answer):
    """The `Verdict` on an answer, whatever the answer does.

    Raises:
        TypeError, ValueError: as `check`.
    """
    __tracebackhide__ = True
    exercise = find(number)
    kind = exercise.answer if hasattr(exercise.answer, "prepare") else _Value(exercise.answer)
    try:
        _refuse_a_placeholder(answer)
        if fault := kind.fault(answer):
            raise _Refused("wrong type", fault)
        _refuse_an_empty_body(answer)
        _try_all(exercise.rules(), kind.prepare(answer), home=getattr(answer, "__module__", None))
    except _Refused as refusal:
        return Verdict(number, *refusal.args)
    return Verdict(number, "right")


# Finding exercises


def find(number):
    """The exercise of that number.

    Raises:
        TypeError: `number` is not a str.
        ValueError: no exercise has this number; the message lists those that there are.
    """
    __tracebackhide__ = True
    if not isinstance(number, str):
        raise TypeError(
            f'The exercise comes first, as a str, for instance "2.1"; this is {_kind_of(number)}.'
        )
    unit = number.partition(".")[0]
    known = exercises_of(unit) or all_exercises()
    if number not in known:
        numbers_known = ", ".join(known) or "none, as no chapter is installed: pip install -e ."
        raise ValueError(f"No exercise is numbered {number!r}. There are: {numbers_known}.")
    return known[number]


def all_exercises():
    """{number: exercise} of the whole book, in its order."""
    return {number: found for unit in UNITS for number, found in exercises_of(unit).items()}


def exercises_of(unit):
    """{number: exercise} of one chapter ("2") or appendix ("A"); empty where it has none."""
    name = f"ch{unit:0>2}_checks" if unit.isdecimal() else f"appendix_{unit.lower()}_checks"
    if unit not in UNITS or importlib.util.find_spec(name) is None:
        return {}
    values = vars(importlib.import_module(name)).values()
    classes = [v for v in values if isinstance(v, type) and issubclass(v, Exercise)]
    return {c.number: c() for c in classes if c.number and c.__module__ == name}


# Trying a rule


class _Refused(Exception):  # noqa: N818 - not an error: it carries a verdict's parts out of a rule
    """Status, message and rule of a verdict that is not "right"."""


class _Watched:
    """The learner's function; a result of the wrong type ends the check."""

    def __init__(self, function, returns):
        self.function = function
        self.returns = returns
        self.results = []  # of the case being tried

    def __call__(self, *args, **kwargs):
        result = self.function(*args, **kwargs)
        if result is None or result is ...:
            raise _Refused("not done yet", f"Your code returned {result}: is a `return` missing?")
        if fault := _type_fault(result, self.returns, "What your code returns"):
            raise _Refused("wrong type", fault)
        self.results.append(result)
        return result


def _try_all(rules, answer, home):
    """Try the rules in order, each on its cases, until one raises `_Refused`.

    Torch's random numbers are the same in each check, and go on afterwards as if there had been
    none, so that a notebook's figures do not depend on how often its reader asked.
    """
    import torch  # here, because it takes a while to import and hints do not need it

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for rule in rules:
            for case in rule.cases:
                _try(rule, answer, case, home)


def _try(rule, answer, case, home):
    """Try a rule on one case.

    Raises:
        _Refused: it does not hold, or the answer raised an error.
    """
    if isinstance(answer, _Watched):
        answer.results = []
    seen_with = _describe_case(rule, case)
    name = rule.__name__
    try:
        # A copy: an answer that changes its input must not spoil the cases of the next check.
        holds = rule(answer, *copy.deepcopy(case))
    except _Refused as refusal:
        status, message = refusal.args
        raise _Refused(status, message + seen_with, name) from None
    except Exception as error:
        raise _Refused(*_describe_error(error, seen_with, home), name) from None
    if not holds:
        returned = ""
        if isinstance(answer, _Watched) and answer.results:
            returned = "\n    Your code returned " + ", then ".join(map(_shown, answer.results))
        raise _Refused("not yet", rule.message + seen_with + returned, name)


def _describe_case(rule, case):
    """A line that says on which input something was seen; empty where there is just one."""
    names = list(inspect.signature(rule).parameters)[1:]
    pairs = [f"{name} = {_shown(value)}" for name, value in zip(names, case, strict=True)]
    return f"\n    Seen with {', '.join(pairs)}" if pairs else ""


def _describe_error(error, seen_with, home):
    """Status and message for an error; the traceback begins at the learner's own code."""
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [frame.f_globals.get("__name__") in ("__main__", home) for frame, _ in frames]
    if not any(own):
        text = f"{type(error).__name__}: {error}"
        return "error", f"What your code gives could not be looked at: {text}{seen_with}"
    if isinstance(error, NotImplementedError) and own[-1]:
        return "not done yet", "It still raises NotImplementedError."
    error.__traceback__ = _skip(error.__traceback__, own.index(True))
    report = traceback.TracebackException.from_exception(error)
    _name_cells(report)
    text = "".join(report.format()).rstrip()
    return "error", f"Your code raised {type(error).__name__}.{seen_with}\n\n{text}"


def _skip(tb, count):
    for _ in range(count):
        tb = tb.tb_next
    return tb


def _name_cells(report):
    """Call a notebook's cells what they are called beside them, In[3], instead of a file."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    while shell and report:
        for frame in report.stack:
            frame.line  # noqa: B018 - read under the file's name, before that is changed
            label = shell.compile.format_code_name(frame.filename)
            frame.filename = " ".join(label) if label else frame.filename
        report = report.__cause__ or report.__context__


# Looking at an answer


def _refuse_a_placeholder(answer):
    """Raise `_Refused` where the answer, or a part of it, is still `...` or None."""
    parts = answer if isinstance(answer, list | tuple) else [answer]
    if any(part is None or part is ... for part in parts):
        raise _Refused("not done yet", "")


def _refuse_an_empty_body(answer):
    """Raise `_Refused` where a function, or a method of a class, has no code in it."""
    is_class = isinstance(answer, type)
    members = vars(answer).values() if is_class else [answer]
    functions = [member for member in members if isinstance(member, types.FunctionType)]
    if is_class and not functions:
        raise _Refused("not done yet", f"{answer.__name__} has no methods.")
    for function in functions:
        if _is_empty(function):
            raise _Refused("not done yet", f"{function.__name__}() is still empty.")


def _is_empty(function):
    """Whether a function's body is nothing but a docstring, `...`, `pass` or `return None`."""
    trivial = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    operations = {operation.opname for operation in dis.get_instructions(function)}
    constants = set(function.__code__.co_consts) - {None, ..., function.__doc__}
    return operations <= trivial and not constants


def _signature_fault(answer, parameters):
    wanted = parameters.split(", ")
    try:
        signature = inspect.signature(answer)
    except ValueError:  # a built-in one may not tell
        return None
    try:
        signature.bind(*wanted)
    except TypeError:
        return f"The answer must take ({parameters}), but takes {signature}."
    return None


def _type_fault(value, wanted, what):
    """Why `value` is not of the type `wanted`, or None. `what` names the value in the message."""
    misfit = _misfit(value, wanted)
    if misfit is None:
        return None
    path, found, expected = misfit
    if not path:
        return f"{what} must be {_words(wanted)}, but is {found}."
    place = " of ".join(f"item {index}" for index in reversed(path))
    return f"{what} must be {_words(wanted)}, but {place} is {found}, not {expected}."


def _misfit(value, wanted, path=()):
    """Path of the first part of the wrong type, what it is, what it should be; None if all fit."""
    origin, inner = get_origin(wanted) or wanted, get_args(wanted)
    accepted = {int: numbers.Integral, float: numbers.Real, tuple: (tuple, list)}
    if not isinstance(value, accepted.get(origin, origin)):
        return path, _kind_of(value), _words(wanted)
    if origin is tuple and len(value) != len(inner):
        return path, f"{_kind_of(value)} of length {len(value)}", _words(wanted)
    if origin is list and inner:
        inner *= len(value)
    for index, (item, item_type) in enumerate(zip(value, inner, strict=True) if inner else ()):
        if misfit := _misfit(item, item_type, (*path, index)):
            return misfit
    return None


def _words(wanted):
    """A type in words: "a list of int", "a tuple (int, str)"."""
    inner = [_words(item).partition(" ")[2] for item in get_args(wanted)]
    if get_origin(wanted) is tuple:
        return f"a tuple ({', '.join(inner)})"
    if inner:
        return f"{_article(get_origin(wanted))} of {' and '.join(inner)}".replace(
            "tuple (", "tuples ("
        )
    return _article(wanted)


def _kind_of(value):
    """What a value is, in words: "a list", "the class Mine", "a function"."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return _article(type(value))


def _article(type_):
    return f"{'an' if type_.__name__[0] in 'aeiouAEIOU' else 'a'} {type_.__name__}"


def _shown(value):
    """A value in a line: long ones are cut, tensors are the lists they hold, to four decimals."""
    value = _rounded(value)
    if type(value).__repr__ is object.__repr__:
        return _kind_of(value)
    text = " ".join(line.strip() for line in repr(value).splitlines())
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 4]} ..."


def _rounded(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(_rounded, value))
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
