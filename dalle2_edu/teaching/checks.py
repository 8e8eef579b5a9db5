"""Exercises that answer: `check("ddpm.q_sample", my_function)`.

An exercise is a reference solution, some cases to try it on, and the mistakes that
students make, each with its diagnosis. A chapter's exercises are the names in
`dalle2_edu/teaching/exercises/<module>.py` that hold one:

    q_sample = Exercise(
        reference=...,                            # the right function (or, for a number, one that returns it)
        cases=lambda: [(x0, t, noise), ...],      # tuples of arguments; [()] for a number
        mistakes=[Mistake(wrong_function, Words(en="larger by 1/alpha_bar: did you square the root?", zh="..."))],
        hint=Words(en="...", zh="..."),
    )

`check` runs the answer on every case and prints one of: right; not answered yet; what
is wrong. An answer that equals a known mistake's on all cases gets that mistake's
diagnosis. Whatever a student's function does or returns, `check` does not raise. Random
numbers are seeded alike for answer and reference, so a function that draws noise can be
checked too.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.teaching.words import Words, words

EXERCISES = "dalle2_edu.teaching.exercises"
# `exit()` and a KeyboardInterrupt raised by the student's own code are no errors to
# Python
STOPS = (Exception, SystemExit, KeyboardInterrupt)
ZERO = 1e-6  # what counts as 0 where exactly 0 is expected
Case = tuple[Any, ...]


@dataclass(frozen=True)
class Mistake:
    """A wrong solution that students write, and what to say to one who did."""

    wrong: Callable[..., Any]
    says: Words


@dataclass(frozen=True)
class Exercise:
    """A task with its reference solution, the cases to try, known mistakes, and a hint.

    tolerance: how far a number may be off, relative to the largest expected one of its
    tensor. Where only zeros are expected, 1e-6 in absolute numbers.
    """

    reference: Callable[..., Any]
    cases: Callable[[], Sequence[Case]]
    mistakes: Sequence[Mistake] = ()
    hint: Words | None = None
    tolerance: float = 1e-4


def check(name: str, answer: Any) -> None:
    """Says in the reader's language whether an answer is right, and if not, what is
    wrong.

    name: "module.exercise". answer: a function, or for an exercise that asks for a
    value, the value. Raises Dalle2EduError for a name that no exercise has, and for
    nothing else.
    """
    print(verdict(find(name), answer))


def find(name: str) -> Exercise:
    """The exercise of that name; raises Dalle2EduError, with the known names, where
    there is none.
    """
    module_name, _, exercise_name = name.partition(".")
    try:
        module = import_module(f"{EXERCISES}.{module_name}")
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith(EXERCISES):
            raise  # the module is there, and something that it needs isn't
        said = words(
            f"there are no exercises '{module_name}'", f"没有名为“{module_name}”的练习"
        )
        raise Dalle2EduError(said) from None
    known = {
        key: value for key, value in vars(module).items() if isinstance(value, Exercise)
    }
    if exercise_name not in known:
        listed = ", ".join(f"{module_name}.{key}" for key in known)
        raise Dalle2EduError(
            words(
                f"there is no exercise '{name}': {listed}",
                f"没有练习“{name}”，已有：{listed}",
            )
        )
    return known[exercise_name]


# --- The verdict ----------------------------------------------------------------------


def verdict(exercise: Exercise, answer: Any) -> str:
    """What `check` prints."""
    cases = list(exercise.cases())
    expected = [run(exercise.reference, case, seed) for seed, case in enumerate(cases)]
    given = []
    for seed, case in enumerate(cases):
        try:
            given.append(run(answer, case, seed))
        except STOPS as error:  # whatever a student's code raises is told, not raised
            return broken(error, case)
    if unanswered(given, expected):
        return words(
            "○ Your turn: write your answer in place of the `...`, then run this cell again.",
            "○ 轮到你了：把 `...` 换成你的答案，再运行本单元。",
        )
    try:
        return judged(exercise, answer, cases, given, expected)
    # an object that can't even be compared: its == or __str__ fails
    except STOPS as error:
        return broken(error, ())


def judged(
    exercise: Exercise,
    answer: Any,
    cases: Sequence[Case],
    given: Sequence[Any],
    expected: Sequence[Any],
) -> str:
    """The verdict on values that came back."""
    for case, got, wanted in zip(cases, given, expected, strict=True):
        said = difference(got, wanted, exercise.tolerance)
        if said is not None:
            told = known_mistake(exercise, cases, given) or hinted(said, exercise)
            return f"✗ {told}{for_case(case)}"
    return right(answer, cases)


def run(function: Any, case: Case, seed: int) -> Any:
    """The function's value for copies of the arguments, with random numbers of its own;
    a plain value is itself.
    """
    if not callable(function):
        return function
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function(*fresh(case))


def fresh(case: Case) -> Case:
    """Copies of the arguments, so that nobody finds what another has left in them."""
    return tuple(
        arg.clone_state() if isinstance(arg, torch.Generator) else copy.deepcopy(arg)
        for arg in case
    )


def unanswered(given: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether nothing came back (None or `...`) where something should have."""
    blank = [value is None or value is Ellipsis for value in given]
    return all(blank) and not all(value is None for value in expected)


