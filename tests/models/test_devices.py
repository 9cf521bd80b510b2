"""Blocks on several devices: what runs where, checked with fake tensors, whose operations refuse operands on two devices."""

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, hooks
from torch._subclasses import fake_tensor
from torch.utils import backend_registration
from transformers import LlamaForCausalLM

from stir_core.errors import ModelError
from stir_core.models.lens import direction_logits
from stir_core.models.loading import UNKNOWN_WEIGHTS, LoadedModel, boot, load_model
from stir_core.models.passes import Feed, Pass, forward
from stir_core.models.small import small_llama
from stir_core.models.steering import Impulse
from tests.latent.toys import WORDS

REGISTER = "_setup_privateuseone_for_python_backend"
"""Torch's own name for what makes a kind of device without a library; experimental there."""
FIRST, SECOND = "pretended:0", "pretended:1"


def small() -> Any:
    config = small_llama(WORDS, d_model=16, layers=2, heads=2).config
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def placed(first: Any, second: Any) -> LoadedModel:
    """A small model whose second block, final norm and unembedding lie on a second device."""
    places: dict[str, Any] = {f"model.{part}": first for part in ("embed_tokens", "rotary_emb", "layers.0")}
    places |= {"model.layers.1": second, "model.norm": second, "lm_head": second}
    model = dispatch_model(small(), places, force_hooks=True, main_device=first)
    return boot("placed", model, WORDS, weights_sha256=UNKNOWN_WEIGHTS, device=first)


def passes(model: LoadedModel) -> list[Pass]:
    """Prompts of two lengths, next tokens side by side, and branches of one trunk, with impulses in both blocks, captures and a latent."""
    store, branches = model.new_store(), model.new_store()
    one, two = store.open(), store.open()
    vector = torch.linspace(-1, 1, 16)
    found = [forward(model, [Feed(one, [3, 4, 5], Impulse(1, vector), capture=(2,)), Feed(two, [6, 7])], (0, 1))]
    found.append(
        forward(model, [Feed(one, [8], capture=(0,), mixture=found[0].states[0][1][0]), Feed(two, [9], Impulse(0, vector))], (0, 1))
    )
    forks = [branches.open(one, 2) for _ in range(2)]
    found.append(forward(model, [Feed(fork, [5], Impulse(1, found[0].states[0][0][0])) for fork in forks]))
    return found


def check_placement() -> None:
    """Run passes on fake tensors of two pretended devices; in a process of its own: it registers a kind of device with torch."""

    def moved(module: torch.nn.Module, name: str, device: str, **others: object) -> None:
        """In place of accelerate's own, which makes tensors of a fake's class."""
        path, _, name = name.rpartition(".")
        module = module.get_submodule(path)
        held = getattr(module, name)
        there = held.detach().to(device)
        setattr(module, name, torch.nn.Parameter(there, requires_grad=False) if isinstance(held, torch.nn.Parameter) else there)

    getattr(backend_registration, REGISTER)("pretended")
    hooks.set_module_tensor_to_device = moved
    fake_tensor.CONSTANT_NUMEL_LIMIT = 0  # else operations on single numbers are run
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = placed(FIRST, SECOND)
        assert (str(model.device), model.bridge) == (FIRST, None)
        store = model.new_store()
        forward(model, [Feed(store.open(), [3, 4])])
        assert [str(store.keys(layer).device) for layer in (0, 1)] == [FIRST, SECOND]
        for made in passes(model):
            assert str(made.logits.device) == FIRST
            assert {str(state.device) for states in made.states for state in states.values()} <= {FIRST}
        assert str(direction_logits(model, torch.ones(2, 16)).device) == FIRST
    print("placed")


@pytest.mark.skipif(not hasattr(backend_registration, REGISTER), reason="this torch has no pretended devices")
def test_every_operation_of_a_pass_is_on_one_device() -> None:
    program = "from tests.models.test_devices import check_placement; check_placement()"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert ran.stdout == "placed\n", ran.stderr[-2000:]


def test_hooks_that_move_what_is_read_change_no_number() -> None:
    known = passes(boot("plain", small(), WORDS, weights_sha256=UNKNOWN_WEIGHTS))
    found = passes(placed("cpu", "cpu"))
    assert len(found) == 3
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)
        for ours, theirs in zip(one.states, other.states, strict=True):
            assert ours.keys() == theirs.keys()
            for layer, states in ours.items():
                torch.testing.assert_close(states, theirs[layer], atol=1e-5, rtol=1e-5)


def test_without_a_gpu_blocks_cannot_be_shared_out() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match="torch finds no CUDA device on this machine"):
        load_model("smollm2", device="all")
