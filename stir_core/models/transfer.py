"""Values between host and device, many in one transfer: each of its own would wait for the device, or make it wait.

On the CPU nothing is copied to the host.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the CPU, bit for bit, by one transfer for all of them."""
    if all(each.device.type == "cpu" for each in tensors):
        return list(tensors)
    # the widest numbers first, so that each begins at a multiple of its size
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    parts = [tensors[i].contiguous().view(-1).view(torch.uint8) for i in order]
    found = list(tensors)
    for i, part in zip(order, torch.cat(parts).cpu().split([len(part) for part in parts]), strict=True):
        found[i] = part.view(tensors[i].dtype).view(tensors[i].shape)
    return found


def to_device(numbers: Sequence[Sequence[int]], device: torch.device) -> list[Int[Tensor, "_"]]:
    """Lists of whole numbers on a device, by one transfer for all of them."""
    flat = moved(torch.tensor([number for each in numbers for number in each], dtype=torch.long), device)
    return list(flat.split([len(each) for each in numbers]))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the host does not wait for a GPU to take it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and tensor.device.type == "cpu" else tensor.to(device)
