"""Matrix products with few rows, the bulk of decoding on a CPU, by the kernel that is fastest for their shape.

Weights stay where and as they are (no second copy, no packing). The choice is a fixed rule, never a measurement, so equal runs on one
machine give equal bits. Measured on AMD EPYC, one thread, float32, weights ``[n, k]`` (``benchmarks/RESULTS.md``): the general product that
torch calls there reads weights at 10 GB/s for one row and half of that for five, while the same product transposed reads them at 20 GB/s
for two rows, and oneDNN's is ahead from about six on.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn


class Product(nn.Module):
    """``nn.Linear`` over the same parameters, for packed tokens ``[1, tokens, k]``."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.plain = False
        """Compute exactly what ``nn.Linear`` computes."""

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        if self.plain or x.shape[0] != 1 or x.requires_grad or not _ruled(x.device.type, x.dtype):
            return nn.functional.linear(x, self.weight, self.bias)
        rows = x[0]
        m, (n, k) = rows.shape[0], self.weight.shape
        if m <= 2 or (m <= 5 and n > 2 * k):
            # one row is doubled: two columns cost half of what one does
            out = torch.mm(self.weight, (rows if m > 1 else torch.cat((rows, rows))).t())[:, :m].t()
            return (out if self.bias is None else out + self.bias)[None]
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")[None]


def install(model: nn.Module) -> list[Product]:
    """Replace every ``nn.Linear`` of the tree, sharing its parameters; gives the replacements."""
    made: list[Product] = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                made.append(Product(child))
                setattr(parent, name, made[-1])
    return made


@functools.cache
def _ruled(device: str, dtype: torch.dtype) -> bool:
    """Whether the rule above was measured to hold: float32 on an x86 CPU whose maker is not the one that torch's library is tuned for."""
    if device != "cpu" or dtype != torch.float32 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text(errors="replace")
