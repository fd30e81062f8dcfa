"""See what the ReLUs of a trained CNN do to its signals: DC and spectra, layer by layer."""

import lazy_loader

# The public names are those of `__init__.pyi`. Each is imported at first use: `import spectroscope`
# takes milliseconds and loads no torch, pandas or scipy.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