def broken(error: BaseException, case: Case) -> str:
    """What to say of an answer that stopped with an error."""
    message = message_of(error)
    if "ellipsis" in message:  # the stub's `...` was used as if it were a number
        return words(
            "○ Your turn: there is still a `...` in it.",
            "○ 轮到你了：里面还留着 `...`。",
        )
    kind = type(error).__name__
    said = words(
        f"Your function stopped with {kind}: {message}",
        f"你的函数抛出异常 {kind}：{message}",
    )
    return f"✗ {said}{for_case(case)}"


def message_of(error: BaseException) -> str:
    """An error's message in one line of at most 300 letters; "" if it can't tell its
    own.
    """
    try:
        return " ".join(str(error).split())[:300]
    except STOPS:
        return ""


def right(answer: Any, cases: Sequence[Case]) -> str:
    """Praise; and a warning to a function that changes the tensors that it was
    given.
    """
    if callable(answer) and any(changes_arguments(answer, case) for case in cases):
        return words(
            "✓ Right. But your function changes its arguments in place: whoever calls it twice"
            " gets something else.",
            "✓ 正确。但你的函数就地修改了传入的参数：用同一个参数再调用一次，结果就变了。",
        )
    return words(
        f"✓ Right ({len(cases)} of {len(cases)} cases).",
        f"✓ 正确（{len(cases)} 组数据全部通过）。",
    )


def changes_arguments(answer: Callable[..., Any], case: Case) -> bool:
    """Whether the arguments are others after the call."""
    used = fresh(case)
    try:
        with torch.random.fork_rng(devices=[]):
            answer(*used)
    except STOPS:  # right once, broken when called again: it counts its calls, say
        return True
    return difference(plain(used), plain(case), 0.0) is not None


def plain(value: Any) -> Any:
    """What can be compared of a value: numbers, tensors and texts, and lists of them;
    of other objects nothing.
    """
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value if is_numeric(value) or isinstance(value, str) else None


def known_mistake(
    exercise: Exercise, cases: Sequence[Case], given: Sequence[Any]
) -> str | None:
    """The diagnosis of the first known mistake that gives these very values; None if no
    one does.
    """
    for mistake in exercise.mistakes:
        try:
            wrong = [run(mistake.wrong, case, seed) for seed, case in enumerate(cases)]
        # a mistake that stops on some case is not this one: the answer did not
        except STOPS:
            continue
        if all(
            difference(a, b, exercise.tolerance) is None
            for a, b in zip(given, wrong, strict=True)
        ):
            return str(mistake.says)
    return None


def hinted(text: str, exercise: Exercise) -> str:
    """The difference, and the exercise's hint if it has one."""
    hint = (
        f" {words('Hint:', '提示：')}{words(' ', '')}{exercise.hint}"
        if exercise.hint
        else ""
    )
    return f"{text}{hint}"


