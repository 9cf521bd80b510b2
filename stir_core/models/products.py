"""Compute matrix products with few rows, the bulk of decoding on a CPU, by the fastest kernel for their shape.

Weights are shared with the model (no second copy, no packing). The kernel is chosen by a fixed rule, not by a measurement, so equal runs on
one machine give equal bits. The rule was measured on AMD EPYC, one thread, float32, weights ``[n, k]`` (``benchmarks/RESULTS.md``): the
general matrix product that torch calls there reads weights at 10 GB/s for one row and at half of that for five, while the same product
transposed reads them at 20 GB/s for two rows and is faster up to eight rows if k is small; for more rows oneDNN is fastest.

The rule applies only where it was measured: float32 on an AMD CPU, if torch has the (private) operation. Elsewhere, and in every
reference pass, ``nn.Linear``'s own product is computed. There is no setting for it: without it single-row products run at half the speed,
and kernels round differently, so a run resumed under another setting would not give equal bits.
"""

import functools
import inspect
from pathlib import Path

import torch
from torch import Tensor, nn


class Product(nn.Module):
    """``nn.Linear`` over the same parameters; the rule is for packed tokens ``[1, tokens, k]``, other shapes (experts, heads) are left."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.plain = False
        """Compute exactly what ``nn.Linear`` computes."""

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        if self.plain or x.ndim != 3 or x.shape[0] != 1 or x.requires_grad or not _ruled(x.device.type, x.dtype):
            return nn.functional.linear(x, self.weight, self.bias)
        rows = x[0]
        m, k = rows.shape
        if m <= 2 or (m <= 8 and k <= 1024):
            # a single row is doubled, since two columns take half the time of one
            out = torch.mm(self.weight, (rows if m > 1 else torch.cat((rows, rows))).t())[:, :m].t().contiguous()
            return (out if self.bias is None else out + self.bias)[None]
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")[None]


class Norm(nn.Module):
    """A root-mean-square norm in one call instead of eight, over the same parameter."""

    def __init__(self, original: nn.Module, epsilon: float):
        super().__init__()
        self.weight: nn.Parameter = original.weight  # type: ignore[assignment]
        self.epsilon = epsilon
        self.plain = False
        """Compute exactly what the original computes."""
        self._original = (original,)  # in a tuple, so that torch does not register it as a second child with the same parameter

    def forward(self, x: Tensor) -> Tensor:
        """``x / rms(x) * weight``."""
        if self.plain:
            return self._original[0](x)
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


def install(model: nn.Module) -> list[Product | Norm]:
    """Replace every ``nn.Linear`` and every root-mean-square norm of the tree, sharing the parameters; returns all replacements in it.

    A module whose ``forward`` was replaced stays: it does more, such as moving what it reads to its own device.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if "forward" in vars(child):
                continue
            replacement = Product(child) if type(child) is nn.Linear else _norm(child)
            if replacement is not None:
                setattr(parent, name, replacement)
    return [module for module in model.modules() if isinstance(module, Product | Norm)]


def _norm(module: nn.Module) -> Norm | None:
    """A replacement for a norm, or ``None`` if the module computes something else (some add 1 to the weight, some centre)."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, nn.Parameter) or weight.ndim != 1 or not isinstance(epsilon, float) or len(list(module.parameters())) != 1:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:  # a gated norm takes the gate, too
        return None
    probe = torch.linspace(-3, 2, weight.shape[0], dtype=weight.dtype, device=weight.device)[None]
    norm = Norm(module, epsilon)
    with torch.inference_mode():
        same = torch.allclose(norm(probe), module(probe), rtol=1e-5 if weight.dtype == torch.float32 else 2e-2, atol=1e-6)
    return norm if same else None


@functools.cache
def _ruled(device: str, dtype: torch.dtype) -> bool:
    """Whether the rule applies: float32 on an AMD CPU, for which the library that torch calls (Intel's MKL) is not tuned."""
    if device != "cpu" or dtype != torch.float32 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text(errors="replace")
