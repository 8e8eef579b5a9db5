"""Search that finds 扩散模型 in a sentence.

Chinese is written without spaces, so there are no words to put into an index. A
dictionary (jieba) would cut the text into words, but the query, typed into the page,
would not be cut the same way, and words the dictionary lacks would be lost. So both
sides do something simpler: every run of Chinese characters becomes its overlapping
pairs, 扩散模型 -> 扩散, 散模, 模型, and a page is found if it holds all of the query's pairs. The
index also holds single characters, for a query of one. English words are cut at spaces
and stemmed, as in any Sphinx book, on pages of both languages.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"
RUNS = re.compile(rf"[{CHINESE}]+|[^\W{CHINESE}]+")

SPLIT_QUERY = r"""
function splitQuery(query) {
  const runs = query.match(/[\u3400-\u4dbf\u4e00-\u9fff]+|(?:(?![\u3400-\u4dbf\u4e00-\u9fff])[\p{L}\p{N}_])+/gu) || [];
  return runs.flatMap((run) => {
    if (run.length < 2 || !/[\u3400-\u4dbf\u4e00-\u9fff]/.test(run)) return [run];
    return Array.from({ length: run.length - 1 }, (_, i) => run.slice(i, i + 2));
  });
}
"""


def pairs(run: str) -> list[str]:
    """扩散模型 -> 扩散, 散模, 模型."""
    return [run[i : i + 2] for i in range(len(run) - 1)]


class SearchBoth(SearchEnglish):
    """English words, stemmed, and pairs of Chinese characters."""

    js_splitter_code = SPLIT_QUERY

    def split(self, text: str) -> list[str]:
        """What the index holds of a text."""
        found = []
        for run in RUNS.findall(text):
            found += [*run, *pairs(run)] if re.match(rf"[{CHINESE}]", run) else [run]
        return found


class SearchInEnglishBook(SearchBoth):
    lang = "en"


class SearchInChineseBook(SearchBoth):
    lang = "zh"
    language_name = "Chinese"


def setup(app: Sphinx) -> None:
    app.add_search_language(SearchInEnglishBook)
    app.add_search_language(SearchInChineseBook)
