"""Wrappers of modules (compile, checkpointing, FSDP, DDP): names leave them out."""

from collections.abc import Iterable

from torch import nn
from torch.optim.swa_utils import AveragedModel

# Under these names torch's wrappers have the module: torch.compile, checkpoint_wrapper and FSDP.
_PARTS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
# These have it as `module`, as a user's module may have any other.
_CLASSES = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def is_wrapped(parent: nn.Module, name: str) -> bool:
    """Whether `parent` is a wrapper, and its child `name` the wrapped module."""
    return name in _PARTS or (name == "module" and isinstance(parent, _CLASSES))


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside all wrappers; `module` itself if it is no wrapper."""
    for name, child in module._modules.items():
        if child is not None and is_wrapped(module, name):
            return unwrapped(child)
    return module


def bare_names(names: Iterable[str], like: Iterable[str] | None = None) -> dict[str, str]:
    """The names of a `state_dict`, by the same names without wrappers.

    A prefix ``module.`` may be a wrapper's or a submodule's. It is taken for a wrapper's if every
    name has it, or if no name of the model has it.

    Args:
        names: of parameters and buffers.
        like: names of the model without wrappers; None: unknown.

    >>> bare_names(["module._orig_mod.0.weight", "module._orig_mod.0.bias", "n_averaged"])
    {'0.weight': 'module._orig_mod.0.weight', '0.bias': 'module._orig_mod.0.bias'}
    """
    bare = {".".join(part for part in name.split(".") if part not in _PARTS): name
            for name in names}  # fmt: skip
    own = like is None or any(name.startswith("module.") for name in like)
    while any(name.startswith("module.") for name in bare):
        # AveragedModel counts the averaged models beside what it wraps.
        bare.pop("n_averaged", None)
        if own and not all(name.startswith("module.") for name in bare):
            break
        bare = {name.removeprefix("module."): full for name, full in bare.items()}
    return bare
