"""How our code reads, in numbers: comments, docstrings, lengths, density.

    make style-report                                # the package, part by part
    python benchmarks/style_report.py FOLDER ...     # any other code, counted the same way

Numbers do not make code readable, but they show where to look: long lines that hold
several thoughts, functions with many parameters, formulas with no symbol beside them.

    comments      lines with a comment, for each line of code
    docstrings    lines inside docstrings, for each line of code
    body          lines of a function's body, without docstring, blank and comment lines
    file          lines in a file
    parameters    of a function, without self and cls
    wide          share of the lines, without blank ones, that are longer than 88 columns
    operations    calls, attributes, operators, comparisons and subscripts, for each statement
                  that is no import, definition or docstring
    pairs         assignments like `a, b = x, y`, for each 1,000 lines of code

A line of code is one that is neither blank, nor only a comment, nor part of a
docstring.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDE = 88  # columns
EXERCISES = "exercises"  # their hints are long strings in two languages: counted apart

OPERATIONS = (
    ast.Call,
    ast.Attribute,
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.Subscript,
)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
NO_STATEMENTS = (*DEFINITIONS, ast.Import, ast.ImportFrom)


@dataclass
class Count:
    """What was counted in some files; `+=` adds another's."""

    code: int = 0
    lines: int = 0
    comments: int = 0
    docstrings: int = 0
    wide: int = 0
    statements: int = 0
    operations: int = 0
    pairs: int = 0
    bodies: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    parameters: list[int] = field(default_factory=list)

    def __iadd__(self, other: Count) -> Count:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


def count_file(path: Path) -> Count:
    """Count one Python file; raises SyntaxError for a file that is none."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = source.splitlines()
    comments = comment_lines(source)
    in_docstring = docstring_lines(tree)

    code_lines = set()
    for number, line in enumerate(lines, start=1):
        only_comment = line.lstrip().startswith("#") and number in comments
        if line.strip() and not only_comment and number not in in_docstring:
            code_lines.add(number)

    count = Count(code=len(code_lines), files=[len(lines)])
    count.lines = sum(bool(line.strip()) for line in lines)
    count.comments = len(comments)
    count.docstrings = len(in_docstring)
    count.wide = sum(len(line) > WIDE for line in lines)
    for node in ast.walk(tree):
        count.operations += isinstance(node, OPERATIONS)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            count.parameters.append(parameter_count(node))
            count.bodies.append(len(body_lines(node) & code_lines))
        if isinstance(node, ast.stmt) and not isinstance(node, NO_STATEMENTS):
            if is_docstring(node):
                continue
            count.statements += 1
            count.pairs += is_pair(node)
    return count


def comment_lines(source: str) -> set[int]:
    """The numbers of the lines that carry a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of the lines inside docstrings."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, *DEFINITIONS)) and node.body:
            first = node.body[0]
            if is_docstring(first):
                numbers.update(
                    range(first.lineno, (first.end_lineno or first.lineno) + 1)
                )
    return numbers


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a string alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    """The numbers of the lines from a function's first statement to its last."""
    return set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))


def parameter_count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters a function has, without self and cls."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    names = [argument.arg for argument in named if argument.arg not in ("self", "cls")]
    return len(names) + (arguments.vararg is not None) + (arguments.kwarg is not None)


def is_pair(node: ast.stmt) -> bool:
    """Whether a statement assigns several values to several names: `a, b = x, y`."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def count_folder(folder: Path, skip: str = "") -> Count:
    """Count all Python files below a folder (or one file), but those below a folder
    named `skip`.
    """
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    total = Count()
    for path in paths:
        if skip and skip in path.relative_to(folder).parts:
            continue
        total += count_file(path)
    return total


HEAD = "| code | lines | comments | docstrings | body median/p90/max | file median/max "
HEAD += "| parameters mean/max | wide | operations | pairs |"


def row(name: str, count: Count) -> str:
    """One row of the table."""
    code = max(count.code, 1)
    bodies = sorted(count.bodies) or [0]
    files = [size for size in count.files if size] or [0]
    parameters = count.parameters or [0]
    cells = [
        name,
        f"{count.code:,}",
        f"{count.comments / code:.2f}",
        f"{count.docstrings / code:.2f}",
        f"{statistics.median(bodies):g}/{bodies[int(0.9 * (len(bodies) - 1))]}/{bodies[-1]}",
        f"{statistics.median(files):g}/{max(files)}",
        f"{statistics.mean(parameters):.1f}/{max(parameters)}",
        f"{count.wide / max(count.lines, 1):.1%}",
        f"{count.operations / max(count.statements, 1):.2f}",
        f"{1000 * count.pairs / code:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str]) -> None:
    """Print the table for the package, or for the folders that were named."""
    print(HEAD)
    print("|---" * 10 + "|")
    if arguments:
        for folder in arguments:
            print(row(folder, count_folder(Path(folder))))
        return
    package = ROOT / "dalle2_edu"
    print(row("the package, without exercises", count_folder(package, skip=EXERCISES)))
    for part in sorted(path for path in package.iterdir() if path.is_dir()):
        if any(part.rglob("*.py")):
            print(row(f"{part.name}/", count_folder(part)))


if __name__ == "__main__":
    main(sys.argv[1:])
