"""Pure mathematics on arrays and tensors: no modules, no hooks, no tables."""
