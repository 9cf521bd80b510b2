"""Bundles on a hub: pushed whole after every check, pulled from one commit and checked again before the folder gets its name.

The token comes from ``HF_TOKEN`` and is never written; ``HF_ENDPOINT`` names the hub.
"""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from stir_core.deploy.bundle.manifest import MANIFEST
from stir_core.deploy.bundle.reading import MAX_LIBRARY, MAX_MANIFEST, Bundle, read_bundle, read_manifest
from stir_core.deploy.bundle.untrusted import check_name
from stir_core.deploy.bundle.writing import check_place
from stir_core.errors import DeployError, first_line
from stir_core.store.files import flush_files, name_folder
from stir_core.store.locks import folder_beside

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
MAX_PULLED = MAX_LIBRARY + (256 << 20)
"""Maximum number of bytes to fetch for one bundle."""


class HubPlace(NamedTuple):
    """A bundle's place on a hub."""

    repo: str
    commit: str


def push(folder: Path, repo: str, *, private: bool = True) -> HubPlace:
    """Upload a whole bundle to a repository, which is created if it does not exist.

    Raises:
        DeployError: the bundle is not whole, there is no token, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd

    bundle = read_bundle(folder)
    if not os.environ.get("HF_TOKEN"):
        raise DeployError("pushing needs a token: set HF_TOKEN to one with write access; it is not stored")

    def upload(api: "HfApi") -> str:
        api.create_repo(repo, exist_ok=True, private=private)
        names = [*bundle.manifest.files, MANIFEST]
        changes = [CommitOperationAdd(name, folder / name) for name in names]
        with warnings.catch_warnings():  # a data file in a model repository is intended here
            warnings.filterwarnings("ignore", message=".*you are about to commit a data file")
            # one commit, so that no pull gets half a bundle
            commit = api.create_commit(repo, changes, commit_message=f"STIR library {bundle.manifest.digest}")
        return str(commit.oid)

    return HubPlace(repo, _asked(repo, upload))


def pull(repo: str, folder: Path, *, revision: str = "main") -> tuple[Bundle, HubPlace]:
    """Fetch a bundle, check it, and write it to ``folder``.

    Raises:
        DeployError: no such repository, no bundle in it, a bundle that is not whole, or a folder with other files.
    """
    check_place(folder)

    def fetch(api: "HfApi") -> tuple[Bundle, str]:
        facts = api.model_info(repo, revision=revision, files_metadata=True)
        commit = str(facts.sha)
        sizes = {each.rfilename: each.size or 0 for each in facts.siblings or []}
        if MANIFEST not in sizes:
            raise DeployError(f"{repo} holds no bundle ({MANIFEST} is missing): name a repository that `stir push` made")
        with folder_beside(folder.resolve(), DeployError) as work:
            part = work / "bundle"

            def download(name: str, limit: int) -> None:
                check_name(name, Path(repo))
                if sizes.get(name, 0) > limit:
                    raise DeployError(
                        f"{repo}/{name} has {sizes[name]:,} bytes, more than the {limit:,} that are fetched: name another repository"
                    )
                api.hf_hub_download(repo, name, revision=commit, local_dir=part)

            download(MANIFEST, MAX_MANIFEST)
            manifest = read_manifest(part)
            if sum(fact.size for fact in manifest.files.values()) > MAX_PULLED:
                raise DeployError(f"{repo} holds more than {MAX_PULLED >> 20:,} MB, which no bundle has: name another repository")
            for name, fact in manifest.files.items():
                download(name, fact.size)
            bundle = read_bundle(part)
            shutil.rmtree(part / ".cache", ignore_errors=True)
            flush_files(part)
            check_place(folder)  # again: fetching took a while
            name_folder(part, folder)
            return bundle._replace(folder=folder), commit

    bundle, commit = _asked(repo, fetch)
    return bundle, HubPlace(repo, commit)


def _asked(repo: str, do: "Callable[[HfApi], T]") -> T:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        # token False: without HF_TOKEN, not even a token from a file in the user's home is sent
        return do(HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=os.environ.get("HF_TOKEN") or False))
    except HFValidationError as error:
        raise DeployError(f"{repo!r} is not the name of a repository (NAME/REPO): {first_line(error, 120)}") from None
    except OfflineModeIsEnabled:
        raise DeployError("the hub is switched off (HF_HUB_OFFLINE): unset it to push or pull") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DeployError(
            f"{repo} cannot be reached or refuses ({first_line(error, 160)}): check the name, the network and HF_TOKEN"
        ) from None
