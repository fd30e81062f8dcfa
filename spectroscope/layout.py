"""Where the nodes and edges of a network are drawn: the frame of `Report.network` on a plane.

Like lines of text: along a line the depth, from left to right; a change of the sampling rate begins
a new line, and so does one that is too long. Branches are lanes of a line, one below the other.
Positions are in steps from node to node; y points down.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

Point: TypeAlias = tuple[float, float]

_GAP = 1.9  # from the last lane of a line to the first of the next
_GUTTER = 1.05  # from a line's first lane up to the edges between it and the line before
_CHARACTER = 0.28  # width of a character of a block's name, in steps
_MIN_BLOCK = 3.2  # steps of a block with a name, on average

# Operations of nodes whose place may be a module alone.
_MODULES = {"activation", "module", "attention"}


class Edge(NamedTuple):
    """A line from one node to another.

    Attributes:
        source: node.
        target: node.
        points: of a polyline.
    """

    source: str
    target: str
    points: list[Point]


class Text(NamedTuple):
    """A text and the place where it begins."""

    text: str
    x: float
    y: float


class Map(NamedTuple):
    """A network on a plane.

    Attributes:
        nodes: place of each node.
        edges: between them.
        rates: of each line that begins with another sampling rate.
        blocks: names of the modules that nodes are in.
        left: lowest x of anything but `rates`.
        width: highest x of any node.
        height: highest y of any node.
    """

    nodes: dict[str, Point]
    edges: list[Edge]
    rates: list[Text]
    blocks: list[Text]
    left: float
    width: float
    height: float


class _Line(NamedTuple):
    """Nodes of one line, by column and lane, from the first column of it on."""

    nodes: dict[str, tuple[int, int]]
    top: float


def network_map(network: "pd.DataFrame", columns: int = 48) -> Map:
    """Place the nodes of `Report.network()`, with at most about `columns` of them in a line."""
    inputs = dict(zip(network["node"], network["inputs"], strict=True))
    inputs = {name: [x for x in given if x in inputs] for name, given in inputs.items()}
    order = _topological(inputs)
    inputs = _acyclic(inputs, order)
    rates = dict(zip(network["node"], zip(network["shape"], network["decimation"], network["fs"],
                                          strict=True), strict=True))  # fmt: skip
    bands = _bands(order, inputs, rates)
    lines: list[_Line] = []
    labels, top = [], 0.0
    for (_, rate), band in bands.items():
        cells = _lanes(band, inputs)
        for number, part in enumerate(_wrapped(cells, inputs, columns)):
            if number == 0:
                labels.append(Text(_rate(rate, rates), 0.0, top))
            lines.append(_Line(part, top))
            top += max(lane for _, lane in part.values()) + _GAP
    line_of = {name: line for line in lines for name in line.nodes}
    places = {
        name: (float(line.nodes[name][0]), line.top + line.nodes[name][1])
        for name, line in line_of.items()
    }
    router = _Router(lines, line_of, places)
    edges = [
        Edge(source, name, router.points(source, name)) for name in order for source in inputs[name]
    ]
    left = min((x for edge in edges for x, _ in edge.points), default=0.0)
    width = max((x for x, _ in places.values()), default=0.0)
    height = max((y for _, y in places.values()), default=0.0)
    return Map({name: places[name] for name in network["node"]}, edges, labels,
               _blocks(network, lines), left, width, height)  # fmt: skip


def _topological(inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """The nodes, each behind its inputs, but for cycles; otherwise in their order."""
    order: dict[str, None] = {}
    started = set()
    for first in inputs:
        stack = [first]
        while stack:
            name = stack[-1]
            started.add(name)
            waiting = [x for x in inputs[name] if x not in started]
            if waiting:
                stack.append(waiting[0])
            else:
                order.setdefault(stack.pop())
    return list(order)


def _acyclic(inputs: Mapping[str, list[str]], order: Iterable[str]) -> dict[str, list[str]]:
    """Without edges that go back, as where the order of two nodes differs between forwards."""
    number = {name: i for i, name in enumerate(order)}
    return {name: [x for x in given if number[x] < number[name]] for name, given in inputs.items()}


def _bands(
    order: Sequence[str], inputs: Mapping[str, Sequence[str]], rates: Mapping[str, Any]
) -> dict[tuple[int, float], list[str]]:
    """The nodes by the number of changes of the sampling rate before them, and by their rate.

    A node without an axis of time or space, or of unknown rate, is where those before it are.
    """
    key = 0, 1.0
    keys: dict[str, tuple[int, float]] = {}
    for name in order:
        shape, decimation, _ = rates[name]
        known = not math.isnan(decimation) and any(length != 1 for length in shape[1:])
        before = [keys[x] for x in inputs[name]]
        if before:
            key = max(before)
            if known:
                level = max(number + (rate != decimation) for number, rate in before)
                key = level, decimation
        elif known:
            key = (key[0] if decimation == key[1] or not keys else key[0] + 1), decimation
        keys[name] = key
    bands: dict[tuple[int, float], list[str]] = {}
    for name in sorted(order, key=lambda name: keys[name][0]):
        bands.setdefault(keys[name], []).append(name)
    return bands


def _rate(decimation: float, rates: Mapping[str, Any]) -> str:
    """The sampling rate in words."""
    hz = next((fs for _, own, fs in rates.values() if own == decimation and not math.isnan(fs)),
              math.nan)  # fmt: skip
    if not math.isnan(hz) and not math.isclose(hz * decimation, 1.0):
        return f"{hz:.4g} Hz"
    if decimation == 1:
        return "full rate"
    return f"1/{decimation:.4g}" if decimation > 1 else f"{1 / decimation:.4g} ×"


def _lanes(band: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Column and lane of each node of a band.

    The column is the length of the longest way to it. The longest chain of nodes is in lane 0, the
    others in the first lane where nothing is in their way.
    """
    column: dict[str, int] = {}
    consumers: dict[str, list[str]] = {name: [] for name in band}
    for name in band:
        before = [x for x in inputs[name] if x in column]
        column[name] = 1 + max((column[x] for x in before), default=-1)
        for x in before:
            consumers[x].append(name)
    remaining: dict[str, int] = {}
    for name in reversed(band):
        remaining[name] = 1 + max((remaining[x] for x in consumers[name]), default=0)
    main = {
        name: max((x for x in inputs[name] if x in column), key=column.__getitem__, default=None)
        for name in band
    }
    chains: list[list[str]] = []
    chain_of: dict[str, list[str]] = {}
    for name in band:
        source = main[name]
        if source is not None and chain_of[source][-1] == source:
            following = [x for x in consumers[source] if main[x] == source]
            if max(following, key=remaining.__getitem__) == name:
                chain_of[source].append(name)
                chain_of[name] = chain_of[source]
                continue
        chain_of[name] = [name]
        chains.append(chain_of[name])
    lanes: list[list[tuple[int, int]]] = []
    lane_of: dict[str, int] = {}
    for chain in sorted(chains, key=len, reverse=True):
        source = main[chain[0]]
        start = column[chain[0]] if source is None else column[source] + 1
        end = max([column[chain[-1]], *(column[x] - 1 for x in consumers[chain[-1]])])
        lane = next(
            (i for i, taken in enumerate(lanes) if all(end < a or b < start for a, b in taken)),
            len(lanes),
        )
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((start, end))
        lane_of |= dict.fromkeys(chain, lane)
    return {name: (column[name], lane_of[name]) for name in band}


