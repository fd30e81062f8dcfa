"""PyTorch Lightning: see :mod:`spectroscope.training.lightning`."""

from spectroscope.training.lightning import RectifierMonitor as RectifierMonitor
