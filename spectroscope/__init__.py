"""See what the ReLUs of a trained CNN do to its signals: DC and spectra, layer by layer."""

import os

import lazy_loader

# In a checkout adapters/ lies beside this package, not in it. Python may find the checkout before
# an installed wheel: in its folder, or with PYTHONPATH.
_here = os.path.dirname(__file__)
if not os.path.isdir(os.path.join(_here, "adapters")):
    __path__.append(os.path.dirname(_here))

# The public names are those of `__init__.pyi`. Each is imported at first use: `import spectroscope`
# takes milliseconds and loads no torch, pandas or scipy.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
