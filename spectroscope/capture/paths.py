"""`Paths`: what leads from layers to sites and from sites on, found in all forwards so far."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from spectroscope.capture.axes import Layout
from spectroscope.capture.channel_sources import ChannelSources, Sources
from spectroscope.capture.downsampling import DownsamplingLog
from spectroscope.capture.network import Node, from_json, to_json
from spectroscope.capture.pooling import OnlyMean
from spectroscope.capture.sites import Downsampling, Site


class Paths:
    """Sources and downsamplings of the sites of a model.

    Attributes:
        downsamplings: all that lower the sampling rate after a site.
        only_mean: by site, whether nothing but the mean over time or space goes on.
        sources: the layers whose filters the channels of a site are.
        network: the nodes of all forwards so far, by name.
    """

    def __init__(self) -> None:
        self.downsamplings = DownsamplingLog()
        self.only_mean: dict[str, OnlyMean] = {}
        self.sources = ChannelSources(self._layer_of)
        self.network: dict[str, Node] = {}
        self._layers: dict[int, str] = {}  # by the identity of their weight

    def set_layers(self, names: Mapping[nn.Module, list[str]]) -> None:
        """Set the layers that sources may be: the modules of the model, with all their names."""
        self._layers = {
            id(parameter): first if key == "weight" else f"{first}.{key}".lstrip(".")
            for module, (first, *_) in names.items()
            for key, parameter in module._parameters.items()
        }

    def next_downsampling(self, site: Site, layout: Layout) -> Downsampling | None:
        """The next downsampling after a site whose activations have this layout."""
        return self.downsamplings.next(site.name, layout)

    def sources_of(self, site: Site, layout: Layout) -> Sources | None:
        """The layers whose filters the channels of a site are; None if unknown."""
        return self.sources.of(site.name, layout.channel)

    def state_dict(self) -> dict[str, Any]:
        """The paths as plain data."""
        return {
            "downsamplings": self.downsamplings.state_dict(),
            "only_mean": dict(self.only_mean),
            "sources": self.sources.state_dict(),
            "network": to_json(self.network),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state saved by :meth:`state_dict`."""
        self.downsamplings.load_state_dict(state["downsamplings"])
        self.only_mean.clear()
        self.only_mean.update(state["only_mean"])
        self.sources.load_state_dict(state["sources"])
        self.network.clear()
        self.network.update(from_json(state.get("network", {})))  # earlier versions have none

    def _layer_of(self, weight: Tensor) -> str | None:
        """The name of the layer with this weight, which may be a view; None if there is none."""
        return self._layers.get(id(weight if weight._base is None else weight._base))
