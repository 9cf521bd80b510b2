"""A stored notebook as a page of the documentation: its cells and stored outputs, with figures as images."""

import html
import json
import re
from pathlib import Path
from typing import Any

PLAIN = "text/plain"
STYLE = re.compile(r"<style.*?</style>", re.DOTALL)
SCRIPT = re.compile(r"<script\b", re.IGNORECASE)


def page_of(notebook: Path) -> str:
    """The Markdown of a notebook's page.

    Raises:
        ValueError: the notebook holds an error, or an output that needs a script.
    """
    found: list[str] = []
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        source = joined(cell["source"])
        if cell["cell_type"] == "markdown":
            found.append(source)
        elif cell["cell_type"] == "code" and source.strip():
            found.append(f"{fence(source)}python\n{source}\n{fence(source)}")
            found += [shown(output, notebook) for output in cell.get("outputs", [])]
    note = f"*This page is [`{notebook.name}`]({notebook.name}) of the repository with the outputs stored in it.*"
    return "\n\n".join([*found[:1], note, *found[1:]]) + "\n"


def shown(output: dict[str, Any], notebook: Path) -> str:
    """One output: an image before a table, a table before text."""
    kind = output["output_type"]
    if kind == "stream":
        return printed(joined(output["text"]))
    if kind == "error":
        raise ValueError(f"{notebook.name} holds an error ({output['ename']}): execute it again with `make notebooks`")
    data = output["data"]
    if "image/png" in data:
        words = html.escape(joined(data.get(PLAIN, "figure")).splitlines()[0][:80], quote=True)
        return f'<div class="output"><img alt="{words}" src="data:image/png;base64,{joined(data["image/png"]).replace(chr(10), "")}"></div>'
    if "text/html" in data:
        table = STYLE.sub("", joined(data["text/html"]))
        if SCRIPT.search(table):
            raise ValueError(f"{notebook.name} holds a script in an output: store figures as images")
        return f'<div class="output">{"".join(line.strip() for line in table.splitlines())}</div>'
    if PLAIN in data:
        return printed(joined(data[PLAIN]))
    raise ValueError(f"{notebook.name} holds an output of {', '.join(data)}, which a page cannot show")


def printed(text: str) -> str:
    """A cell's printed output, unchanged."""
    return f"{fence(text)}{{.text .output}}\n{text.rstrip()}\n{fence(text)}"


def fence(text: str) -> str:
    """A fence longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def joined(text: str | list[str]) -> str:
    """A notebook's text, which may be stored line by line."""
    return text if isinstance(text, str) else "".join(text)
