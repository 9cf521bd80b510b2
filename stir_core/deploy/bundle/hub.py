"""A bundle on a hub: pushed whole after every check, pulled from one commit and checked again before it gets its name.

The token comes from ``HF_TOKEN`` and is never written; the hub is the one that ``HF_ENDPOINT`` names.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from stir_core.deploy.bundle.manifest import MANIFEST
from stir_core.deploy.bundle.reading import MAX_LIBRARY, MAX_MANIFEST, Bundle, read_bundle, read_manifest
from stir_core.deploy.bundle.untrusted import check_name
from stir_core.deploy.bundle.writing import check_place
from stir_core.errors import DeployError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
MAX_PULLED = MAX_LIBRARY + (256 << 20)
"""Most bytes that are fetched for one bundle."""


class HubPlace(NamedTuple):
    """Where a bundle lies on a hub."""

    repo: str
    commit: str


def push(folder: Path, repo: str, *, private: bool = True) -> HubPlace:
    """Upload a whole bundle to a repository of yours, which is made where there is none (private, unless you say otherwise).

    Raises:
        DeployError: the bundle is not whole, no token, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd

    bundle = read_bundle(folder)
    if not os.environ.get("HF_TOKEN"):
        raise DeployError("pushing needs a token: set HF_TOKEN to one that may write; it is not kept")

    def upload(api: "HfApi") -> str:
        api.create_repo(repo, exist_ok=True, private=private)
        names = [*bundle.manifest.files, MANIFEST]
        changes = [CommitOperationAdd(name, folder / name) for name in names]
        with warnings.catch_warnings():  # a table beside a model is no mistake here
            warnings.filterwarnings("ignore", message=".*you are about to commit a data file")
            # one commit, so that nobody pulls a half
            done = api.create_commit(repo, changes, commit_message=f"STIR library {bundle.manifest.digest}")
        return str(done.oid)

    return HubPlace(repo, _asked(repo, upload))


def pull(repo: str, folder: Path, *, revision: str = "main") -> tuple[Bundle, HubPlace]:
    """Fetch a bundle, check it, and put it at ``folder``.

    Raises:
        DeployError: no such repository, one without a bundle, a bundle that is not whole, or a folder in use.
    """
    from huggingface_hub import hf_hub_download

    check_place(folder)

    def fetch(api: "HfApi") -> tuple[Bundle, str]:
        facts = api.model_info(repo, revision=revision, files_metadata=True)
        commit = str(facts.sha)
        sizes = {each.rfilename: each.size or 0 for each in facts.siblings or []}
        if MANIFEST not in sizes:
            raise DeployError(f"{repo} holds no bundle ({MANIFEST} is missing): name a repository that `stir push` made")
        with tempfile.TemporaryDirectory(dir=_parent(folder), prefix=f".{folder.name}.") as place:
            part = Path(place) / "bundle"

            def one(name: str, limit: int) -> None:
                check_name(name, Path(repo))
                if sizes.get(name, 0) > limit:
                    raise DeployError(f"{repo}/{name} has {sizes[name]:,} bytes, more than the {limit:,} that are fetched")
                hf_hub_download(repo, name, revision=commit, local_dir=part, token=_token(), endpoint=_endpoint())

            one(MANIFEST, MAX_MANIFEST)
            manifest = read_manifest(part)
            if sum(fact.size for fact in manifest.files.values()) > MAX_PULLED:
                raise DeployError(f"{repo} would fetch more than {MAX_PULLED >> 20:,} MB: that is no bundle")
            for name, fact in manifest.files.items():
                one(name, fact.size)
            bundle = read_bundle(part)
            shutil.rmtree(part / ".cache", ignore_errors=True)
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
            return bundle._replace(folder=folder), commit

    bundle, commit = _asked(repo, fetch)
    return bundle, HubPlace(repo, commit)


def _asked(repo: str, do: "Callable[[HfApi], T]") -> T:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return do(HfApi(endpoint=_endpoint(), token=_token()))
    except HFValidationError as error:
        raise DeployError(f"{repo!r} is not a repository's name (NAME/REPO): {str(error).splitlines()[0][:120]}") from None
    except OfflineModeIsEnabled:
        raise DeployError("the hub is switched off (HF_HUB_OFFLINE): unset it to push or pull") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DeployError(
            f"{repo} cannot be reached or refuses ({first_line(error, 160)}): check the name, the network and HF_TOKEN"
        ) from None


def _token() -> str | bool:
    """The token of the environment, or none at all: not one that lies in a file of the user's."""
    return os.environ.get("HF_TOKEN") or False


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _parent(folder: Path) -> Path:
    parent = folder.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent
