"""Push and pull, through the real client, against a hub that is a dictionary behind a local port."""

import base64
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import pytest

from stir_core.cli import main
from stir_core.deploy.bundle.hub import pull, push
from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.export import export
from stir_core.errors import DeployError
from tests.curated_run import curated_run

COMMIT = "c0" * 20
TOKEN = "hf_secret_of_mara"


class Hub(ThreadingHTTPServer):
    """What one repository holds, and who asked for it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.private: list[bool] = []
        self.tokens: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.server.tokens.add(self.headers.get("authorization"))
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **{key.replace("_", "-"): text for key, text in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def told(self, facts: Any) -> None:
        self.answer(json.dumps(facts).encode(), content_type="application/json")

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if re.fullmatch(r"/api/models/mara/lib/revision/\w+", path):
            files = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            return self.told({"_id": "1", "id": "mara/lib", "sha": COMMIT, "siblings": files, "tags": [], "downloads": 0, "private": True})
        data = self.server.files.get(path.rpartition("/")[2])
        if path.startswith(f"/mara/lib/resolve/{COMMIT}/") and data is not None:
            return self.answer(data, etag=f'"{hash(data):x}"', x_repo_commit=COMMIT, accept_ranges="bytes")
        return self.answer(b'{"error": "Repository not found"}', 404, x_error_code="RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        else:
            body = self.rfile.read(length)
        if self.path.endswith("/repos/create"):
            asked = json.loads(body)
            self.server.private.append(asked.get("private", asked.get("visibility") == "private"))
            return self.told({"url": f"http://127.0.0.1:{self.server.server_port}/mara/lib", "id": "mara/lib"})
        if "/preupload/" in self.path:
            return self.told(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]}
            )
        if "/commit/" in self.path:
            for line in filter(None, body.splitlines()):
                change = json.loads(line)
                if change["key"] == "file":
                    self.server.files[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
            return self.told(
                {"commitUrl": f"http://127.0.0.1:{self.server.server_port}/mara/lib/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        return self.told({"errors": [], "warnings": []})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(curated_run(tmp_path), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_what_is_pulled_is_what_was_pushed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    assert push(folder, "mara/lib").commit == COMMIT
    assert hub.private == [True] and f"Bearer {TOKEN}" in hub.tokens
    bundle, place = pull("mara/lib", tmp_path / "pulled")
    assert place.commit == COMMIT and bundle.manifest == read_bundle(folder).manifest
    names = sorted(file.name for file in folder.iterdir())
    assert sorted(file.name for file in (tmp_path / "pulled").iterdir()) == names
    for name in names:
        assert (tmp_path / "pulled" / name).read_bytes() == (folder / name).read_bytes()
        assert TOKEN.encode() not in (folder / name).read_bytes()


def test_the_commands_say_where_it_lies_and_what_it_is(hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["push", str(folder), "mara/lib", "--public"]) == 0
    assert capsys.readouterr().out == f"mara/lib at {COMMIT}\n" and hub.private == [False]
    assert main(["pull", "mara/lib", "--out", str(tmp_path / "pulled")]) == 0
    assert f"mara/lib at {COMMIT}\n{tmp_path / 'pulled'}: bundle " in capsys.readouterr().out
    assert main(["pull", "mara/lib", "--out", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == read_bundle(folder).manifest.digest
    hub.files["manifest.json"] = b"{}"
    assert main(["pull", "mara/lib", "--out", str(tmp_path / "third")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "third").exists()


def test_a_repository_that_somebody_tampered_with_leaves_nothing_behind(hub: Hub, folder: Path, tmp_path: Path) -> None:
    push(folder, "mara/lib")
    hub.files["library.safetensors"] = hub.files["library.safetensors"][:-4] + b"\0\0\0\1"
    with pytest.raises(DeployError, match=r"library.safetensors is not the file that its manifest names"):
        pull("mara/lib", tmp_path / "pulled")
    hub.files["library.safetensors"] += b"\0" * 100
    with pytest.raises(DeployError, match="more than the"):
        pull("mara/lib", tmp_path / "pulled")
    del hub.files["manifest.json"]
    with pytest.raises(DeployError, match="holds no bundle"):
        pull("mara/lib", tmp_path / "pulled")
    names = {place.name for place in tmp_path.iterdir() if place.suffix != ".lock"}
    assert names <= {"bundle", "run", "cache"}


def test_refusals_are_one_line(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeployError, match="cannot be reached or refuses") as error:
        pull("mara/other", tmp_path / "pulled")
    assert "\n" not in str(error.value) and TOKEN not in str(error.value)
    with pytest.raises(DeployError, match="not the name of a repository"):
        pull("a b/c/d", tmp_path / "pulled")
    (folder / "README.md").write_text("changed")
    with pytest.raises(DeployError, match=r"README\.md"):
        push(folder, "mara/lib")
    assert hub.files == {}
    export(curated_run(tmp_path, "other"), folder)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(DeployError, match="set HF_TOKEN"):
        push(folder, "mara/lib")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DeployError, match="switched off"):
        pull("mara/lib", tmp_path / "pulled")
