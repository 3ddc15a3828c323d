"""Which weights a run is about: lmms-eval's cache knows the arguments of a model, and nothing of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from dynfocus_lmms_eval.arguments import ModelArguments
from dynfocus_lmms_eval.engine import model_folder

FILES = ("*.safetensors", "*.bin", "*.json", "*.model")
NAMES_WITHOUT_FILES = ("none", "training-free")
_CHUNK = 1 << 24


def check_weights(arguments: ModelArguments, *, cached: bool) -> None:
    """Refuse a cache that does not know the weights, and weights that are not those it knows.

    Raises:
        ValueError: `weights` is missing with a cache, or another.
    """
    if arguments.weights is None and not cached:
        return
    found = fingerprint(arguments)
    if arguments.weights != found:
        got = "none" if arguments.weights is None else arguments.weights
        raise ValueError(
            f"model_args: expected weights={found}, the fingerprint of the files, got {got}. The cache of lmms-eval "
            f"knows arguments and no weights: add weights={found} to --model_args, or leave --use_cache out."
        )


def fingerprint(arguments: ModelArguments) -> str:
    """A "w", so that nothing takes it for a number, and 11 digits of the SHA-256 of all files of model and connector.

    Raises:
        ValueError: files that are not on this machine.
    """
    digest = hashlib.sha256()
    for part in (model_folder(arguments.pretrained), arguments.connector):
        if part is not None and part not in NAMES_WITHOUT_FILES:
            for path in _files(part):
                digest.update(f"{path.name} {_content(path)}\n".encode())
    return "w" + digest.hexdigest()[:11]


def _files(name: str) -> list[Path]:
    """Weights and configuration of a folder or of a cached hub repository, in one order on every machine."""
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
        except (LocalEntryNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"model_args: expected a folder or a hub repository in the cache of this machine, got {name!r}. "
                f"Fetch it first: hf download {name}"
            ) from error
    found = {path for pattern in FILES for path in folder.rglob(pattern) if path.is_file()}
    return sorted(found, key=lambda path: str(path.relative_to(folder)))


def _content(path: Path) -> str:
    """The SHA-256 of a file; the hub's cache names large files by it."""
    blob = path.resolve().name
    if path.is_symlink() and len(blob) == 64:
        return blob
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
