"""Runtime checks of annotations in tests: shapes where a signature has arrays, types alone everywhere else.

jaxtyping's import hook wraps every function so that shapes agree between its arguments. Most functions of the step loop have no array in
their signature, so there is nothing to agree, and the wrapper costs more than they do: those get the type checker alone.
"""

import inspect
from typing import Any

import jaxtyping

_with_shapes = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Any) -> Any:
    """What the import hook decorates a function or class with."""

    def decorate(defined: Any) -> Any:
        annotations = getattr(defined, "__annotations__", {}).values()
        # a name in quotes may be one that only the static checker imports, which jaxtyping passes over
        if inspect.isfunction(defined) and not any(isinstance(each, str) or "jaxtyping" in repr(each) for each in annotations):
            return typechecker(defined)
        return _with_shapes(typechecker=typechecker)(defined)

    return decorate


def install() -> None:
    """Take the place of jaxtyping's decorator; call it before anything of the product is imported."""
    jaxtyping.jaxtyped = jaxtyped
