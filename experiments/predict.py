"""Asks trained models whether a review is favourable.

    python experiments/imdb.py predict "A film that one can only admire."
    python experiments/imdb.py predict --file review.txt
    python experiments/imdb.py predict < review.txt

Models are read from the folder in which python experiments/imdb.py has left them.
"""

import argparse
import io
import sys
from pathlib import Path

from experiments import reviews, saved
from experiments.model import LAYERS


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="imdb.py predict",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="a review; without, and without --file, standard input"
    )
    parser.add_argument("--file", type=Path, action="append", default=[], help="a file with a review; may be repeated")
    parser.add_argument(
        "--model", type=Path, default=Path("runs/imdb"), help="folder with trained models [%(default)s]"
    )
    parser.add_argument("--cell", choices=[*LAYERS], help="which of them to ask [all that there are]")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Prints probability and verdict of each review; ends with a line on standard error where that cannot be."""
    options = parse(arguments)
    try:
        models = saved.load_all(options.model, options.cell)
        texts = [*options.texts, *(_text(str(path), path.read_bytes()) for path in options.file)]
        if not texts:
            content = getattr(sys.stdin, "buffer", sys.stdin).read()  # a stream of text where somebody has replaced it
            texts = [_text("standard input", content)]
        for model in models:
            print(model)
            for text in texts:
                print("\n".join(verdict(model, text)))
    except BrokenPipeError:  # whoever reads this has had enough
        raise
    except (saved.ModelUnavailable, ValueError, OSError) as error:
        raise SystemExit(f"imdb.py predict: {error}") from error


def _text(where: str, content: bytes | str) -> str:
    """What a file says; ``where`` it is, for errors."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        return io.StringIO(text, newline=None).read()  # ends of lines as in any text
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: expected text in UTF-8, got something else: {error}") from error


def verdict(model: saved.Model, text: str) -> list[str]:
    """What is to be said of a review, line by line: probability, verdict, and how it was read.

    Raises:
      ValueError: for a text without a word that the model has met.
    """
    known = model.check(text)
    (probability,) = model.probabilities([text])
    lines = [f"{probability:.3f} {'favourable' if probability > 0.5 else 'unfavourable'}: {shortened(text)}"]
    if unknown := sorted({*reviews.tokenize(text)} - {*known}):
        lines.append(f"  left out, since no review of the training has them: {', '.join(unknown)}")
    if rare := sorted(word for word in {*known} if model.numbers[word] >= model.settings["num_words"]):
        lines.append(f"  all read as one and the same rare word: {', '.join(rare)}")
    if len(known) > model.settings["maxlen"]:
        lines.append(f"  only the last {model.settings['maxlen']} of its {len(known)} words are read")
    return lines


def shortened(text: str, length: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."
