"""Put trained latent reasoners into the package: ``python -m scripts.shipped_latents FOLDER ...``

Each is kept in half precision, so that none is larger than 2 MB; it is evaluated as it is shipped, and what is read of the page's first
problem is kept beside it, so that the page opens without loading it.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stir_core.evaluate.latent_readings import read_latents
from stir_core.evaluate.latents import evaluate_latents
from stir_core.latent.training import HEADS, load_reasoner
from stir_core.store.jsonl import write_record
from stir_core.store.latents import READING, REPORT, SHIPPED
from workbench.latents.data import FIRST

WEIGHTS = ("model.safetensors", HEADS)
BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
TRAINING = ("training.json", "training.jsonl")
PROBLEMS = 200
"""Of each number of operations, for the evaluation."""


def ship(folder: Path) -> Path:
    """Copy a reasoner into the package, with its evaluation and its first reading."""
    target = SHIPPED / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for name in (*BESIDE, *TRAINING):
        shutil.copyfile(folder / name, target / name)
    for name in WEIGHTS:
        weights = {key: value.half() if value.is_floating_point() else value for key, value in load_file(folder / name).items()}
        save_file(weights, target / name, metadata={"format": "pt"})
    write_record(target / REPORT, evaluate_latents(target, n=PROBLEMS, probes=True))
    write_record(target / READING, read_latents(load_reasoner(target), FIRST))
    return target


if __name__ == "__main__":
    torch.set_num_threads(1)
    for given in sys.argv[1:]:
        print(ship(Path(given)), flush=True)
