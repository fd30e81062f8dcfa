"""Files that appear whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spectroscope.errors import RequestError

STAGING = ".writing-"  # what the names of staging folders begin with

# Errors of whoever writes, never of one who reads.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A staging folder whose files move into `path` together when the block ends.

    If the block raises, `path` is as it was before: nothing in it is touched, and a folder that
    didn't exist doesn't exist afterwards. Of files with the same name the new ones stay.

    Raises:
        RequestError: `path` can't be created or written to, which is raised before the block runs;
            or there is no room for what the block writes.
    """
    folder = Path(path)
    missing = [p for p in (folder, *folder.parents) if not os.path.exists(p)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
    except OSError as error:
        _remove_empty(missing)
        raise RequestError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield staging
        _move(sorted(staging.iterdir()), folder)
    except OSError as error:
        if error.errno not in _NO_ROOM or folder.name.startswith(STAGING):
            raise  # in a staging folder the one around it says which folder that is
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(missing)  # what has files in it by now stays


def _move(files: list[Path], folder: Path) -> None:
    for file in files:
        if os.path.isdir(folder / file.name):
            raise RequestError(f"cannot write {folder / file.name}: there is a folder of that name")
    try:
        for file in files:
            os.replace(file, folder / file.name)
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from error


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # never made, or something else has been put there meanwhile
            return
