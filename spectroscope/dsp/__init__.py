"""Mathematics on arrays and tensors: no modules, no hooks, no data frames."""

import lazy_loader

# Only `theory`, which the package's public names need as an attribute.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
