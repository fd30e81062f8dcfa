"""Any model of torchvision, on a folder of images or on probes whose spectra are known."""

import difflib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from spectroscope.adapters.support.images import Folder, probes
from spectroscope.errors import RequestError
from spectroscope.io import load_checkpoint
from spectroscope.specimens.specimen import Specimen

BATCH = 8
FRAMES = 16  # of a clip
FLOW = (256, 320)  # pixels; RAFT wants multiples of 8, and 128 at least


def torchvision_model(
    model: str,
    *,
    weights: str | None = "DEFAULT",
    input: str | os.PathLike[str] | None = None,
) -> Specimen:
    """torchvision:MODEL, any of torchvision's, on your images or on probes. BSD-3-Clause.

    Args:
        model: one of ``torchvision.models.list_models()``.
        weights: ``"DEFAULT"`` or another name of the model's weights, which torchvision fetches; a
            checkpoint file of your own; ``"none"`` or None for random numbers (of seed 0).
        input: a folder of images, nested or not, or one image, prepared as the weights ask. Of a
            video model they are the frames, of an optical flow model each and the next make a
            pair. None: gratings, noises, and photographs.

    Raises:
        RequestError: torchvision can't be imported, it has no such model or weights, the weights
            can't be fetched or don't fit, or there is no image to be read.
    """
    models = _models()
    if model not in models.list_models():
        near = ", ".join(difflib.get_close_matches(model, models.list_models(), n=3, cutoff=0))
        raise RequestError(f"torchvision has no model {model!r}; the nearest: {near}")
    known = models.get_model_weights(model)
    made, chosen = _with_weights(models, model, weights)
    prepare = (chosen or known.DEFAULT).transforms()
    folder = None if input is None else Folder(input)
    images = list(_normalised(prepare)) if folder is None else folder
    families: dict[str, type[_Batches]] = {
        "VideoClassification": _Clips,
        "OpticalFlow": _Pairs,
        "ObjectDetection": _Lists,
    }
    family = families.get(type(prepare).__name__, _Stacks)
    inputs = family(images, _as_they_are if folder is None else prepare)
    n_inputs = inputs.count(len(images))
    if n_inputs < 1:
        raise RequestError(f"{model} takes two images or more, and {input} is one")
    labels = None
    if chosen is not None and type(prepare).__name__ == "ImageClassification":
        labels = _top(chosen.meta["categories"], lambda: folder.read if folder else list(probes(8)))
    name = "random numbers"
    if weights not in (None, "none"):
        name = str(chosen or os.path.basename(str(weights)))
    return Specimen(
        name=f"torchvision:{model}",
        description=f"{model} with {name}, on {'built-in probes' if folder is None else input}",
        license="BSD-3-Clause, and that of the weights",
        model=made.eval(),
        inputs=inputs,
        n_inputs=n_inputs,
        labels=labels,
    )


