"""Uploading a folder to the Hugging Face hub, by its own client.

Its settings hold: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE. What this module adds is an answer within
seconds where there is no network or no token.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path

from jtl.common.errors import UserError, first_line

_PATIENCE = 10.0
"""Seconds for the hub's first answer."""
_LATER = "--dry-run writes the folder without uploading it."


def check_access() -> None:
    """Makes sure that the hub answers, and knows the user.

    In a thread, because looking up a host's name knows no time limit.

    Raises:
        UserError: There is no token, it is refused, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            HfApi().whoami()
            answers.put(None)
        except Exception as error:  # The client's transport has many.
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        failure = answers.get(timeout=_PATIENCE)
    except queue.Empty:
        failure = TimeoutError(f"no answer within {_PATIENCE:g} s")
    if failure is not None:
        raise _explained(failure, None)


def upload(folder: Path, repo: str, *, private: bool, message: str) -> str:
    """Puts a folder's files into a repository, which is made if there is none.

    Args:
        folder: The folder.
        repo: USER/NAME.
        private: Whether a new repository is for its owner alone.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        UserError: The hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            folder_path=folder, repo_id=repo, commit_message=message, repo_type="model"
        )
    except Exception as error:  # As above.
        # The client says in the cause what went wrong with a large file.
        raise _explained(error.__cause__ or error, folder) from error
    return str(done.commit_url)


def _explained(error: BaseException, folder: Path | None) -> UserError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    ready = _LATER if folder is None else f"The files are ready in '{folder}'."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UserError(f"HF_HUB_OFFLINE forbids uploads. Unset it. {ready}")
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return UserError(
            "the hub does not know you. Set HF_TOKEN to a token that may write (from the settings "
            f"of your account there), or run `hf auth login`. {ready}"
        )
    if status == 403:
        return UserError(
            f"the hub refuses the upload: {first_line(error)} Use a token that may write there, or "
            f"another name after --to. {ready}"
        )
    if status is not None:
        return UserError(
            f"the hub refuses the upload (status {status}): {first_line(error)} {ready}"
        )
    return UserError(
        f"the hub cannot be reached ({type(error).__name__}: {first_line(error)}). Check the "
        f"network and HF_ENDPOINT, and try again. {ready}"
    )
