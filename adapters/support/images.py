"""Images to look at a vision model on: a folder of the user's, or built-in probes."""

import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from spectroscope.errors import RequestError

# What the gratings turn along, in degrees, and repeat in, in pixels.
ORIENTATIONS = (0, 45, 90, 135)
PERIODS = (4, 8, 16, 32)


class Folder:
    """Images in a folder and the folders in it, of any format that Pillow reads, in order of name.

    One that can't be read is skipped with a warning that names it.

    Attributes:
        read: names of those that have been read.

    Raises:
        RequestError: there is no such folder or file, or nothing in it that may be an image; when
            iterated over, none can be read.
    """

    def __init__(self, path: str | os.PathLike[str]):
        from PIL import Image

        self.path = Path(path)
        if self.path.is_file():
            self.files = [self.path]
        elif self.path.is_dir():
            known = Image.registered_extensions()
            found = (p for p in self.path.rglob("*") if p.suffix.lower() in known and p.is_file())
            self.files = sorted(found)
        else:
            raise RequestError(f"there is no folder or image {path}")
        if not self.files:
            raise RequestError(
                f"there is no image in {path}: no file that Pillow knows by its name"
            )
        self.read: list[str] = []

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Tensor]:
        """Each image as uint8, ``[3, H, W]``."""
        from PIL import Image, ImageOps

        self.read = []
        for file in self.files:
            try:
                with Image.open(file) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
                data = torch.frombuffer(bytearray(upright.tobytes()), dtype=torch.uint8)
                pixels = data.view(upright.height, upright.width, 3).permute(2, 0, 1)
            except Exception as error:  # what a damaged file raises can be anything
                warnings.warn(f"skipped {file}: {type(error).__name__}: {error}", stacklevel=2)
                continue
            self.read.append(str(file))
            yield pixels
        if not self.read:
            raise RequestError(f"none of the {len(self.files)} images in {self.path} can be read")


def probes(size: int) -> dict[str, Tensor]:
    """Images whose spectra are known, by name, each ``[3, size, size]`` in [0, 1].

    Gratings of one spatial frequency and orientation (of the wave: 0° varies along the width);
    white noise; noise of power 1/f² in the plane, as photographs have it (Field, *J. Opt. Soc.
    Am. A* 4, 1987); and scikit-learn's two photographs, where it is installed.
    """
    at = torch.arange(size, dtype=torch.float64)
    found = {}
    for period in PERIODS:
        for degrees in ORIENTATIONS:
            angle = math.radians(degrees)
            along = at * math.cos(angle) + at.unsqueeze(1) * math.sin(angle)
            wave = 0.5 + 0.5 * torch.cos(2 * math.pi * along / period)
            found[f"grating, period {period}, {degrees}°"] = wave.expand(3, -1, -1)
    noise = torch.Generator().manual_seed(0)
    white = torch.randn(3, size, size, generator=noise, dtype=torch.float64)
    found["white noise"] = _within(white)
    fy, fx = torch.fft.fftfreq(size).unsqueeze(1), torch.fft.rfftfreq(size)
    pink = torch.fft.rfft2(white) / torch.hypot(fy, fx).clamp_min(1 / size)
    found["1/f noise"] = _within(torch.fft.irfft2(pink, s=(size, size)))
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        pass
    else:
        photos = load_sample_images()
        for file, pixels in zip(photos.filenames, photos.images, strict=True):
            photo = torch.tensor(pixels).permute(2, 0, 1).unsqueeze(0).double() / 255
            side = min(photo.shape[-2:])
            scaled = torch.nn.functional.interpolate(
                photo[..., :side, :side], size=(size, size), mode="bilinear", antialias=True
            )
            found[f"photograph {Path(file).stem}"] = scaled[0]
    return {name: image.float() for name, image in found.items()}


def _within(noise: Tensor) -> Tensor:
    """Noise of mean ½ and standard deviation 1/6, cut off at 0 and 1."""
    return (0.5 + (noise - noise.mean()) / noise.std() / 6).clamp(0, 1)
