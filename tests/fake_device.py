"""A device that is not there: the CPU computes its tensors, and every transfer between host and device is counted.

As with a GPU, a tensor of the device and one of the host do not mix (but for tensors without dimensions), so code that forgets to move one
fails. Reading a value into Python, the truth of a tensor, and results whose size depends on values (``nonzero``, a mask as an index) wait
for the device; a list as an index is moved there first.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("cuda:7")
MOVES = ("to", "cpu", "cuda")
MADE_OF_VALUES = ("tensor", "as_tensor", "from_numpy")
READS = ("item", "tolist", "numpy", "nonzero", "masked_select", "unique", "equal", "allclose")
READS += ("__bool__", "__int__", "__float__", "__index__", "__contains__")
INDEXES = ("__getitem__", "__setitem__")

COUNTED: list[Counter[str]] = []


def noted(way: str, name: str) -> None:
    """Count a transfer."""
    for counter in COUNTED:
        counter[way] += 1
        counter[f"{way} by {name}"] += 1


class Away(Tensor):
    """A tensor of the device."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", str(function)), kwargs or {}
        mixed = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor) and not isinstance(each, Away) and each.ndim]
        with torch._C.DisableTorchFunctionSubclass():
            if name == "__get__":  # an attribute, known without the device
                return DEVICE if function == Tensor.device.__get__ else function(*args, **kwargs)  # type: ignore[attr-defined]
            if mixed and name != "copy_":
                raise RuntimeError(f"{name} of tensors on the host and on the device")
            target = torch.device("cpu") if name in ("cpu", "numpy") else _device(args, kwargs) or DEVICE
            held, named = tree_map_only(Away, lambda each: each.as_subclass(Tensor), _on_cpu(args, kwargs))
            found = function(*held, **named)
            if name in READS or (name in MOVES and target.type == "cpu"):
                noted("to host", name)
            elif name == "copy_" and mixed:
                noted("to device" if isinstance(args[0], Away) else "to host", name)
            elif name in INDEXES:
                for each in args[1] if isinstance(args[1], tuple) else (args[1],):
                    if isinstance(each, list):
                        noted("to device", "a list as an index")
                    elif isinstance(each, Tensor) and each.dtype == torch.bool:
                        noted("to host", "a mask as an index")
            return found if target.type == "cpu" else tree_map_only(Tensor, lambda each: each.as_subclass(Away), found)


class _Host(TorchFunctionMode):
    """Tensors that are made on the device or moved there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", str(function)), kwargs or {}
        if any(issubclass(each, Away) for each in types):
            return function(*args, **kwargs)
        if name == "pin_memory":
            return args[0]
        target = _device(args, kwargs)
        if target is None or target.type != DEVICE.type:
            return function(*args, **kwargs)
        if name in MOVES + MADE_OF_VALUES:
            noted("to device", name)
        args, kwargs = _on_cpu(args, kwargs)
        return function(*args, **kwargs).as_subclass(Away)


def _device(args: Any, kwargs: Any) -> torch.device | None:
    named = [kwargs["device"]] if kwargs.get("device") is not None else [each for each in args[1:] if isinstance(each, torch.device)]
    return torch.device(named[0]) if named else None


def _on_cpu(args: Any, kwargs: Any) -> tuple[Any, Any]:
    args = tuple(torch.device("cpu") if isinstance(each, torch.device) else each for each in args)
    return args, {key: torch.device("cpu") if key == "device" and value is not None else value for key, value in kwargs.items()}


@contextmanager
def transfers() -> Iterator[Counter[str]]:
    """Inside the block the device can be used. Yields how often values crossed, ``to host`` and ``to device``, and by what."""
    COUNTED.append(Counter())
    try:
        with _Host():
            yield COUNTED[-1]
    finally:
        COUNTED.pop()


def move(module: nn.Module) -> None:
    """Put a module's parameters and buffers on the device."""
    for part in module.modules():
        for name, each in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(each.detach().as_subclass(Away), requires_grad=False))
        for name, each in part.named_buffers(recurse=False):
            setattr(part, name, each.as_subclass(Away))
