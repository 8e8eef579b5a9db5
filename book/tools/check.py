"""`python book/tools/check.py`: what is wrong between the two languages; the tests fail
on it.
"""

from __future__ import annotations

import sys

from prose import glossary_problems, language_problems
from twins import problems


def main() -> int:
    found = sorted(
        {
            str(problem)
            for source in (problems, language_problems, glossary_problems)
            for problem in source()
        }
    )
    print("\n".join(found) or "The two languages agree.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
