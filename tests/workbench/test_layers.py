"""Who may know whom, measured on what is really imported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages in memory after importing ``modules`` in a fresh interpreter."""
    code = f"import {', '.join(modules)}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_of_rooms() -> list[Path]:
    return sorted((ROOT / "workbench").glob("*/*.py"))


def names(files: list[Path]) -> list[str]:
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


def test_data_and_charts_know_neither_streamlit_nor_torch() -> None:
    files = [file for file in modules_of_rooms() if not file.stem.startswith("view")]
    assert not loaded_by(*names(files)) & {"streamlit", "torch", "transformers", "transformer_lens", "umap"}


def test_pages_and_views_do_not_load_torch() -> None:
    views = [file for file in modules_of_rooms() if file.stem.startswith("view")]
    assert not loaded_by(*names(views), "workbench.live", "workbench.bootstrap") & {"torch", "transformers", "transformer_lens", "umap"}


def test_pages_are_short_and_import_only_their_own() -> None:
    for file in sorted((ROOT / "pages").glob("*.py")):
        text = file.read_text()
        assert len(text.splitlines()) <= 80, file
        for line in text.splitlines():
            if line.startswith(("import ", "from ")):
                assert line.startswith(("import streamlit", "from workbench")), (file, line)


def test_no_file_shadows_the_standard_library() -> None:
    """Streamlit puts the folder of app.py before everything: a file or a package there would be found first, a plain folder is not."""
    for file in [*(ROOT / "workbench").glob("*.py"), *(path.parent for path in (ROOT / "workbench").glob("*/__init__.py"))]:
        assert file.stem not in sys.stdlib_module_names or file.stem == "__init__"
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'workbench')!r}); import trace; print(trace.Trace)"
    assert "trace.Trace" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
