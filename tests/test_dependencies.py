"""The dependencies in pyproject.toml are exactly those that the code imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PRODUCT, AROUND = ("stir_core", "workbench", "pages"), ("tests", "scripts", "benchmarks", "notebooks")
INSTALLED = packages_distributions()
ELSEWHERE = {"mkdocs": "mkdocs-material", "llama_cpp": "llama-cpp-python", "latex2mathml": "latex2mathml"}
"""Modules of extras that `make setup` does not install, and mkdocs, a dependency of its theme."""
NEVER_IMPORTED = {
    "pytest-timeout", "pytest-xdist", "pytest-rerunfailures", "pytest-randomly", "beartype", "ruff", "pyright",  # tools and plugins
    "ipykernel",  # the notebooks' kernel
    "mkdocstrings", "mkdocs-material",  # named in mkdocs.yml
}  # fmt: skip
"""Declared, but not imported."""


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\s\[<>=!~;]", each)[0]) for each in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folders: tuple[str, ...]) -> set[str]:
    """Distributions that files of these folders import, without the standard library and the repository itself."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    own = {file.stem for file in (ROOT / "tests").rglob("*.py")} | {folder.name for folder in ROOT.iterdir() if folder.is_dir()}
    tops = {name.split(".")[0] for name in names} - sys.stdlib_module_names - own
    return {normal(ELSEWHERE.get(top) or INSTALLED.get(top, [top])[0]) for top in tops}


def test_the_product_imports_exactly_its_declared_dependencies() -> None:
    extras, product = PROJECT["optional-dependencies"], imported(PRODUCT)
    assert len(product) > 20
    assert product - declared(PROJECT["dependencies"]) == {"llama-cpp-python", "ray", "usearch"}
    assert declared(extras["llamacpp"] + extras["ray"] + extras["usearch"]) == {"llama-cpp-python", "ray", "usearch"}
    assert declared(PROJECT["dependencies"]) - product == set()


def test_tests_scripts_and_benchmarks_import_exactly_their_declared_dependencies() -> None:
    extras = {name for requirements in PROJECT["optional-dependencies"].values() for name in declared(requirements)}
    around = imported(AROUND)
    assert around - extras - declared(PROJECT["dependencies"]) == set()
    assert extras - around - NEVER_IMPORTED <= {"llama-cpp-python", "usearch"}
    assert extras >= NEVER_IMPORTED, "an exception for what is no longer declared"
