"""`Observer`: protocol for observers of module and function calls."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import nn

from spectroscope.capture.memory import ForwardMemory


class Interception(NamedTuple):
    """What an observer does with one torch function call.

    Attributes:
        wrap: called instead of the function, with the function and its arguments. Its result
            replaces the function's; its exceptions reach the model.
        on_output: called with the result that the model gets; the return value is ignored.
    """

    wrap: Callable[..., Any] | None = None
    on_output: Callable[[Any], Any] | None = None


class Observer(Protocol):
    """Protocol for observers of module and function calls."""

    @property
    def changes_outputs(self) -> bool:
        """Whether it changes what functions and modules return."""

    @property
    def compiled(self) -> bool:
        """Whether the observed model has compiled parts."""

    def owns(self, module: nn.Module) -> bool:
        """Whether `module` belongs to the observed model."""

    def memory(self) -> ForwardMemory | None:
        """The memory of this thread's forwards; None: nothing is skipped.

        The other methods aren't called of a step that it skips, if there is no other observer.
        """

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Called before `module` runs, with the positional arguments."""

    def on_module_exit(self, module: nn.Module, output: Any) -> Any:
        """Called after `module` ran; `output` is None if it raised.

        Returns:
            What replaces the output, or None to keep it.
        """

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> Interception | None:
        """Called before a torch function runs; `wrapped`: an observer may replace its result."""

    def on_error(self, error: Exception) -> None:
        """Called with what another method, or the `on_output` of an interception, raised."""