def for_case(case: Case) -> str:
    """A second line that says for which arguments, where they can be read at a
    glance.
    """
    if not case:
        return ""
    shown = ", ".join(brief(value) for value in case)
    return words(f"\n  for the arguments {shown}", f"\n  所用参数：{shown}")


def brief(value: Any) -> str:
    """A value in a few letters: small ones as they are, large tensors by their
    shape.
    """
    if isinstance(value, Tensor):
        if value.numel() > 6 or value.is_meta:
            return f"tensor{tuple(value.shape)}"
        value = value.tolist()
        value = round(value, 4) if isinstance(value, float) else value
    try:
        text = " ".join(repr(value).split())
    except STOPS:  # a number of over 4,300 digits, an object whose repr fails
        text = a_kind(value).strip()
    return text if len(text) <= 60 else text[:57] + "..."


# --- Comparing ------------------------------------------------------------------------


def difference(given: Any, expected: Any, tolerance: float) -> str | None:
    """None if the two are the same, otherwise what differs, in the reader's
    language.
    """
    if dataclasses.is_dataclass(expected) and type(given) is type(expected):
        names = [field.name for field in dataclasses.fields(expected)]
        return in_parts(
            {n: getattr(given, n) for n in names},
            {n: getattr(expected, n) for n in names},
            tolerance,
        )
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        return in_parts(given, expected, tolerance)
    if isinstance(expected, list | tuple) and isinstance(given, list | tuple):
        if len(given) != len(expected):
            return words(
                f"{len(given)} items came back, not {len(expected)}.",
                f"返回了 {len(given)} 项，应为 {len(expected)} 项。",
            )
        return in_parts(dict(enumerate(given)), dict(enumerate(expected)), tolerance)
    if is_numeric(expected):
        numbers = as_numbers(given)
        if numbers is not None:
            return in_numbers(numbers, torch.as_tensor(expected), tolerance)
    if type(given) is not type(expected) or is_numeric(expected):
        return words(
            f"This is {a_kind(given)}; {a_kind(expected)} is wanted.",
            f"返回的是{a_kind(given)}，应为{a_kind(expected)}。",
        )
    if bool(given == expected):
        return None
    return words(
        f"{brief(given)} came back, not {brief(expected)}.",
        f"返回的是 {brief(given)}，应为 {brief(expected)}。",
    )


def in_parts(
    given: Mapping[Any, Any], expected: Mapping[Any, Any], tolerance: float
) -> str | None:
    """The first part that differs."""
    if set(given) != set(expected):
        return words(
            f"The names are {brief(sorted(map(str, given)))}, not"
            f" {brief(sorted(map(str, expected)))}.",
            f"各项的名字是 {brief(sorted(map(str, given)))}，应为"
            f" {brief(sorted(map(str, expected)))}。",
        )
    for name, value in expected.items():
        if text := difference(given[name], value, tolerance):
            return words(f"At [{name!r}]: {text}", f"在 [{name!r}] 处：{text}")
    return None


def is_numeric(value: Any) -> bool:
    return isinstance(
        value, bool | int | float | complex | Tensor | np.ndarray | np.generic
    )


def as_numbers(value: Any) -> Tensor | None:
    """A number or array as a tensor; None for what holds no numbers that can be looked
    at.

    Arrays of objects, texts and dates are none, nor is a tensor on PyTorch's "meta"
    device, which has a shape and no values, nor an integer beyond a float's range.
    """
    if not is_numeric(value) or (isinstance(value, Tensor) and value.is_meta):
        return None
    try:
        numbers = torch.as_tensor(value)
        numbers = numbers.dequantize() if numbers.is_quantized else numbers
        return numbers.to_dense() if numbers.layout != torch.strided else numbers
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def a_kind(value: Any) -> str:
    """What a value is, with its article."""
    if value is None:
        return words("nothing (None)", "空值（None）")
    if isinstance(value, Tensor) and value.is_meta:
        return words(
            "a tensor without values (device meta)", "没有数值的张量（meta 设备）"
        )
    if as_numbers(value) is not None:
        return words("a number or tensor", "数或张量")
    if isinstance(value, int):
        return words("a whole number beyond all bounds", "大得无法比较的整数")
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        name = f"{name} of {value.dtype}"
    return words(f"{'an' if name[0] in 'aeiou' else 'a'} {name}", f" {name} ")


