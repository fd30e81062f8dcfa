"""Which weights a model had while it was recorded: reports of different ones aren't merged."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectroscope.errors import RequestError
from spectroscope.wrappers import unwrapped

KEY = "weights (hash)"  # in a recording's `about`
UNKNOWN = "unknown"
_COLUMNS = 1021  # a prime: a permutation of filters changes the sums too
_Versions: TypeAlias = tuple[tuple[int, int], ...]
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


class WeightsLog:
    """The hash of a model's weights, if they are the same from :meth:`start` on."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._started: _Versions | None = None
        self._known: dict[_Versions, str] = {}

    def start(self) -> None:
        """Note what the weights are, before the first forward is recorded."""
        if self._started is None:
            self._started = versions(self._model) or ()

    def about(self) -> dict[str, str]:
        """Entry of a recording's `about`; none before :meth:`start`.

        The values are read once, and again only after a change.
        """
        if self._started is None:
            return {}
        now = versions(self._model)
        if now is None or now != self._started:  # in training
            return {KEY: UNKNOWN}
        if now not in self._known:
            self._known = {now: weights_hash(self._model)}
        return {KEY: self._known[now]}


def versions(model: nn.Module) -> _Versions | None:
    """What changes when parameters or buffers are replaced or written to; None: unknown."""
    try:
        return tuple((id(tensor), tensor._version) for tensor in _tensors(model))
    except RuntimeError:  # an inference tensor has no version
        return None


def weights_hash(model: nn.Module) -> str:
    """Hash of the values of all parameters and buffers, the same on every device.

    It reads the values once, and copies some kilobytes of sums of each tensor from a GPU. A model
    with tensors whose memory can't be read so (sharded, quantised) has the hash "unknown".
    """
    if any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules()):
        return UNKNOWN  # each process has other parts
    digest = hashlib.sha256()
    for tensor in _tensors(model):
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
        if not plain or tensor.is_meta or tensor.is_quantized:
            return UNKNOWN
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        values = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
        words = values.view(_WORDS[tensor.element_size()])
        whole = len(words) - len(words) % _COLUMNS
        sums = words[:whole].view(-1, _COLUMNS).sum(0, dtype=torch.int64)
        for part in (sums, words[whole:]):
            digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_weights(first: Mapping[str, Iterable[str]], second: Mapping[str, Iterable[str]]) -> None:
    """Check that recordings with these `about` aren't known to be of different weights.

    Raises:
        RequestError: they are.
    """
    hashes = [{*about.get(KEY, ())} - {UNKNOWN} for about in (first, second)]
    if all(hashes) and len(hashes[0] | hashes[1]) > 1:
        one, other = (", ".join(sorted(each)) for each in hashes)
        raise RequestError(
            f"recordings of different weights can't be merged: their hash is {one} in one and "
            f"{other} in the other; compare shows the changes"
        )


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    model = unwrapped(model)
    yield from (parameter for parameter in model.parameters() if not is_lazy(parameter))
    yield from (buffer for buffer in model.buffers() if not is_lazy(buffer))
