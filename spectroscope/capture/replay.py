"""Replay of a forward: later forwards reuse results of the first, up to a given function call."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from spectroscope.capture import hooks
from spectroscope.capture.tensors import tensors

# Expensive functions that return a new tensor, which depends on the arguments alone.
_PURE = {
    *(f"{name}{n}d" for n in (1, 2, 3) for name in ("conv", "conv_transpose", "_max_pool",
      "max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_max_pool")),
    "linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "einsum", "batch_norm",
    "layer_norm", "group_norm", "instance_norm", "scaled_dot_product_attention", "interpolate",
    "softmax", "gelu", "silu", "cat", "concat", "add", "__add__", "mul", "__mul__",
}  # fmt: skip


class Replay:
    """An observer that stores results of one forward and returns them in later ones.

    Only expensive functions are replaced by their stored results. All others run again on these, so
    that the model's own code takes the same branches again.

    The model must be deterministic, as in eval mode.

    Attributes:
        position: number of torch function calls so far in this forward.
    """

    changes_outputs = True
    compiled = False

    def __init__(self) -> None:
        self.position = 0
        self._until: int | None = None  # replay up to this position; None: store
        self._thread: int | None = None
        # By position: the function and its result.
        self._results: dict[int, tuple[Callable[..., Any], Tensor]] = {}
        self._positions: dict[int, int] = {}  # by id of a stored result
        self._copied: set[int] = set()  # positions whose stored result is a copy

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Context that stores the results of one forward, in place of those stored before."""
        self.forget()
        with self._registered(None):
            yield

    @contextmanager
    def up_to(self, position: int) -> Iterator[None]:
        """Context in which one forward reuses the results stored before `position`."""
        with self._registered(position):
            yield

    def forget(self) -> None:
        """Free the stored results."""
        self._results.clear()
        self._positions.clear()
        self._copied.clear()

    def owns(self, module: nn.Module) -> bool:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        return False

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""

    def on_module_exit(self, module: nn.Module, output: Any) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""

    def on_error(self, error: Exception) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        raise error

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> hooks.Interception | None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        if threading.get_ident() != self._thread:
            return None
        position = self.position
        self.position += 1
        pure = getattr(function, "__name__", "") in _PURE and "out" not in kwargs
        if self._until is None:
            if pure:
                return hooks.Interception(wrap=partial(self._store, position))
            self._copy_stored(args, kwargs)
        elif pure and position < self._until:
            stored_function, result = self._results.get(position, (None, None))
            if stored_function is function and result is not None:
                copy = position in self._copied
                return hooks.Interception(wrap=partial(_reuse, result, copy))
        return None

    def _store(self, position: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            self._results[position] = function, result
            self._positions[id(result)] = position
        return result

    def _copy_stored(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy stored results among the arguments of a function that may overwrite or view them."""
        for tensor in (*tensors(args), *tensors(kwargs.values())):
            position = self._positions.pop(id(tensor), None)
            if position is not None:
                self._results[position] = self._results[position][0], tensor.clone()
                self._copied.add(position)

    @contextmanager
    def _registered(self, until: int | None) -> Iterator[None]:
        self.position, self._until, self._thread = 0, until, threading.get_ident()
        try:
            hooks.register(self)
            yield
        finally:
            hooks.remove(self)


def _reuse(result: Tensor, copy: bool, *_: Any, **__: Any) -> Tensor:
    return result.clone() if copy else result
