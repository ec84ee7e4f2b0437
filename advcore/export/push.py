"""Uploads an export to the Hugging Face Hub with the Hub's client, which handles the token."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from advcore.errors import AdvcoreError, check, describe_exception, require, require_package
from advcore.export.folder import is_export

# What an export consists of. No file of another kind leaves this machine.
_KINDS = {".json", ".md", ".npz", ".parquet", ".py", ".safetensors"}


def check_push(repo: str) -> None:
    """Raise ConfigError unless `repo` is OWNER/REPO, the hub's package is installed, and it has a token."""
    with require_package("huggingface_hub", "--push", "hf"):
        from huggingface_hub import get_token
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    try:
        validate_repo_id(repo)
        is_name = "/" in repo
    except HFValidationError:
        is_name = False
    require(check(is_name, "--push", "OWNER/REPO of a model on the hub", repo))
    require(
        check(get_token(), "--push", "used with a token of the hub", None, "set HF_TOKEN, or log in: hf auth login")
    )


def list_files(folder: Path) -> list[Path]:
    """Return what `push` uploads, relative to the folder of an export.

    Raises ConfigError for a folder that is not an export, or that holds what no export holds.
    """
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    others = [path for path in files if path.suffix not in _KINDS or path.is_symlink()]
    require(
        check(
            is_export(folder) and not others,
            "--push",
            "used on a folder that holds only an export",
            str([folder, *others][-1]),
        )
    )
    return [path.relative_to(folder) for path in files]


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload an export to the repository `repo`, OWNER/REPO, as one commit; return its address.

    A repository that is not there is made, for everybody to read unless `private`. Raises ConfigError for another
    folder, and for a public one where it is to be private; AdvcoreError where the hub
    refuses or is not reached.
    """
    files = [path.as_posix() for path in list_files(folder)]
    from huggingface_hub import HfApi

    api = HfApi()
    with _explain_failure(folder, repo):
        url = str(api.create_repo(repo, private=private, exist_ok=True))
        is_public = private and not api.model_info(repo).private  # one that was there stays as it is
    rule = "left out for a repository that everybody can read"
    require(check(not is_public, "--private", rule, repo, f"nothing is uploaded, and the export is in {folder}"))
    with _explain_failure(folder, repo):
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=files, commit_message="Made by advcore export"
        )
    return url


@contextlib.contextmanager
def _explain_failure(folder: Path, repo: str) -> Iterator[None]:
    """Raise AdvcoreError, with the way out, for whatever network, hub or client raise in the block."""
    try:
        yield
    except Exception as error:
        way_out = f"the export is in {folder}: fix this, then hf upload {repo} {folder}"
        raise AdvcoreError(f"--push {repo}: nothing is uploaded ({describe_exception(error)}); {way_out}") from None