def _wrapped(
    cells: Mapping[str, tuple[int, int]], inputs: Mapping[str, Sequence[str]], columns: int
) -> list[dict[str, tuple[int, int]]]:
    """The lines of a band, broken where few edges go on."""
    length = 1 + max(column for column, _ in cells.values())
    crossing = [0] * (length + 1)  # edges over the left border of each column
    for name, (column, _) in cells.items():
        for x in inputs[name]:
            if x in cells:
                for between in range(cells[x][0] + 1, column + 1):
                    crossing[between] += 1
    breaks = [0]
    while length - breaks[-1] > columns:
        candidates = range(breaks[-1] + columns, breaks[-1] + columns // 2, -1)
        breaks.append(min(candidates, key=crossing.__getitem__))
    lines = []
    for start, stop in pairwise([*breaks, length]):
        part = {name: (column - start, lane) for name, (column, lane) in cells.items()
                if start <= column < stop}  # fmt: skip
        used = {lane: i for i, lane in enumerate(sorted({lane for _, lane in part.values()}))}
        lines.append({name: (column, used[lane]) for name, (column, lane) in part.items()})
    return lines


class _Router:
    """Finds ways of edges around nodes."""

    def __init__(
        self, lines: list[_Line], line_of: Mapping[str, _Line], places: Mapping[str, Point]
    ) -> None:
        self._number = {id(line): i for i, line in enumerate(lines)}
        self._lines = lines
        self._line_of = line_of
        self._places = places
        self._cells = [set(line.nodes.values()) for line in lines]
        self._far = 0

    def points(self, source: str, target: str) -> list[Point]:
        """The polyline from one node to another."""
        start, end = self._places[source], self._places[target]
        line, other = self._line_of[source], self._line_of[target]
        if line is not other:
            return [start, *self._between(line, other, start, end), end]
        (a, lane), (b, other_lane) = line.nodes[source], line.nodes[target]
        if lane == other_lane:
            return [start, end] if self._is_free(line, lane, a, b) else _arc(start, end)
        if self._is_free(line, other_lane, a, b):
            return [start, (a + 0.5, start[1]), (a + 0.5, end[1]), end]
        if self._is_free(line, lane, a, b):
            return [start, (b - 0.5, start[1]), (b - 0.5, end[1]), end]
        y = max(start[1], end[1]) - 0.5
        return [start, (a + 0.5, start[1]), (a + 0.5, y), (b - 0.5, y), (b - 0.5, end[1]), end]

    def _is_free(self, line: _Line, lane: int, start: int, stop: int) -> bool:
        cells = self._cells[self._number[id(line)]]
        return not any((column, lane) in cells for column in range(start + 1, stop))

    def _between(self, line: _Line, other: _Line, start: Point, end: Point) -> list[Point]:
        """The way from the right of a node to the left of one in another line."""
        number, target = self._number[id(line)], self._number[id(other)]
        following = self._lines[number + 1].top if number + 1 < len(self._lines) else other.top
        below, above = following - _GUTTER, other.top - _GUTTER
        right, left = start[0] + 0.5, end[0] - 0.5
        if target == number + 1:
            return [(right, start[1]), (right, below), (left, below), (left, end[1])]
        self._far += 1
        margin = -1.0 - 0.2 * (self._far % 5)
        return [(right, start[1]), (right, below), (margin, below), (margin, above),
                (left, above), (left, end[1])]  # fmt: skip


def _arc(start: Point, end: Point) -> list[Point]:
    """Over the nodes between two of one lane; the longer, the higher."""
    (a, y), (b, _) = start, end
    height = min(0.4 + 0.03 * (b - a), 0.8)
    steps = range(13)
    return [(a + (b - a) * i / 12, y - height * math.sqrt(math.sin(math.pi * i / 12)))
            for i in steps[:-1]] + [end]  # fmt: skip


def _blocks(network: "pd.DataFrame", lines: Sequence[_Line]) -> list[Text]:
    """Names below each line: as many parts of the modules' names as leave room for them."""
    modules = {
        node: place.partition("/")[0].split(".") if "/" in place or operation in _MODULES else []
        for node, operation, place in zip(
            *(network[name] for name in ("node", "operation", "place")), strict=True
        )
    }
    named = [parts for parts in modules.values() if parts and parts != [""]]
    while named and all(len(parts) > 1 for parts in named) and len({x[0] for x in named}) == 1:
        for parts in named:
            del parts[0]
    runs: list[tuple[_Line, str, int, int]] = []
    for count in range(1, max(map(len, named), default=0) + 1):
        names = {node: ".".join(parts[:count]) for node, parts in modules.items()}
        finer = [(line, *run) for line in lines for run in _runs(line, names)]
        if runs and sum(stop - start for *_, start, stop in finer) < _MIN_BLOCK * len(finer):
            break
        runs = finer
    texts = []
    for line in lines:
        y = line.top + max(lane for _, lane in line.nodes.values())
        taken: list[tuple[float, float]] = []
        # The longest first: of those that would cover each other it says most.
        for _, name, start, stop in sorted((run for run in runs if run[0] is line),
                                           key=lambda run: run[2] - run[3]):  # fmt: skip
            room = min((a for a, _ in taken if a >= start), default=math.inf) - start
            if any(a <= start < b for a, b in taken):
                continue
            room = min(room, max(stop - start, 4))
            fitting = (x for x in (name, name.rpartition(".")[2]) if _CHARACTER * len(x) < room)
            short = next(fitting, None)
            if short is not None:
                texts.append(Text(short, start, y))
                taken.append((start, start + _CHARACTER * len(short) + 0.3))
    return texts


def _runs(line: _Line, names: Mapping[str, str]) -> Iterable[tuple[str, int, int]]:
    """Names of successive nodes of a line, each with its first column and that behind it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for node, (column, _) in line.nodes.items():
        if names[node]:
            first[names[node]] = min(column, first.get(names[node], column))
            last[names[node]] = max(column, last.get(names[node], column))
    for name, start in first.items():
        yield name, start, last[name] + 1
