"""The import rules, checked on the syntax trees of the product.

docs/architecture.md explains them. This file imports nothing of the product.
"""

import ast
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("stir_core", "workbench", "pages")

# A folder imports from lower floors only. Folders of one floor do not import each other, except on the ground floor.
FLOORS = (
    (
        "errors",
        "records",
        "findings",
        "requests",
        "responses",
        "seeding",
        "keyspace",
        "policies",
        "config",
        "curation",
        "readings",
        "saved",
        "version",
    ),
    ("store", "tasks"),
    ("models",),
    ("harvest", "basis", "intervene", "organisms", "latent"),
    ("evaluate", "deploy"),
    ("stages",),
    ("calibration",),
    ("commands", "api"),
    ("cli",),
    ("__main__",),
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

# Modules that a file may not import, directly or through other files of the product at load time.
MODEL_FREE = ("stir_core/basis/*", "stir_core/intervene/gate.py", "stir_core/evaluate/stat*", "stir_core/evaluate/probe.py")
MODEL_FREE += ("stir_core/tasks/segment.py", "stir_core/tasks/grading.py", "stir_core/tasks/extract.py")
NEVER = {pattern: ("transformers", "transformer_lens", "stir_core.models") for pattern in MODEL_FREE}
NEVER |= {"stir_core/*": ("streamlit", "workbench", "pages")}
MODELS = ("torch", "transformer_lens", "stir_core.models", "stir_core.intervene.controller")
CHARTS = ("plotly", "altair")
COLLECTS = "workbench/report/"
"""The report is made of all pages: it reads the data and the charts of their folders, and draws nothing on a page that they draw."""

UNSAFE_IMPORTS = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
UNSAFE_CALLS = ("eval", "exec", "torch.load", "pd.read_pickle", "pandas.read_pickle")
TENSOR_READERS = ("stir_core/deploy/targets/published.py",)
"""The only file that may read torch files, with weights_only=True: the published layout stores its vectors in them."""
COPIES = ("model_copy", "model_construct")
"""pydantic methods that skip validation: use config.with_changes for settings and Record.replaced for records."""
BORDERS = ("stir_core/cli.py", "stir_core/tasks/algebra.py")  # the latter calls a parser that raises bare exceptions
BROAD = ("Exception", "BaseException")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """Every file of the product, by path."""
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for top in PRODUCT for path in (ROOT / top).rglob("*.py")}


def test_there_are_no_import_circles(files: dict[str, str]) -> None:
    assert circles(files) == []


def test_an_import_circle_is_detected() -> None:
    files = {
        "stir_core/models/cost.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from stir_core.models.passes import Feed",
        "stir_core/models/passes.py": "from stir_core.models import loading",
        "stir_core/models/loading.py": "def f():\n    from .cost import Shape",
        "stir_core/models/lens.py": "from stir_core.models.passes import forward",
    }
    assert circles(files) == sorted(files.keys() - {"stir_core/models/lens.py"})
    assert circles(files | {"stir_core/models/loading.py": "from .lenses import Shape"}) == []


def test_the_product_follows_the_rules(files: dict[str, str]) -> None:
    assert len(files) > 20
    assert [line for path, source in files.items() for line in [*violations(path, source), *carried_in(path, files)]] == []


def never(path: str) -> tuple[str, ...]:
    """Modules that a file may not load. In a folder of the workbench only ``view*`` imports streamlit, and data modules no charts."""
    names = [name for pattern, banned in NEVER.items() if fnmatch(path, pattern) for name in banned]
    if fnmatch(path, "workbench/*/*") and not fnmatch(path, "workbench/*/view*"):
        names += ["streamlit", *MODELS]
        names += () if fnmatch(path, "workbench/*/charts*") or path.startswith(COLLECTS) else CHARTS
    return tuple(names)


def test_benchmarks_alter_settings_with_validation() -> None:
    refusals = [
        refused_node(path.name, node) for path in (ROOT / "benchmarks").glob("*.py") for node in ast.walk(parsed(path.read_text("utf-8")))
    ]
    assert [why for why in refusals if why and "with_changes" in why] == []


def violations(path: str, source: str) -> list[str]:
    """Violations of one file, each as ``path:line what``."""
    tree = parsed(source)
    early = set(imports(path, tree, eager=True))
    refusals = [(line, why) for line, name in imports(path, tree) if (why := refused_import(path, name, early=(line, name) in early))]
    refusals += [(getattr(node, "lineno", 0), why) for node in ast.walk(tree) if (why := refused_node(path, node))]
    return [f"{path}:{line} {why}" for line, why in sorted(refusals)]