def _models() -> ModuleType:
    try:
        import torchvision.models
    except (ImportError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise RequestError(
            f"torchvision can't be imported ({first}); it has to be the one that was made for "
            f"torch {torch.__version__}: pip install torch torchvision installs both"
        ) from error
    models: ModuleType = torchvision.models
    return models


def _with_weights(models: Any, model: str, weights: str | None) -> tuple[nn.Module, Any]:
    """The model, and its entry among torchvision's weights, if they are those."""
    known = models.get_model_weights(model)
    if weights is None or weights == "none":
        return _bare(models, model), None
    if os.path.exists(weights):
        made = _bare(models, model)
        load_checkpoint(made, weights)
        # A file of torchvision's own, fetched elsewhere, has the categories of those weights.
        own = (entry for entry in known if entry.url.endswith(f"/{os.path.basename(weights)}"))
        return made, next(own, None)
    if weights not in known.__members__:
        names = ", ".join(known.__members__)
        raise RequestError(
            f"there is no file {weights!r}, and {model} has no such weights; it has {names}, none"
        )
    chosen = known[weights]
    try:
        return models.get_model(model, weights=chosen), chosen
    except OSError as error:  # urllib's errors are OSErrors too
        raise RequestError(
            f"cannot fetch {chosen} from {chosen.url} ({error}); --weights PATH takes the file, "
            "--weights none random numbers"
        ) from error


def _bare(models: Any, model: str) -> nn.Module:
    """The model without weights, nor with those of its backbone, which it would fetch."""
    takes = inspect.signature(models.get_model_builder(model)).parameters
    kwargs = {"weights_backbone": None} if "weights_backbone" in takes else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random numbers, but the same ones every time
        made: nn.Module = models.get_model(model, weights=None, **kwargs)
    return made


def _as_they_are(*images: Tensor) -> Any:
    return images if len(images) > 1 else images[0]


def _normalised(prepare: Any) -> Iterator[Tensor]:
    """Probes with the mean and spread that the weights ask for, but neither scaled nor cut."""
    size = (getattr(prepare, "crop_size", None) or [224])[0]
    mean = torch.tensor(getattr(prepare, "mean", [0.0] * 3)).view(3, 1, 1)
    std = torch.tensor(getattr(prepare, "std", [1.0] * 3)).view(3, 1, 1)
    if type(prepare).__name__ == "OpticalFlow":
        mean = std = torch.full((3, 1, 1), 0.5)
    for image in probes(size).values():
        yield (image - mean) / std


class _Batches(ABC):
    """Batches of images, prepared one by one; may be iterated over again."""

    def __init__(self, images: list[Tensor] | Folder, prepare: Callable[..., Any]):
        self.images, self.prepare = images, prepare

    def count(self, images: int) -> int:
        """Inputs that so many images make."""
        return images

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """The batches."""


class _Stacks(_Batches):
    """``[N, 3, H, W]``, as many in a row as have the same size."""

    def __iter__(self) -> Iterator[Tensor]:
        batch: list[Tensor] = []
        for image in map(self.prepare, self.images):
            if batch and (len(batch) == BATCH or batch[0].shape != image.shape):
                yield torch.stack(batch)
                batch = []
            batch.append(image)
        yield torch.stack(batch)


class _Lists(_Batches):
    """Lists of one ``[3, H, W]``, as detectors take them: they scale each by itself."""

    def __iter__(self) -> Iterator[list[Tensor]]:
        for image in self.images:
            yield [self.prepare(image)]


class _Clips(_Batches):
    """``[1, 3, T, H, W]``, images in a row as frames; the last is repeated to fill its clip."""

    def count(self, images: int) -> int:
        return -(-images // FRAMES)

    def __iter__(self) -> Iterator[Tensor]:
        frames: list[Tensor] = []
        for image in self.images:
            # A clip's frames are of one size: that of the first.
            size = frames[0].shape[-2:] if frames else image.shape[-2:]
            frames.append(image if image.shape[-2:] == size else _scaled(image, size))
            if len(frames) == FRAMES:
                yield self._clip(frames)
                frames = []
        if frames:
            yield self._clip([*frames, *frames[-1:] * (FRAMES - len(frames))])

    def _clip(self, frames: Sequence[Tensor]) -> Tensor:
        stack = self.prepare(torch.stack(list(frames)))
        # The weights' own transforms put the channels first.
        clip: Tensor = stack if stack.shape[0] == 3 else stack.transpose(0, 1)
        return clip.unsqueeze(0)


class _Pairs(_Batches):
    """Pairs of ``[1, 3, H, W]``: each image and the next."""

    def count(self, images: int) -> int:
        return images - 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        before = None
        for image in self.images:
            image = _scaled(image, FLOW).unsqueeze(0)
            if before is not None:
                first, second = self.prepare(before, image)
                yield first, second
            before = image


def _scaled(image: Tensor, size: Sequence[int]) -> Tensor:
    scaled = torch.nn.functional.interpolate(
        image.unsqueeze(0).float(), size=tuple(size), mode="bilinear", antialias=True
    )[0]
    return scaled if image.is_floating_point() else scaled.round().to(image.dtype)


def _top(
    categories: Sequence[str], names: Callable[[], list[str]]
) -> Callable[[Tensor, int], Sequence[str]]:
    """What classifies outputs ``[N, classes]`` into lines of the five likeliest."""

    def labels(outputs: Tensor, first: int) -> Sequence[str]:
        top = outputs.float().softmax(1).topk(min(5, outputs.shape[1]))
        lines = []
        rows = zip(top.values, top.indices, strict=True)
        for number, (shares, classes) in enumerate(rows, start=first):
            of = names()
            name = of[number] if number < len(of) else f"input {number}"
            said = (f"{categories[c]} {s:.0%}" for s, c in zip(shares, classes, strict=True))
            lines.append(f"{name}: {', '.join(said)}")
        return lines

    return labels
