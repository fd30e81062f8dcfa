"""Graphs traced by `torch.export` or `torch.fx`: the module that each line of code comes from."""

import re

from torch import fx

from spectroscope.capture import activations

_CLASSES = {
    f"{cls.__module__}.{cls.__qualname__}": activation.kind
    for activation in activations.ACTIVATIONS
    for cls in activation.modules
}


def origins(module: fx.GraphModule) -> dict[int, tuple[str, str | None]]:
    """The traced module behind each line of ``module.code``: its name, and the kind of activation.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.ReLU())
    >>> exported = torch.export.export(net, (torch.ones(1),)).module()
    >>> list(origins(exported).values())[-1]
    ('0', 'ReLU')
    """
    nodes = {}
    for node in module.graph.nodes:
        if stack := node.meta.get("nn_module_stack"):
            name, cls = list(stack.values())[-1]
            cls = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"
            nodes[node.name] = name, _CLASSES.get(cls)
    # Each line assigns to the name of its node.
    targets = (re.match(r"\s*(\w*)", line) for line in module.code.splitlines())
    return {
        number: nodes[target[1]]
        for number, target in enumerate(targets, start=1)
        if target is not None and target[1] in nodes
    }
