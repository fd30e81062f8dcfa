"""Any model of torchvision, on a folder of images or on built-in images of known spectrum."""

import difflib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectroscope.adapters.support.images import Folder, builtin_images
from spectroscope.adapters.support.packages import import_extra
from spectroscope.errors import RequestError, first_line
from spectroscope.io import load_checkpoint
from spectroscope.specimens.specimen import Specimen

BATCH = 8
FRAMES = 16  # per clip
FLOW_SIZE = (256, 320)  # pixels; RAFT needs multiples of 8, and at least 128


def torchvision_model(
    model: str,
    *,
    weights: str | None = "DEFAULT",
    input: str | os.PathLike[str] | None = None,
) -> Specimen:
    """torchvision:MODEL, any of torchvision's, on your images or built-in ones. BSD-3-Clause.

    Args:
        model: one of ``torchvision.models.list_models()``.
        weights: ``"DEFAULT"`` or another name of the model's weights, which torchvision fetches; a
            checkpoint file of your own; ``"none"`` or None: random weights (seed 0).
        input: a folder of images, subfolders included, or one image; transformed as the weights
            require. For a video model they are the frames; for an optical flow model each image and
            the next are a pair. None: gratings, noise and photographs.

    Raises:
        RequestError: torchvision can't be imported, it has no such model or weights, the weights
            can't be fetched or don't fit, or there is no readable image.
    """
    models = _import_models()
    if model not in models.list_models():
        near = ", ".join(difflib.get_close_matches(model, models.list_models(), n=3, cutoff=0))
        raise RequestError(f"torchvision has no model {model!r}; the nearest: {near}")
    network, entry = _network(models, model, weights)
    transform = (entry or models.get_model_weights(model).DEFAULT).transforms()
    folder = None if input is None else Folder(input)
    images = list(_normalised(transform)) if folder is None else folder
    families: dict[str, type[_Batches]] = {
        "VideoClassification": _Clips,
        "OpticalFlow": _Pairs,
        "ObjectDetection": _Lists,
    }
    family = families.get(type(transform).__name__, _Stacks)
    inputs = family(images, _unchanged if folder is None else transform)
    n_inputs = inputs.count(len(images))
    if n_inputs < 1:
        raise RequestError(f"{model} needs two images or more, but {input} is one")
    labels = None
    if entry is not None and type(transform).__name__ == "ImageClassification":
        names = (lambda: folder.read) if folder else (lambda: list(builtin_images(8)))
        labels = _top_classes(entry.meta["categories"], names)
    origin = "random weights"
    if weights not in (None, "none"):
        origin = str(entry or os.path.basename(str(weights)))
    return Specimen(
        name=f"torchvision:{model}",
        description=f"{model} with {origin}, on {'built-in images' if folder is None else input}",
        license="BSD-3-Clause, and that of the weights",
        model=network.eval(),
        inputs=inputs,
        n_inputs=n_inputs,
        labels=labels,
    )


def model_names() -> list[str]:
    """Names of the models."""
    names: list[str] = _import_models().list_models()
    return names


def _import_models() -> Any:
    try:
        return import_extra("torchvision.models")
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        raise RequestError(
            f"torchvision does not match torch {torch.__version__} ({first_line(error)}): "
            "pip install torch torchvision installs a pair that matches"
        ) from error


def _network(models: Any, model: str, weights: str | None) -> tuple[nn.Module, Any]:
    """The network, and the entry of `weights` in torchvision's enumeration, or None."""
    entries = models.get_model_weights(model)
    if weights is None or weights == "none":
        return _untrained(models, model), None
    if os.path.exists(weights):
        network = _untrained(models, model)
        load_checkpoint(network, weights)
        # A file that was downloaded from torchvision has the categories of its entry.
        name = os.path.basename(weights)
        return network, next((e for e in entries if e.url.endswith(f"/{name}")), None)
    if weights not in entries.__members__:
        names = ", ".join(entries.__members__)
        raise RequestError(
            f"{weights!r} is neither a file nor weights of {model}, which has {names}, none"
        )
    entry = entries[weights]
    try:
        return models.get_model(model, weights=entry), entry
    except OSError as error:  # includes urllib's errors
        raise RequestError(
            f"cannot fetch {entry} from {entry.url} ({error}); pass the file as --weights PATH, "
            "or --weights none for random weights"
        ) from error


