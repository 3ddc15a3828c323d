"""The frozen tower's tokens on disk: computed once, read in the place of pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynfocus_connector.saving import replace_file
from dynfocus_reference.data.records import BadSampleError, Record

MANIFEST = "manifest.json"
KEY, SUFFIX = "tokens", ".safetensors"


class FeatureFolder:
    """One file of tokens per image or video, and a manifest that says what made them.

    Files lie at ``image|video / last name of the set's root / path below the root``, so that sets, shards and runs
    share them.

    Args:
        folder: With a manifest.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"FeatureFolder: expected {MANIFEST} in {str(folder)!r}, found none. "
                f"Write the folder with `dynfocus extract-features`."
            ) from error

    @classmethod
    def create(cls, folder: str | os.PathLike[str], made_by: dict[str, Any], dtype: torch.dtype) -> FeatureFolder:
        """The folder, new or with what lies there already.

        Raises:
            ValueError: it was made by something else, or in another dtype.
        """
        written = {**made_by, "dtype": str(dtype).removeprefix("torch.")}
        path = Path(folder) / MANIFEST
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(written, indent=2) + "\n"
            replace_file(path, lambda part: Path(part).write_text(text, encoding="utf-8"))
        features = cls(folder)
        features.expect(written)
        return features

    def expect(self, made_by: dict[str, Any]) -> None:
        """Compare the manifest with what is wanted.

        Raises:
            ValueError: they differ; each difference is named.
        """
        wanted = json.loads(json.dumps(made_by))
        told = [
            f"{key} {self.manifest.get(key)!r} where {value!r} is wanted"
            for key, value in wanted.items()
            if self.manifest.get(key) != value
        ]
        if told:
            raise ValueError(
                f"FeatureFolder: expected the features in {str(self.folder)!r} to be made as they are to be used, got "
                f"{'; '.join(told)}. Extract them anew into another folder, or change the settings back."
            )

    def place(self, root: str | os.PathLike[str], record: Record) -> Path:
        """Where the tokens of a record's image or video lie."""
        path = Path(str(record.path))
        named = path if path.is_absolute() else Path(_name(root)) / path
        inside = ["__" if part == ".." else part for part in named.parts if part != named.anchor]
        return self.folder / record.modality / Path(*inside[:-1]) / (inside[-1] + SUFFIX)

    def write(self, place: Path, tokens: Float[Tensor, "frames all dim"]) -> None:
        """A file, whole or not at all."""
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, lambda part: save_file({KEY: tokens.contiguous()}, part))

    def read(self, place: Path) -> Float[Tensor, "frames all dim"]:
        """The tokens of every sampled frame.

        Raises:
            BadSampleError: no file, a damaged one, tokens of another shape, or NaN among them.
        """
        with self._opened(place) as file:
            tokens = file.get_tensor(KEY)
        bad = int((~tokens.isfinite()).sum())
        if bad:
            raise BadSampleError(_damaged(place, f"{bad} values that are no numbers"))
        return tokens

    def holds(self, place: Path) -> bool:
        """Whether a file of the right length and shape lies there; its values are not looked at."""
        try:
            with self._opened(place):
                return True
        except BadSampleError:
            return False

    @contextmanager
    def _opened(self, place: Path) -> Iterator[Any]:
        try:
            with safe_open(place, framework="pt") as file:
                shape = file.get_slice(KEY).get_shape() if KEY in file.keys() else []  # noqa: SIM118
                if len(shape) != 3 or not shape[0] or shape[1:] != self.manifest["tokens"]:
                    wanted = ["frames", *self.manifest["tokens"]]
                    raise BadSampleError(_damaged(place, f"tokens of shape {shape} instead of {wanted}"))
                yield file
        except FileNotFoundError as error:
            raise BadSampleError(
                f"expected features at {str(place)!r}, found none. Run `dynfocus extract-features` again."
            ) from error
        except (SafetensorError, OSError) as error:
            raise BadSampleError(_damaged(place, str(error))) from error


def expect_different_names(roots: Iterable[str]) -> None:
    """Refuse sets whose files would lie in one and the same place.

    Raises:
        ValueError: two roots with one last name.
    """
    found: dict[str, str] = {}
    for root in roots:
        real = os.path.realpath(root)
        other = found.setdefault(_name(root), real)
        if other != real:
            raise ValueError(
                f"FeatureFolder: expected roots with different last names, got {other!r} and {real!r}. "
                f"Rename one of them; features lie below the last name of their root."
            )


def _name(root: str | os.PathLike[str]) -> str:
    return Path(os.path.abspath(root)).name


def _damaged(place: Path, got: str) -> str:
    return (
        f"expected whole features in {str(place)!r}, got {got}. Delete the file and run `dynfocus extract-features` "
        f"again."
    )
