"""Make the pictures of docs/gallery.md by the code that stands above each of them there.

python examples/gallery.py [NAME ...]
"""

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image

GALLERY = Path(__file__).parents[1] / "docs/gallery.md"
# A block of code and, if there is one, the picture below it.
_BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n!\[[^\]]*\]\((\S+)\))?", re.DOTALL)


def pictures(text: str) -> dict[str, Any]:
    """What the code of a gallery makes: by path of the picture, the Axes it is of."""
    names: dict[str, Any] = {}
    made = {}
    for code, picture in _BLOCK.findall(text):
        exec(compile(code, GALLERY.name, "exec"), names)
        if picture:
            made[picture] = names.pop("ax")
    return made


def main() -> int:
    """Write all pictures, or those whose names are arguments."""
    mpl.use("Agg")
    from spectroscope import plots

    wanted = sys.argv[1:]
    with mpl.rc_context({"figure.max_open_warning": 0}):
        for picture, ax in pictures(GALLERY.read_text("utf-8")).items():
            path = GALLERY.parent / picture
            if not wanted or path.stem in wanted:
                plots.save(ax, path, dpi=100)
                Image.open(path).quantize(64).save(path, optimize=True)  # a third of the size
    return 0


if __name__ == "__main__":
    sys.exit(main())
