"""Images for vision models: a folder of the user's, or built-in images of known spectrum."""

import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from spectroscope.errors import RequestError

# Of the gratings.
ORIENTATIONS = (0, 45, 90, 135)  # degrees
PERIODS = (4, 8, 16, 32)  # pixels


class Folder:
    """Images in a folder and its subfolders, of any format that Pillow reads, sorted by name.

    An image that can't be read is skipped, with a warning that names it.

    Attributes:
        read: names of the images that the last iteration has read so far.

    Raises:
        RequestError: the folder or file does not exist or contains no image; on iteration: no image
            can be read.
    """

    def __init__(self, path: str | os.PathLike[str]):
        from PIL import Image

        self.path = Path(path)
        if self.path.is_file():
            self.files = [self.path]
        elif self.path.is_dir():
            suffixes = Image.registered_extensions()
            files = (p for p in self.path.rglob("*") if p.is_file())
            self.files = sorted(file for file in files if file.suffix.lower() in suffixes)
        else:
            raise RequestError(f"there is no folder or image {path}")
        if not self.files:
            raise RequestError(
                f"there is no image in {path}: no file has an extension that Pillow reads"
            )
        self.read: list[str] = []

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over the images, each uint8 ``[3, H, W]``."""
        from PIL import Image, ImageOps

        self.read = []
        for file in self.files:
            try:
                with Image.open(file) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
                data = torch.frombuffer(bytearray(upright.tobytes()), dtype=torch.uint8)
                pixels = data.view(upright.height, upright.width, 3).permute(2, 0, 1)
            except Exception as error:  # a damaged file can raise anything
                warnings.warn(f"skipped {file}: {type(error).__name__}: {error}", stacklevel=2)
                continue
            self.read.append(str(file))
            yield pixels
        if not self.read:
            raise RequestError(f"none of the {len(self.files)} images in {self.path} can be read")


def builtin_images(size: int) -> dict[str, Tensor]:
    """Images of known spectrum by name, each ``[3, size, size]`` in [0, 1].

    Gratings of one spatial frequency and orientation (0°: the wave varies along the width); white
    noise; noise of power 1/f² in the plane, like photographs (Field, *J. Opt. Soc. Am. A* 4, 1987);
    and the two photographs of scikit-learn, if it is installed.
    """
    pixel = torch.arange(size, dtype=torch.float64)
    images = {}
    for period in PERIODS:
        for degrees in ORIENTATIONS:
            angle = math.radians(degrees)
            position = pixel * math.cos(angle) + pixel.unsqueeze(1) * math.sin(angle)
            wave = 0.5 + 0.5 * torch.cos(2 * math.pi * position / period)
            images[f"grating, period {period}, {degrees}°"] = wave.expand(3, -1, -1)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(3, size, size, generator=generator, dtype=torch.float64)
    images["white noise"] = _to_unit_range(white)
    fy, fx = torch.fft.fftfreq(size).unsqueeze(1), torch.fft.rfftfreq(size)
    pink = torch.fft.rfft2(white) / torch.hypot(fy, fx).clamp_min(1 / size)
    images["1/f noise"] = _to_unit_range(torch.fft.irfft2(pink, s=(size, size)))
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
            images[f"photograph {Path(file).stem}"] = scaled[0]
    return {name: image.float() for name, image in images.items()}


def _to_unit_range(noise: Tensor) -> Tensor:
    """Noise with mean ½ and standard deviation 1/6, clipped to [0, 1]."""
    return (0.5 + (noise - noise.mean()) / noise.std() / 6).clamp(0, 1)
