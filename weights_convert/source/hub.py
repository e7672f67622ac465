"""Weights on the Hugging Face hub: timm's, and what `jtl publish` put there.

The hub's own client does the work, so its settings hold: HF_HOME and HF_HUB_CACHE (where
files are kept), HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN. What this module adds is an answer
within seconds when there is no network, where the client alone retries for half a minute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import queue
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl import models
from jtl.common.errors import UserError, first_line, suggest
from weights_convert.printable import shown

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

# Seconds for the hub's first answer, unless HF_HUB_ETAG_TIMEOUT asks for others.
_PATIENCE = 5.0
_OTHER_WAYS = (
    "Give the path of a file instead (model.safetensors from the model's page on the hub, or a "
    ".pth file), or point HF_HOME at a folder whose cache holds it."
)
_OTHER_FOLDER = (
    "Give the path of a folder with the repository's files instead, or point HF_HOME at a folder "
    "whose cache holds it."
)


class Unavailable(UserError):
    """Weights on the hub that cannot be had."""


@dataclasses.dataclass(frozen=True)
class HubFile:
    """A checkpoint in the hub's local cache.

    Attributes:
        path: The .safetensors file.
        config: The model's config.json, with timm's `pretrained_cfg` within; empty where it
            could not be had.
        revision: The commit that the file belongs to.
        without_config: Why there is no config.json, in words; None if there is one.
    """

    path: Path
    config: dict[str, Any]
    revision: str
    without_config: str | None = None


def fetch(name: str, revision: str | None = None) -> HubFile:
    """Finds timm's checkpoint `name` in the hub's local cache, or downloads it.

    A cached file is taken as it is, without asking whether the hub has a newer one.

    Args:
        name: Model and tag as timm writes them, `resnet50.a1_in1k`.
        revision: A branch, tag or commit; default the hub's main branch.

    Raises:
        UserError: The name is unknown, access is refused, or the hub cannot be reached.
    """
    repo = f"timm/{name}"
    weights = _cached(repo, WEIGHTS, revision)
    was_cached = weights is not None
    if weights is None:
        try:
            weights = _download(repo, WEIGHTS, revision)
        # The client's transport has changed its exceptions' types between versions.
        except Exception as error:
            raise _explained(error, repo, revision) from error
    _check_body(weights, repo)
    # The cache has one folder per commit; both files must come from the same.
    commit = weights.parent.name
    config = _cached(repo, CONFIG, commit)
    without = None
    if config is None:
        try:
            config = _download(repo, CONFIG, commit)
        except Exception as error:  # As above.
            without = _without_config(error, name, was_cached)
    return HubFile(weights, {} if config is None else _parsed(config), commit, without)


def fetch_files(repo: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Finds files of a repository in the hub's local cache, or downloads them.

    Cached files are taken as they are, without asking whether the hub has newer ones.

    Args:
        repo: USER/NAME.
        files: Names of files.
        revision: A branch, tag or commit; default the hub's main branch.

    Returns:
        The folder of one commit in the cache, in which all of them are.

    Raises:
        UserError: One is missing, access is refused, or the hub cannot be reached.
    """
    folder = None
    for name in files:
        found = _cached(repo, name, revision)
        if found is None:
            try:
                found = _download(repo, name, revision)
            except Exception as error:  # As in `fetch`.
                raise _explained(error, repo, revision, name) from error
        _check_body(found, repo)
        # The cache has one folder per commit; all files must come from the same.
        folder = found.parent
        revision = folder.name
    assert folder is not None
    return folder


def is_cached(name: str) -> bool:
    """Whether timm's checkpoint `name` is in the hub's local cache."""
    return _cached(f"timm/{name}", WEIGHTS, None) is not None


def reachable() -> bool:
    """Whether the hub answers, asked once."""
    example = known_names()[0]
    return _ask(f"timm/{example}", CONFIG, None) is None


def _without_config(error: Exception, name: str, was_cached: bool) -> str:
    """Why a model comes without its config.json, if that is no reason to stop."""
    usual = "mean, std and crop are the usual of such weights"
    status = _status(error)
    if status == 404:
        return f"the hub has no {CONFIG} for it; {usual}"
    if was_cached and status is None:
        # Weights that are there must not need a network.
        return (
            f"it comes without its {CONFIG}, which is not in the cache, and the hub could not be "
            f"asked ({type(error).__name__}); {usual}"
        )
    raise Unavailable(
        f"the weights of timm/{name} are there, but not their {CONFIG}, which states what they "
        f"expect of an image: {type(error).__name__}: {shown(first_line(error), 200)}. Try again; "
        "without a network the weights alone are taken from the cache."
    ) from error


