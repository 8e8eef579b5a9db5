"""`make sync`: the side that changed wins, prose is never overwritten, and what is left
to a person is named.
"""

from __future__ import annotations

from typing import Any

import pytest
import sync
from small_notebooks import Folder, book, code, text

from dalle2_edu.errors import Dalle2EduError


def synced(folder: Folder, **options: Any) -> str:
    return "\n".join(sync.sync(folder.root, **options))


@pytest.fixture
def agreed(folder: Folder) -> Folder:
    """A chapter after its first sync."""
    synced(folder)
    return folder


def test_twins_that_agree_stay_as_they_are(agreed: Folder) -> None:
    before = agreed.path("en").read_bytes(), agreed.path("zh").read_bytes()
    synced(agreed)
    assert (agreed.path("en").read_bytes(), agreed.path("zh").read_bytes()) == before
    assert agreed.problems() == []


@pytest.mark.parametrize(("changed", "twin"), [("en", "zh"), ("zh", "en")])
def test_code_goes_from_the_side_that_changed(
    agreed: Folder, changed: str, twin: str
) -> None:
    agreed.edit(
        changed, "add", source="print(2 + 2)", metadata={"tags": ["nbval-check-output"]}
    )
    assert "01_noise:add: carried from" in synced(agreed)
    assert agreed.cell(twin, "add").source == "print(2 + 2)"
    assert agreed.cell(twin, "add").metadata.tags == ["nbval-check-output"]
    assert agreed.problems() == []


def test_code_changed_on_both_sides_stops_and_touches_nothing(agreed: Folder) -> None:
    agreed.edit("en", "add", source="print(3)")
    agreed.edit("zh", "add", source="print(4)")
    agreed.edit("en", "formula", source="$$y$$")
    with pytest.raises(
        Dalle2EduError,
        match=r"01_noise:add: the cell changed in both languages; .* FROM=en",
    ):
        synced(agreed)
    assert agreed.cell("zh", "add").source == "print(4)"
    assert agreed.cell("zh", "formula").source == "$$x_t = x_0$$"


def test_from_lets_one_language_win(agreed: Folder) -> None:
    agreed.edit("en", "add", source="print(3)")
    agreed.edit("zh", "add", source="print(4)")
    synced(agreed, winner="zh")
    assert agreed.cell("en", "add").source == "print(4)"


def test_code_that_differs_with_no_record_needs_from(folder: Folder) -> None:
    folder.edit("zh", "add", source="print(4)")
    with pytest.raises(Dalle2EduError, match="01_noise:add"):
        synced(folder)


def test_a_record_that_only_one_notebook_has_does_not_count(agreed: Folder) -> None:
    notebook = agreed.read("zh")
    notebook.metadata.dalle2_edu.synced[-1] = "add of-another-commit"
    agreed.write("zh", notebook)
    agreed.edit("en", "add", source="print(3)")
    with pytest.raises(Dalle2EduError, match="01_noise:add"):
        synced(agreed)


def test_outputs_of_old_code_go(agreed: Folder) -> None:
    for language in ("en", "zh"):
        agreed.edit(
            language,
            "add",
            **{
                key: code("add", "", "2\n")[key]
                for key in ("outputs", "execution_count")
            },
        )
    agreed.edit("en", "add", source="print(3)", outputs=[], execution_count=None)
    assert "runs add" in synced(agreed)
    assert agreed.cell("zh", "add").outputs == []


@pytest.mark.parametrize(
    ("source", "is_copied"),
    [
        ("print(1 + 1)", True),
        ("print(words('two', '二'))", False),
        ("check('ddpm.q_sample', f)", False),
        ("def title():\n    return words('two', '二')", False),
    ],
)
def test_outputs_are_copied_where_they_speak_no_language(
    agreed: Folder, source: str, is_copied: bool
) -> None:
    cell = code("add", source, "2\n")
    agreed.edit("zh", "add", source=source)
    agreed.edit("en", "add", source=source, outputs=cell.outputs, execution_count=1)
    said = synced(agreed)
    assert bool(agreed.cell("zh", "add").outputs) == is_copied
    assert ("its output was copied" in said) == is_copied
    assert ("make notebooks CHAPTER=01_noise` runs add" in said) != is_copied


def test_a_function_that_speaks_makes_its_callers_speak() -> None:
    sources = [
        "def label():\n    return words('a', '甲')",
        "x = 1",
        "print(label())",
        "%matplotlib inline",
    ]
    assert sync.speaking_cells(sources) == [True, False, True, True]


def test_prose_is_never_overwritten(agreed: Folder) -> None:
    agreed.edit("en", "why", source="We add a little noise to a picture.")
    assert "01_noise:why: is stale: the English changed" in synced(agreed, winner="en")
    assert agreed.cell("zh", "why").source == "我们给图片加噪声。"