def refused_import(path: str, name: str, *, early: bool) -> str | None:
    """Why this file may not import this name, or None; ``early``: at load time."""
    top, *rest = path.removesuffix(".py").split("/")
    if top in ("workbench", "pages") and (reason := refused_room(path, name)):
        return reason
    if within(name, "transformer_lens") and not path.startswith("stir_core/models/"):
        return "imports transformer_lens, which only stir_core/models may"
    if within(name, *UNSAFE_IMPORTS):
        return f"imports {name}: no pickle anywhere"
    if top == "pages" and not within(name, "streamlit", "workbench"):
        return f"imports {name}: a page imports streamlit and workbench only"
    if within(name, *never(path)):
        return f"imports {name}"
    if fnmatch(path, "workbench/*/view*") and within(name, *CHARTS):
        return f"imports {name}: charts are drawn in charts*"
    if top != "stir_core" or not name.startswith("stir_core."):
        return None
    here, there = rest[0], name.split(".")[1]
    if here == "__init__":  # it imports public names for type checkers, and at run time only when they are used
        return f"imports {name}: importing the package costs nothing" if early and there != "version" else None
    for room in (here, there):
        if room not in HEIGHT:
            return f"meets {room}, which is on no floor of FLOORS"
    if here == there or HEIGHT[there] < HEIGHT[here] or HEIGHT[there] == HEIGHT[here] == 0:
        return None
    return f"imports {name}: {here} may not import {there}"


def refused_room(path: str, name: str) -> str | None:
    """Why a file of the workbench may not import this: a page's folder belongs to its page, and ``shared`` to all pages."""
    top, *rest = path.removesuffix(".py").split("/")
    own = rest[0] if top == "pages" or len(rest) > 1 else None
    parts = name.split(".")
    if len(parts) < 2 or parts[0] != "workbench" or not (ROOT / "workbench" / parts[1]).is_dir() or parts[1] in (own, "shared"):
        return None
    if path.startswith(COLLECTS) and len(parts) > 2 and not parts[2].startswith("view"):
        return None
    return f"imports {name}: shared code belongs in workbench/shared"


def refused_node(path: str, node: ast.AST) -> str | None:
    """Why this file may not contain this syntax node, or None."""
    if isinstance(node, ast.ExceptHandler) and path not in BORDERS:
        caught = [None] if node.type is None else [ast.unparse(each) for each in getattr(node.type, "elts", [node.type])]
        return "catches everything" if any(each is None or each in BROAD for each in caught) else None
    if isinstance(node, ast.Attribute) and node.attr in ("session_state", "query_params") and path != "workbench/session.py":
        return f"reads {node.attr}, which only workbench/session.py may" if path.startswith(("workbench/", "pages/")) else None
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and not path.startswith("stir_core/models/"):
        return "names the module transformer_lens in a string" if within(node.value, "transformer_lens") else None
    if isinstance(node, ast.Attribute) and node.attr in COPIES and path != "stir_core/records.py":
        return f"uses {node.attr}, which skips validation: use with_changes for settings, replaced for records"
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    tensors_only = (
        called == "torch.load"
        and path in TENSOR_READERS
        and any(word.arg == "weights_only" and getattr(word.value, "value", False) is True for word in node.keywords)
    )
    if (called in UNSAFE_CALLS and not tensors_only) or called.endswith(".to_pickle"):
        return f"calls {called}"
    if any(word.arg == "allow_pickle" and getattr(word.value, "value", True) is not False for word in node.keywords):
        return "allows pickle"
    if called.endswith("suppress") and any(ast.unparse(each) in BROAD for each in node.args) and path not in BORDERS:
        return "suppresses everything"
    return None


def carried_in(path: str, files: Mapping[str, str]) -> list[str]:
    """Forbidden modules that a file loads through the module-level imports of other files of the product."""
    banned = never(path)
    seen, queue, carried = {path}, [path], []
    while banned and queue:
        place = queue.pop()
        for _, name in imports(place, parsed(files[place]), eager=True):
            if within(name, *banned) and place != path:
                carried.append(f"{path} loads {name} through {place}")
            parts = name.split(".")
            prefixes = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]  # importing a module also loads its package's __init__
            fresh = {file for prefix in prefixes for file in (f"{prefix}.py", f"{prefix}/__init__.py") if file in files} - seen
            seen |= fresh
            queue += sorted(fresh)
    return carried