def _status(error: Exception) -> int | None:
    """The hub's answer; None if there was none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _check_body(path: Path, repo: str) -> None:
    """Makes sure that a file of the hub's cache has the content that the hub named it by.

    The client checks a download's length alone. Large files are stored under their SHA-256,
    so what a proxy or a disk has changed is found here.
    """
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return  # Small files go by a hash of git's; a copied file by any name.
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        raise UserError(
            f"{repo} came damaged: its SHA-256 is {found}, the hub says {blob.name}. Delete "
            f"'{blob}' and try again."
        )


def _cached(repo: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        # Not `hf_hub_download(local_files_only=True)`: building its headers asks the network,
        # outside of any time limit.
        found = try_to_load_from_cache(repo, file, revision=revision)
        return Path(found) if isinstance(found, str) else None
    except HFValidationError:
        example = "timm:resnet50.a1_in1k" if repo.startswith("timm/") else "hf:USER/NAME"
        raise UserError(
            f"'{repo.removeprefix('timm/')}' cannot be a name on the hub. Write it as in {example}."
        ) from None


def _download(repo: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    if problem := _ask(repo, file, revision):
        raise problem
    return Path(hf_hub_download(repo, file, revision=revision))


def _ask(repo: str, file: str, revision: str | None) -> Exception | None:
    """One request for the file's metadata, without another try; what went wrong, or None.

    In a thread, because looking up a host's name knows no time limit.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    chosen = "HF_HUB_ETAG_TIMEOUT" in os.environ
    patience = float(constants.HF_HUB_ETAG_TIMEOUT) if chosen else _PATIENCE
    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=patience)
            answers.put(None)
        except Exception as error:  # As in `fetch`.
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=patience)
    except queue.Empty:
        return TimeoutError(f"no answer within {patience:g} s (HF_HUB_ETAG_TIMEOUT waits longer)")


def _explained(error: Exception, repo: str, revision: str | None, file: str = WEIGHTS) -> UserError:
    from huggingface_hub import constants, errors

    status = _status(error)
    timm = repo.startswith("timm/")
    word, name = ("timm", repo.removeprefix("timm/")) if timm else ("hf", repo)
    others = _OTHER_WAYS if timm else _OTHER_FOLDER
    tried = f"looked in the local cache ({constants.HF_HUB_CACHE})"
    if isinstance(error, errors.RevisionNotFoundError):
        return Unavailable(
            f"{repo} has no revision '{revision}' on the hub. Name a branch, a tag or a "
            f"commit of it, or none: {word}:{name}."
        )
    missing = isinstance(error, errors.RepositoryNotFoundError) or status == 404
    if isinstance(error, errors.GatedRepoError) or (status in (401, 403) and not missing):
        return Unavailable(
            f"the hub refuses {repo} (status {status}). Accept its terms on its page and "
            f"set HF_TOKEN to a token that may read it. {others}"
        )
    if isinstance(error, errors.EntryNotFoundError) and status is not None:
        return Unavailable(f"{repo} on the hub has no {file}. {others}")
    if missing:
        advice = "Check its name; of a private one, set HF_TOKEN to a token that may read it."
        if timm:
            advice = f"{suggest(name, known_names()).strip()} Write model and tag as timm does, "
            advice = f"{advice.strip()} resnet50.a1_in1k."
        return Unavailable(
            f"{repo} is not on the hub (status {status}), or it is private. {advice}"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unavailable(f"{repo}: {tried}; HF_HUB_OFFLINE forbids asking. {others}")
    asked = f"asked the hub, which failed ({type(error).__name__}: {shown(first_line(error), 200)})"
    return Unavailable(f"{repo} is not available: {tried}; {asked}. {others}")


def known_names() -> list[str]:
    """Model and tag of every default that comes from the hub."""
    defaults = (models.get(name).default_weights for name in models.names())
    return [spec.removeprefix("timm:") for spec in defaults if spec.startswith("timm:")]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged ({error}). Delete it and try again.") from error
    if not isinstance(config, dict):
        raise UserError(f"'{path}' is not a model's configuration. Delete it and try again.")
    return config
