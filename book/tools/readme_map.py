"""`python book/tools/readme_map.py`: write the map in both READMEs again, from the
docstrings.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "extension"))
READMES = {"en": "README.md", "zh": "README.zh.md"}
TABLE = re.compile(r"^\| (?:folder|文件夹) \|.*\n(?:\|.*\n)+", re.MULTILINE)


def main() -> None:
    from dalle2_book.lessons import readme_map

    for language, name in READMES.items():
        file = ROOT / name
        text = file.read_text(encoding="utf8")
        before, after = TABLE.split(text, maxsplit=1)
        file.write_text(before + readme_map(ROOT, language) + after, encoding="utf8")


if __name__ == "__main__":
    main()