def _untrained(models: Any, model: str) -> nn.Module:
    """The model with random weights, the backbone's included: nothing is fetched."""
    parameters = inspect.signature(models.get_model_builder(model)).parameters
    kwargs = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same random weights every time
        network: nn.Module = models.get_model(model, weights=None, **kwargs)
    return network


def _unchanged(*images: Tensor) -> Any:
    return images if len(images) > 1 else images[0]


def _normalised(transform: Any) -> Iterator[Tensor]:
    """Built-in images with the normalisation of `transform`, but neither resized nor cropped."""
    size = (getattr(transform, "crop_size", None) or [224])[0]
    mean = torch.tensor(getattr(transform, "mean", [0.0] * 3)).view(3, 1, 1)
    std = torch.tensor(getattr(transform, "std", [1.0] * 3)).view(3, 1, 1)
    if type(transform).__name__ == "OpticalFlow":
        mean = std = torch.full((3, 1, 1), 0.5)
    for image in builtin_images(size).values():
        yield (image - mean) / std


class _Batches(ABC):
    """Batches of transformed images; can be iterated over repeatedly."""

    def __init__(self, images: list[Tensor] | Folder, transform: Callable[..., Any]):
        self.images, self.transform = images, transform

    def count(self, images: int) -> int:
        """Number of inputs from this number of images."""
        return images

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches."""


class _Stacks(_Batches):
    """``[N, 3, H, W]``: consecutive images of the same size."""

    def __iter__(self) -> Iterator[Tensor]:
        batch: list[Tensor] = []
        for image in map(self.transform, self.images):
            if batch and (len(batch) == BATCH or batch[0].shape != image.shape):
                yield torch.stack(batch)
                batch = []
            batch.append(image)
        yield torch.stack(batch)


class _Lists(_Batches):
    """Lists of one ``[3, H, W]`` for detectors, which resize each image themselves."""

    def __iter__(self) -> Iterator[list[Tensor]]:
        for image in self.images:
            yield [self.transform(image)]


class _Clips(_Batches):
    """``[1, 3, T, H, W]``: images as frames; the last one is repeated to fill the clip."""

    def count(self, images: int) -> int:
        return -(-images // FRAMES)

    def __iter__(self) -> Iterator[Tensor]:
        frames: list[Tensor] = []
        for image in self.images:
            # All frames of a clip are resized to the first one.
            size = frames[0].shape[-2:] if frames else image.shape[-2:]
            frames.append(image if image.shape[-2:] == size else _resized(image, size))
            if len(frames) == FRAMES:
                yield self._clip(frames)
                frames = []
        if frames:
            yield self._clip([*frames, *frames[-1:] * (FRAMES - len(frames))])

    def _clip(self, frames: Sequence[Tensor]) -> Tensor:
        stack = self.transform(torch.stack(list(frames)))
        # torchvision's transforms put the channels first.
        clip: Tensor = stack if stack.shape[0] == 3 else stack.transpose(0, 1)
        return clip.unsqueeze(0)


class _Pairs(_Batches):
    """Pairs of ``[1, 3, H, W]``: each image and the next."""

    def count(self, images: int) -> int:
        return images - 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        previous = None
        for image in self.images:
            image = _resized(image, FLOW_SIZE).unsqueeze(0)
            if previous is not None:
                first, second = self.transform(previous, image)
                yield first, second
            previous = image


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    resized = torch.nn.functional.interpolate(
        image.unsqueeze(0).float(), size=tuple(size), mode="bilinear", antialias=True
    )[0]
    return resized if image.is_floating_point() else resized.round().to(image.dtype)


def _top_classes(
    categories: Sequence[str], names: Callable[[], list[str]]
) -> Callable[[Tensor, int], Sequence[str]]:
    """Function from outputs ``[N, classes]`` to a line per input: the five likeliest classes."""

    def labels(outputs: Tensor, first: int) -> Sequence[str]:
        top = outputs.float().softmax(1).topk(min(5, outputs.shape[1]))
        lines = []
        rows = zip(top.values, top.indices, strict=True)
        for number, (probabilities, classes) in enumerate(rows, start=first):
            known = names()
            name = known[number] if number < len(known) else f"input {number}"
            likely = (
                f"{categories[c]} {p:.0%}" for p, c in zip(probabilities, classes, strict=True)
            )
            lines.append(f"{name}: {', '.join(likely)}")
        return lines

    return labels
