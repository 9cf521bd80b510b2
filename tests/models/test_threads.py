"""Threads are settled by the entry points of our own processes, and by nothing else."""

import os

import pytest
import torch

from stir_core import cli
from stir_core.models.loading import load_model
from stir_core.models.threads import settle_threads


@pytest.fixture(autouse=True)
def own_threads(monkeypatch):
    """An environment that says nothing of threads, and the threads of before once the test has ended."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "STIR_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever happens to it
        monkeypatch.delenv(name)
    yield
    torch.set_num_threads(before)


def test_loading_a_model_leaves_the_threads_of_the_process_alone(tiny_folder):
    torch.set_num_threads(3)
    load_model(tiny_folder)
    assert torch.get_num_threads() == 3 and "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(("cores", "asked", "expected"), [(8, None, 4), (1, None, 1), (8, "3", 3), (8, "none", 4), (8, "0", 4)])
def test_a_process_takes_half_the_cores_or_the_number_it_is_given(monkeypatch, cores, asked, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    if asked is not None:
        monkeypatch.setenv("STIR_THREADS", asked)
    torch.set_num_threads(2)
    settle_threads()
    assert torch.get_num_threads() == expected and os.environ["OMP_NUM_THREADS"] == str(expected)


def test_a_given_number_of_openmp_threads_is_not_overruled(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("STIR_THREADS", "3")
    torch.set_num_threads(2)
    settle_threads()
    assert torch.get_num_threads() == 2 and os.environ["OMP_NUM_THREADS"] == "5"


def test_the_command_settles_them_and_a_call_from_a_program_does_not(monkeypatch):
    settled = []
    monkeypatch.setattr(cli, "settle_threads", lambda: settled.append(1))
    assert cli.main(["tasks", "--json"]) == 0 and settled == []
    monkeypatch.setattr("sys.argv", ["stir", "tasks", "--json"])
    assert cli.main() == 0 and settled == [1]
