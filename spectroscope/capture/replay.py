"""The work before a site, done once: a forward whose first results are those of an earlier one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from spectroscope.capture import hooks
from spectroscope.capture.axes import tensors

# What takes the time, and returns a new tensor that depends on the arguments alone.
_PURE = {
    *(f"{name}{n}d" for n in (1, 2, 3) for name in ("conv", "conv_transpose", "_max_pool",
      "max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_max_pool")),
    "linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "einsum", "batch_norm",
    "layer_norm", "group_norm", "instance_norm", "scaled_dot_product_attention", "interpolate",
    "softmax", "gelu", "silu", "cat", "concat", "add", "__add__", "mul", "__mul__",
}  # fmt: skip


class Replay:
    """An observer that keeps results of one forward, and gives them to later ones.

    Only those of functions that take the time: the others run again, on what was kept. So every
    branch that the model's own code takes before the point is taken again.

    A model must do the same whenever it is given the same: be in eval mode.
    """

    changes_outputs = True
    compiled = False

    def __init__(self) -> None:
        self.position = 0  # of the next torch function of the forward
        self._until: int | None = None
        self._thread: int | None = None
        # By position: the function, and what it returned.
        self._kept: dict[int, tuple[Callable[..., Any], Tensor]] = {}
        self._place: dict[int, int] = {}  # position, by the id of what is kept
        self._touched: set[int] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the results of the forward that runs in the block, and forget those of others."""
        self.forget()
        with self._registered(None):
            yield

    @contextmanager
    def up_to(self, position: int) -> Iterator[None]:
        """Answer with what was kept, in the forward that runs in the block, before `position`."""
        with self._registered(position):
            yield

    def forget(self) -> None:
        """Free the memory."""
        self._kept.clear()
        self._place.clear()
        self._touched.clear()

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
                return hooks.Interception(wrap=partial(self._keep, position))
            self._save_from(args, kwargs)
        elif pure and position < self._until:
            known, result = self._kept.get(position, (None, None))
            if known is function and result is not None:
                copied = position in self._touched
                return hooks.Interception(wrap=partial(_again, result, copied))
        return None

    def _keep(self, position: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            self._kept[position] = function, result
            self._place[id(result)] = position
        return result

    def _save_from(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy what is kept before a function gets it that may overwrite it, or view it."""
        for tensor in (*tensors(args), *tensors(kwargs.values())):
            position = self._place.pop(id(tensor), None)
            if position is not None:
                self._kept[position] = self._kept[position][0], tensor.clone()
                self._touched.add(position)

    @contextmanager
    def _registered(self, until: int | None) -> Iterator[None]:
        self.position, self._until, self._thread = 0, until, threading.get_ident()
        try:
            hooks.register(self)
            yield
        finally:
            hooks.remove(self)


def _again(result: Tensor, copied: bool, *_: Any, **__: Any) -> Tensor:
    return result.clone() if copied else result
