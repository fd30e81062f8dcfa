"""Mathematics on arrays and tensors: no modules, no hooks, no data frames."""