def test_a_new_text_cell_waits_for_a_translator(agreed: Folder) -> None:
    agreed.insert("zh", 2, text("new", "噪声越加越多。"))
    assert "01_noise:new: new in Chinese: to be translated into English" in synced(
        agreed
    )
    assert agreed.ids("en") == ["title", "why", "new", "formula", "add"]
    assert agreed.problems() == [
        "01_noise:new: is not translated yet; translate it, then `make sync CONFIRM=…`"
    ]
    with pytest.raises(Dalle2EduError, match="same text"):
        sync.confirm(agreed.root, "01_noise:new")
    agreed.edit("en", "new", source="More and more noise is added.")
    assert sync.confirm(agreed.root, "01_noise:new") == ["new"]
    assert agreed.problems() == []


def test_a_new_formula_needs_no_translator(agreed: Folder) -> None:
    agreed.insert("en", 0, text("new", "$$y$$"))
    synced(agreed)
    assert agreed.ids("zh")[0] == "new"
    assert agreed.problems() == []


def test_a_changed_formula_is_carried_over(agreed: Folder) -> None:
    agreed.edit("zh", "formula", source="$$x_t = 2 x_0$$")
    synced(agreed)
    assert agreed.cell("en", "formula").source == "$$x_t = 2 x_0$$"


def test_a_formula_that_got_words_is_to_be_translated(agreed: Folder) -> None:
    agreed.edit("en", "formula", source="So $x_t = x_0$.")
    assert "compare the two texts" in synced(agreed)
    assert agreed.cell("zh", "formula").source == "$$x_t = x_0$$"
    assert "is not translated yet" in agreed.problems()[0]


def test_a_deleted_cell_goes_and_a_new_one_comes(agreed: Folder) -> None:
    agreed.remove("zh", "add")
    agreed.insert("en", 0, code("first", "x = 1"))
    synced(agreed)
    assert agreed.ids("en") == agreed.ids("zh") == ["first", "title", "why", "formula"]


def test_changed_here_and_deleted_there_stops(agreed: Folder) -> None:
    agreed.remove("zh", "add")
    agreed.edit("en", "add", source="print(3)")
    with pytest.raises(
        Dalle2EduError, match="01_noise:add: changed in English and deleted in Chinese"
    ):
        synced(agreed)
    synced(agreed, winner="en")
    assert agreed.cell("zh", "add").source == "print(3)"


def test_the_order_follows_the_side_that_changed_it(agreed: Folder) -> None:
    notebook = agreed.read("zh")
    notebook.cells.reverse()
    agreed.write("zh", notebook)
    assert "the order of the cells is now that of the Chinese notebook" in synced(
        agreed
    )
    assert agreed.ids("en") == ["add", "formula", "why", "title"]


def test_two_new_orders_stop(agreed: Folder) -> None:
    for language, place in (("en", 0), ("zh", 1)):
        notebook = agreed.read(language)
        notebook.cells.insert(place, notebook.cells.pop())
        agreed.write(language, notebook)
    with pytest.raises(
        Dalle2EduError,
        match="01_noise: the cells were put in another order in both languages",
    ):
        synced(agreed)


def test_a_chapter_in_one_language_gets_a_twin(folder: Folder) -> None:
    folder.path("zh").unlink()
    assert "01_noise:why: new in English: to be translated into Chinese" in synced(
        folder
    )
    assert folder.ids("zh") == folder.ids("en")
    assert {problem.split(": ")[0] for problem in folder.problems()} == {
        "01_noise:title",
        "01_noise:why",
    }


def test_confirm_takes_a_cell_or_a_chapter(agreed: Folder) -> None:
    agreed.edit("en", "why", source="We add a little noise.")
    agreed.edit("zh", "title", source="# 1. 什么是噪声")
    assert sync.confirm(agreed.root, "01_noise:why") == ["why"]
    assert len(agreed.problems()) == 1
    assert sync.confirm(agreed.root, "01_noise") == ["title"]
    assert agreed.problems() == []
    with pytest.raises(Dalle2EduError, match="01_noise:add: no text cell of this name"):
        sync.confirm(agreed.root, "01_noise:add")


def test_tags_of_translated_prose_are_carried_over(agreed: Folder) -> None:
    metadata = {
        **agreed.cell("en", "title").metadata,
        "slideshow": {"slide_type": "slide"},
    }
    agreed.edit("en", "title", metadata=metadata)
    synced(agreed)
    assert agreed.cell("zh", "title").metadata.slideshow == {"slide_type": "slide"}
    assert agreed.cell("zh", "title").source == "# 1. 噪声"
    assert agreed.problems() == []


def test_the_command_says_it_in_one_line(
    agreed: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync.main(["--folder", str(agreed.root)]) == 0
    assert sync.main(["--folder", str(agreed.root), "--chapter", "99"]) == 2
    agreed.write("en", book(code("add", "print(5)")))
    agreed.write("zh", book(code("add", "print(6)")))
    assert sync.main(["--folder", str(agreed.root)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "no notebook is called '99'; there are: 01_noise"
    assert said[1].startswith("01_noise:add: the cell changed in both languages")
