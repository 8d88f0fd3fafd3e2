"""What a benchmark leaves behind: figures as JSON and a page in Markdown, written as a whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(stem: Path, everything: dict[str, Any], page: str) -> None:
    """``stem`` with the endings ``.json`` and ``.md``; whoever is killed meanwhile leaves what there was before."""
    replace(stem.with_name(f"{stem.name}.json"), json.dumps(everything, indent=1) + "\n")
    replace(stem.with_name(f"{stem.name}.md"), page)


def replace(path: Path, text: str) -> None:
    """A file as a whole, in a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
