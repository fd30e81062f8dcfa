"""What a recording is of, for people to read: the model, when, and by which versions."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def of(model: nn.Module) -> dict[str, str]:
    """What can be said of any recording without being told: `model`, `recorded`, `versions`."""
    parameters = sum(p.numel() for p in model.parameters() if not is_lazy(p))
    versions = {
        "spectroscope": version("relu-spectroscope"),
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
    return {
        "model": f"{type(model).__name__}, {parameters:,} parameters",
        "recorded": datetime.now(UTC).isoformat(" ", "seconds"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
