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


def names(folder: str) -> list[str]:
    return [f"workbench.{folder}.{file.stem}" for file in sorted((ROOT / "workbench" / folder).glob("*.py")) if file.stem != "__init__"]


def test_services_and_figures_know_neither_streamlit_nor_torch() -> None:
    assert not loaded_by(*names("services"), *names("figures")) & {"streamlit", "torch", "transformers", "transformer_lens", "umap"}


def test_pages_and_components_do_not_load_torch() -> None:
    assert not loaded_by(*names("components"), "workbench.live", "workbench.bootstrap") & {
        "torch",
        "transformers",
        "transformer_lens",
        "umap",
    }


def test_pages_are_short_and_import_only_their_own() -> None:
    for file in sorted((ROOT / "pages").glob("*.py")):
        text = file.read_text()
        assert len(text.splitlines()) <= 80, file
        for line in text.splitlines():
            if line.startswith(("import ", "from ")):
                assert line.startswith(("import streamlit", "from workbench")), (file, line)


def test_no_file_shadows_the_standard_library() -> None:
    for file in (ROOT / "workbench").glob("*.py"):
        assert file.stem not in sys.stdlib_module_names or file.stem == "__init__"
