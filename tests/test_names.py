"""A public name stands for one concept: no class, function or type alias of the product is defined twice.

``SHARED`` lists the exceptions with their reasons.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("stir_core", "workbench", "pages")

SHARED = {
    "add": "every command module registers its arguments under it",
    "calibrate": "the public interface's word for the core's function",
    "open_session": "the public interface's word for the core's function",
    "steer": "the public interface's word for the core's function",
}
"""Names that several modules may define, and the reason."""


def test_a_public_name_stands_for_one_concept() -> None:
    files = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for top in PRODUCT for path in (ROOT / top).rglob("*.py")}
    twice = defined_twice(files)
    assert {name: paths for name, paths in twice.items() if name not in SHARED} == {}
    assert [name for name in SHARED if name not in twice] == [], "exempt, but defined once by now: take it out of the table"


def defined_twice(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Every public name that more than one definition has, with the files that define it."""
    definitions: dict[str, list[str]] = defaultdict(list)
    for path, source in files.items():
        for name in public_names(source):
            definitions[name].append(path)
    return {name: sorted(paths) for name, paths in sorted(definitions.items()) if len(paths) > 1}


def public_names(source: str) -> Iterator[str]:
    """Public classes, functions and type aliases of a module, one for each name."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and ast.unparse(node.annotation).endswith("TypeAlias"):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and not node.targets[0].id.isupper():
            names.add(node.targets[0].id)
    return iter(sorted(name for name in names if not name.startswith("_") and not name.isupper()))


def test_a_second_definition_is_detected() -> None:
    files = {
        "stir_core/a.py": "class Job: pass\nPlace = tuple[int, int]\nLIMIT = 3\ndef _own(): pass",
        "workbench/b.py": "class Job: pass\ndef Place(): pass\nLIMIT = 4\ndef _own(): pass",
        "pages/c.py": "class Other:\n    def Job(self): pass",
    }
    assert defined_twice(files) == {"Job": ["stir_core/a.py", "workbench/b.py"], "Place": ["stir_core/a.py", "workbench/b.py"]}
