"""The parser of documentation pages."""

from pathlib import Path

import pytest

from tests.docs.blocks import blocks, command_lines, inline_commands

PAGE = """\
# A page

```python
a = 1
```

<!-- not run: needs a GPU -->

```python
b = 2
```

<!-- not run: of another block -->
Some words in between.

- in a list:

    ```sh
    stir run configs/smollm2.toml --out runs/again  # a comment
    STIR_PORT=8502 make workbench; cd x && stir status smollm2 > file 2>&1
    stir trace smollm2 \\
      "two # words"
    ```

```console
$ stir show smollm2 | head
entry  kind
stir is printed here
```

    stir eval smollm2 --methods stir:k_scale=0.3

Say `stir methods --json`, or ``stir``.

```text
    stir nothing
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, "utf-8")
    return path


def test_blocks_have_their_language_place_and_reason(page: Path) -> None:
    parsed = blocks(page)
    assert [block.language for block in parsed] == ["python", "python", "sh", "console", "text"]
    assert [block.not_run for block in parsed] == [None, "needs a GPU", None, None, None]
    lines = PAGE.splitlines()
    assert all(lines[block.line - 1].strip() == block.text.splitlines()[0].strip() for block in parsed)
    assert parsed[2].text.startswith("stir run")  # the list's indent is removed


def test_command_lines_are_split_as_a_shell_would(page: Path) -> None:
    assert [line.words for line in command_lines(page)] == [
        ("stir", "run", "configs/smollm2.toml", "--out", "runs/again"),
        ("make", "workbench"),
        ("cd", "x"),
        ("stir", "status", "smollm2"),
        ("stir", "trace", "smollm2", "two # words"),
        ("stir", "show", "smollm2"),
        ("head",),
        ("stir", "eval", "smollm2", "--methods", "stir:k_scale=0.3"),
    ]


def test_commands_in_sentences_are_found(page: Path) -> None:
    assert [line.words for line in inline_commands(page)] == [("stir", "methods", "--json")]


def test_a_block_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("text\n\n```python\na = 1\n", "utf-8")
    with pytest.raises(ValueError, match=r"page\.md:3 opens a block"):
        blocks(path)
