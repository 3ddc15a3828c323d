"""Several files written beside their final names and renamed together, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def replace_together(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Let every writer fill a temporary file in its target's folder; when all have succeeded, rename them.

    Raises:
        Whatever a writer raises; no temporary file is left behind then, and no target is touched.
    """
    temporaries: dict[Path, Path] = {}
    try:
        for target, write in writers.items():
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
            os.close(handle)
            temporaries[target] = Path(name)
            write(temporaries[target])
            _like_any_new_file(temporaries[target])
        for target, temporary in temporaries.items():
            os.replace(temporary, target)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _like_any_new_file(path: Path) -> None:
    """mkstemp makes private files; results are as readable as the umask says."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """The folder, made where it is missing and proven writable; folders made here vanish again on an error.

    Raises:
        ValueError: the path is a file, or nothing can be written there.
    """
    made: list[Path] = []
    try:
        for folder in [*reversed(path.parents), path]:
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        _remove(made)
        raise ValueError(
            f"compress: expected an output folder that can be written, got {str(path)!r} ({error.strerror}). "
            "Choose another with --out."
        ) from error
    try:
        yield path
    except BaseException:
        _remove(made)
        raise


def _remove(folders: list[Path]) -> None:
    for folder in reversed(folders):
        try:
            folder.rmdir()
        except OSError:
            return
