"""See what the ReLUs of a trained CNN do to its signals: DC and spectra, layer by layer."""

import os

import lazy_loader

# In a checkout adapters/ lies beside this folder, and is found there whoever imports from it.
if not os.path.isdir(os.path.join(__path__[0], "adapters")):
    __path__.append(os.path.dirname(__path__[0]))

# The public names are those of `__init__.pyi`. Each is imported at first use: `import spectroscope`
# takes milliseconds and loads no torch, pandas or scipy.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