def number_kind(value: Tensor) -> Words:
    """Whole numbers, truth values, or numbers with a point."""
    if value.dtype == torch.bool:
        return Words("truth values (bool)", "布尔值（bool）")
    if value.is_floating_point() or value.is_complex():
        return Words("floating-point numbers", "浮点数")
    return Words("whole numbers", "整数")


def in_numbers(given: Tensor, expected: Tensor, tolerance: float) -> str | None:
    """How two tensors differ: in shape, in kind, or in value. Float32 and float64 count
    as the same kind.
    """
    if given.shape != expected.shape:
        return words(
            f"The shape is {tuple(given.shape)}, not {tuple(expected.shape)}.",
            f"形状是 {tuple(given.shape)}，应为 {tuple(expected.shape)}。",
        )
    kinds = number_kind(given), number_kind(expected)
    if kinds[0] != kinds[1] and (
        given.ndim or torch.bool in (given.dtype, expected.dtype)
    ):
        return words(
            # fmt: skip
            f"These are {kinds[0]} ({given.dtype}); {kinds[1]} ({expected.dtype}) are wanted.",
            f"这些是{kinds[0]}（{given.dtype}），应为{kinds[1]}（{expected.dtype}）。",
        )
    precise = (
        torch.complex128
        if expected.is_complex() or given.is_complex()
        else torch.float64
    )
    given, expected = (each.detach().cpu().to(precise) for each in (given, expected))
    off = (given - expected).abs()
    same = (off <= allowed(expected, tolerance)) | (given == expected)
    same |= given.isnan() & expected.isnan()
    return (
        None
        if bool(same.all())
        else in_values(given, expected, off.masked_fill(same, 0))
    )


def allowed(expected: Tensor, tolerance: float) -> float:
    """How far a value may be off: a share of the largest expected one, so that an
    answer that is tiny everywhere has to be right as well.
    """
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return tolerance * largest if largest > 0 else min(tolerance, ZERO)


def in_values(given: Tensor, expected: Tensor, off: Tensor) -> str:
    """What to say of wrong values: a pattern if there is one, and the worst place."""
    if bool((~given.isfinite() & expected.isfinite()).any()):
        return words(
            "There is nan or inf in it: a division by zero, a root or logarithm of a negative"
            " number?",
            "结果里有 nan 或 inf：是不是除以了零，或对负数开方、取对数？",
        )
    place = int(off.flatten().nan_to_num(nan=torch.inf).argmax())
    index = [int(i) for i in np.unravel_index(place, given.shape)]
    where = words(f" at {index}", f"（位置 {index}）") if given.ndim else ""
    a = f"{given.flatten()[place].item():.6g}"
    b = f"{expected.flatten()[place].item():.6g}"
    return pattern(given, expected) + words(
        f"{a} came back{where}, {b} is right.", f"得到 {a}{where}，应为 {b}。"
    )


def pattern(given: Tensor, expected: Tensor) -> str:
    """A sentence if all values are off by one sign, one factor or one difference; ""
    otherwise.
    """
    if given.numel() < 2 or given.is_complex() or expected.is_complex():
        return ""
    scale = float(expected.abs().max()) or 1.0
    if bool(((given + expected).abs() <= 1e-4 * scale).all()):
        return words("The sign is the wrong way round. ", "正负号反了。")
    factor = float((given * expected).sum() / expected.square().sum().clamp(min=1e-30))
    if (
        bool(
            (
                (given - factor * expected).abs()
                <= 1e-4 * scale * max(1.0, abs(factor))
            ).all()
        )
        and abs(factor) > 1e-6
    ):
        return words(
            f"All values are {factor:.4g} times too large. ",
            f"所有值都是正确值的 {factor:.4g} 倍。",
        )
    shift = given - expected
    if bool(((shift - shift.mean()).abs() <= 1e-4 * scale).all()):
        amount = float(shift.mean())
        return words(
            f"All values are off by {amount:+.4g}. ", f"所有值都差了 {amount:+.4g}。"
        )
    return ""