def imports(path: str, tree: ast.AST, *, eager: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import; ``eager``: only imports at load time."""
    package = path.split("/")[:-1]
    stack = [tree]
    while stack:
        node = stack.pop()
        if eager and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(node)):
            continue
        stack += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__") and node.args:
            yield node.lineno, str(getattr(node.args[0], "value", "a name that is computed"))


def circles(files: Mapping[str, str]) -> list[str]:
    """Files that import each other, directly or indirectly; imports inside functions and for types count too."""
    known = {path: set(filter(None, (file_of(name, files) for _, name in imports(path, parsed(source))))) for path, source in files.items()}
    after: dict[str, set[str]] = {}
    for path in files:
        after[path], queue = set(), [path]
        while queue:
            fresh = known[queue.pop()] - after[path]
            after[path] |= fresh
            queue += fresh
    return sorted(path for path in files if path in after[path])


def file_of(name: str, files: Mapping[str, str]) -> str | None:
    """The file of an imported module, or of the module that defines an imported name."""
    module = name.replace(".", "/")
    parent = module.rpartition("/")[0]
    return next((file for place in (module, parent) for file in (f"{place}.py", f"{place}/__init__.py") if file in files), None)


@cache
def parsed(source: str) -> ast.AST:
    """The syntax tree of a file, cached because every file that loads it needs it."""
    return ast.parse(source)


def is_for_types(node: ast.AST) -> bool:
    """True for ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def within(name: str, *modules: str) -> bool:
    """True if a dotted name is one of the modules or inside one."""
    return any(name == module or name.startswith(module + ".") for module in modules)


@pytest.mark.parametrize(
    ("path", "source", "what"),
    [
        ("stir_core/store/runs.py", "from stir_core.models.loading import load", "store may not import models"),
        ("stir_core/store/runs.py", "from stir_core import models", "store may not import models"),
        ("stir_core/store/runs.py", "from ..tasks import registry", "store may not import tasks"),
        ("stir_core/harvest/states.py", "def f():\n    import stir_core.basis.selection", "harvest may not import basis"),
        ("stir_core/evaluate/paired.py", "from stir_core.stages.pipeline import run_stages", "evaluate may not import stages"),
        ("stir_core/config.py", "from stir_core.store import runs", "config may not import store"),
        ("stir_core/store/runs.py", "from stir_core import __version__", "__version__, which is on no floor"),
        ("stir_core/attic.py", "from stir_core.errors import StirError", "attic, which is on no floor"),
        ("stir_core/__init__.py", "from stir_core.records import Trace", "costs nothing"),
        ("stir_core/api.py", "from stir_core.commands.console import table", "api may not import commands"),
        ("stir_core/cli.py", "import workbench.app", "imports workbench.app"),
        ("stir_core/harvest/states.py", "import transformer_lens", "only stir_core/models may"),
        ("stir_core/harvest/states.py", "from importlib import import_module\nimport_module('transformer_lens.tools')", "transformer_lens"),
        ("workbench/live.py", "NAME = 'transformer_lens.model_bridge'", "in a string"),
        ("stir_core/basis/geometry.py", "from transformers import AutoModel", "imports transformers"),
        ("stir_core/intervene/gate.py", "from stir_core.models import steering", "imports stir_core.models"),
        ("workbench/gates/data.py", "def f():\n    import torch", "imports torch"),
        ("workbench/gates/data.py", "import altair as alt", "imports altair"),
        ("workbench/gates/view.py", "from workbench.trace.data import document", "belongs in workbench/shared"),
        ("workbench/shared/view_gate.py", "from workbench.gates import data", "belongs in workbench/shared"),
        ("workbench/session.py", "from workbench.gates import data", "belongs in workbench/shared"),
        ("pages/gates.py", "from workbench.trace import view", "belongs in workbench/shared"),
        ("workbench/report/document.py", "from workbench.gates.view import gate_form", "belongs in workbench/shared"),
        ("workbench/gates/view.py", "from workbench.report.figures import run_figures", "belongs in workbench/shared"),
        ("workbench/gates/view.py", "import streamlit as st\nst.session_state['a'] = 1", "only workbench/session.py may"),
        ("workbench/gates/charts.py", "import streamlit as st", "imports streamlit"),
        ("workbench/gates/view_map.py", "import plotly.graph_objects as go", "charts are drawn in charts*"),
        ("pages/home.py", "from stir_core.errors import StirError", "a page imports"),
        ("stir_core/store/runs.py", "import pickle", "no pickle"),
        ("stir_core/store/runs.py", "import torch\ntorch.load('x')", "calls torch.load"),
        ("stir_core/store/runs.py", "torch.load('x', weights_only=False)", "calls torch.load"),
        ("stir_core/store/runs.py", "torch.load('x', weights_only=True)", "calls torch.load"),
        ("stir_core/deploy/targets/published.py", "torch.load('x', weights_only=False)", "calls torch.load"),
        ("stir_core/deploy/targets/published.py", "torch.load('x', weights_only=flag)", "calls torch.load"),
        ("stir_core/store/runs.py", "np.load('x', allow_pickle=flag)", "allows pickle"),
        ("workbench/live.py", "eval('1')", "calls eval"),
        ("stir_core/evaluate/causal.py", "gate.model_copy(update={'k_scale': -1})", "uses model_copy"),
        ("pages/home.py", "exec('1')", "calls exec"),
        ("workbench/live.py", "try:\n    f()\nexcept:\n    raise", "catches everything"),
        ("workbench/live.py", "try:\n    f()\nexcept (OSError, Exception):\n    raise", "catches everything"),
        ("stir_core/models/loading.py", "with contextlib.suppress(BaseException):\n    f()", "suppresses everything"),
    ],
)
def test_a_violation_is_detected(path: str, source: str, what: str) -> None:
    seen = violations(path, source)
    assert len(seen) >= 1
    assert what in seen[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("stir_core/harvest/states.py", "from stir_core.models import passes\nfrom stir_core.version import VERSION\nfrom . import pairs"),
        ("stir_core/config.py", "from stir_core.errors import ConfigError"),
        ("stir_core/__init__.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from stir_core.api import steer"),
        ("stir_core/api.py", "from stir_core.stages.pipeline import run_stages"),
        ("stir_core/models/loading.py", "from transformer_lens.model_bridge import TransformerBridge\nmodel.eval()"),
        ("stir_core/cli.py", "from stir_core.stages import pipeline\ntry:\n    f()\nexcept Exception:\n    pass"),
        ("workbench/gates/data.py", "from stir_core.store.runs import Run\nnp.load('x', allow_pickle=False)"),
        ("stir_core/deploy/targets/published.py", "torch.load('x', weights_only=True)"),
        ("workbench/session.py", "import streamlit as st\nst.session_state.get('a')"),
        ("workbench/gates/view.py", "from workbench.gates.data import scales\nfrom workbench.shared.text import plain"),
        ("workbench/report/document.py", "from workbench.gates.data import outcome\nfrom workbench.causal import charts"),
        ("pages/home.py", 'import streamlit as st\nfrom workbench import session\nst.write("Runs on transformer_lens")'),
    ],
)
def test_allowed_code_is_not_reported(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_a_violation_through_another_file_is_detected() -> None:
    files = {
        "workbench/gates/data.py": "from stir_core.intervene.gate import decide",
        "stir_core/intervene/__init__.py": "from stir_core.intervene import memory",
        "stir_core/intervene/gate.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch",
        "stir_core/intervene/memory.py": "import torch.nn",
    }
    assert carried_in("workbench/gates/data.py", files) == ["workbench/gates/data.py loads torch.nn through stir_core/intervene/memory.py"]
    assert carried_in("workbench/gates/data.py", files | {"stir_core/intervene/__init__.py": ""}) == []


UNDERSCORED = {"_replace", "_actions", "_SubParsersAction", "_forward_hooks"}
"""Underscored names of named tuples, argparse and torch that have no public equivalent."""
REACHED = {
    "tests/fake_device.py": {"_C"},  # torch shows what runs a function without its subclass there only
    "tests/intervene/test_controller.py": {"_preview_to_keep"},  # disables reuse of previews, for comparison
}
"""Private names that a test may use, because there is no public way to test the behaviour."""


def private_names(source: str) -> set[str]:
    """Underscored names that a test imports, reads as attributes, or patches by string."""
    taken: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            taken |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            taken.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "patch.object", "patch")):
            taken |= {part for word in node.args if isinstance(word, ast.Constant) for part in str(word.value).split(".")}
    return {name for name in taken if name.startswith("_") and not name.startswith("__")}


def test_tests_use_public_names() -> None:
    files = {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in (ROOT / "tests").rglob("*.py")}
    assert len(files) > 100
    assert {path: own for path, text in files.items() if (own := private_names(text) - UNDERSCORED - REACHED.get(path, set()))} == {}


def test_a_private_name_is_detected() -> None:
    assert private_names("from stir_core.cli import _parser") == {"_parser"}
    assert private_names("cli._parser().parse_args()\nself._own = point.__dict__") == {"_parser"}
    assert private_names("monkeypatch.setattr(causal, '_force', silent)\nmonkeypatch.setattr('a.b._limit', 1)") == {"_force", "_limit"}
