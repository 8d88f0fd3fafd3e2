"""What a benchmark leaves behind: figures as JSON and a page in Markdown, written as a whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(stem: Path, everything: dict[str, Any], page: str) -> None:
    """``stem`` with the endings ``.json`` and ``.md``; whoever is killed meanwhile leaves what there was before."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for ending, text in ((".json", json.dumps(everything, indent=1) + "\n"), (".md", page)):
        part = stem.with_name(f"{stem.name}{ending}.part")
        part.write_text(text)
        os.replace(part, stem.with_name(stem.name + ending))
