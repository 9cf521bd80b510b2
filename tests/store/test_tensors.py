"""Tensor files are checked before they are believed."""

import numpy as np
import pytest

from stir_core.errors import StoreError
from stir_core.store.tensors import read_tensors, write_tensors


@pytest.fixture
def file(tmp_path):
    write_tensors(tmp_path / "t.safetensors", {"keys": np.ones((2, 3), np.float32), "quality": np.ones(2)})
    return tmp_path / "t.safetensors"


def test_round_trip_and_equal_bytes(file, tmp_path):
    assert read_tensors(file)["keys"].tolist() == [[1, 1, 1], [1, 1, 1]]
    write_tensors(tmp_path / "u.safetensors", {"quality": np.ones(2), "keys": np.ones((2, 3), np.float32)})
    assert (tmp_path / "u.safetensors").read_bytes() == file.read_bytes()


def test_a_truncated_file(file):
    for size in (0, 5, 40, file.stat().st_size - 1):
        data = file.read_bytes()[:size]
        cut = file.with_name("cut.safetensors")
        cut.write_bytes(data)
        with pytest.raises(StoreError, match="not a whole safetensors file"):
            read_tensors(cut)


def test_a_pickle_is_not_a_tensor_file(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.")
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


def test_wrong_names_shapes_and_values(file, tmp_path):
    with pytest.raises(StoreError, match='no tensor "vectors", only keys, quality: make or copy it again'):
        read_tensors(file, ("vectors",))
    with pytest.raises(StoreError, match=r'"keys" has shape \[2, 3\], expected \[n, 4\]'):
        read_tensors(file, ("keys",), columns=4)
    write_tensors(tmp_path / "n.safetensors", {"keys": np.array([[1, np.nan]], np.float32)})
    with pytest.raises(StoreError, match="not finite"):
        read_tensors(tmp_path / "n.safetensors")
    with pytest.raises(StoreError, match="does not exist"):
        read_tensors(tmp_path / "none.safetensors")
