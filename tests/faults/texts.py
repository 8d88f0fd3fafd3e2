"""Odd reviews: empty, gigantic, of every script, not text at all; asked about, and trained on."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.faults import archives, programs, subjects
from tests.faults.verdicts import Case, Setting, Verdict, expect

LARGE = 10 << 20

ODD = {
    "nothing": "",
    "spaces": " \t\n\r\v\f\u2028\u00a0\u3000",
    "punctuation": "...!?!...",
    "null": "dull\0film\0",
    "only nulls": "\0" * 1000,
    "combining": "du\u0301ll fi\u0301lm " + "a" + "\u0301" * 10_000,
    "right to left": "\u202efilm dull\u202c \u05e1\u05e8\u05d8 \u0641\u064a\u0644\u0645",
    "emoji": "film \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f600" * 100,
    "capitals that grow": "\u0130 \ufb03 \u1e9e film",
    "no characters": "film \ufffe\uffff \U0010ffff",
    "byte order mark": "\ufefffilm dull",
    "surrogates": "film \ud800 dull \udcff",
    "control": "film \x1b[31m \x07\x08 dull",
    "CJK": "\u96fb\u5f71" * 5000,
    "one long word": "film " + "x" * 1_000_000,
    "markup": "<br />[bold]film[/bold] {film} %s %n \\N{BULLET}",
}
"""Reviews, of which some have words that the model knows and some have none."""

BYTES = {
    "no UTF-8": b"film \xff\xfe\x80 dull",
    "Latin-1": "film tr\u00e8s dull".encode("latin-1"),
    "UTF-16": "film dull".encode("utf-16"),
    "cut off": "film \u00e9".encode()[:-1],
    "too long a form": b"film \xc0\x80",
    "noise": np.random.default_rng(0).bytes(10_000),
    "empty": b"",
}
"""Files that are not text."""

_NO_WORDS = "imdb.py predict: .*(expected|codec|UTF-8)"


def cases(setting: Setting) -> Iterator[Case]:
    """Odd reviews by every way in."""
    folder = subjects.make_saved(setting.folder)
    gigantic = {"10 MB of known words": "film dull " * (LARGE // 10), "10 MB of one word": "x" * LARGE}
    gigantic["10 MB of different words"] = " ".join(map(str, range(LARGE // 8)))
    chosen = ODD | ({} if setting.quick else gigantic)
    for name, text in chosen.items():
        yield asked(f"review: {'gigantic' if name in gigantic else 'odd'}", name, [text], folder)
    files = {name: text.encode("utf-8", "surrogatepass") for name, text in chosen.items()} | BYTES
    for name, content in files.items():
        (path := setting.folder / "review.txt").write_bytes(content)
        yield asked("review: file of anything", name, ["--file", str(path)], folder)
    if not setting.quick:
        yield from commands(setting, folder, files)
    yield from trained(setting, files)


def asked(fault: str, name: str, arguments: list[str], folder: Path) -> Case:
    """What the command says of a review, or why it does not; in this process."""
    from experiments import predict

    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8", "replace")):
        try:
            predict.main([*arguments, "--model", str(folder)])
        except SystemExit as error:
            return expect(fault, isinstance(error.code, str), f"{name}: status {error.code}", Verdict.CLEAR)
        except Exception as error:
            return Case(fault, Verdict.LOST, f"{name}: {type(error).__name__}: {error}")
    return Case(fault, Verdict.SURVIVED)


def commands(setting: Setting, folder: Path, files: dict[str, bytes]) -> Iterator[Case]:
    """The same as a program: by its arguments, and by its standard input."""
    variables = programs.environment()
    command = [*programs.IMDB, "predict", "--model", str(folder)]
    for name, content in files.items():
        if b"\0" not in content and len(content) < 1 << 17:  # which no system lets through
            ended = programs.run([*map(str.encode, command), b"--", content], variables)
            yield programs.judge("review: argument of any bytes", ended, _NO_WORDS, name)
        (path := setting.folder / "stdin").write_bytes(content)
        with path.open("rb") as stream:
            ended = programs.run(command, variables, stdin=stream)
        yield programs.judge("review: standard input of any bytes", ended, _NO_WORDS, name)


def trained(setting: Setting, files: dict[str, bytes]) -> Iterator[Case]:
    """Archives with odd reviews: those with words train, and what is no UTF-8 is told."""
    kinds = {
        "odd reviews": [files[name] for name in ODD if name != "surrogates"],
        "no words at all": [b"", b"...", b" "],
        "no UTF-8": [*BYTES.values()],
        "10 MB": [files.get("10 MB of known words", b"film " * 1000), b"dull"],
    }
    for name, texts in kinds.items() if not setting.quick else ():
        folder = setting.folder / name
        path = folder / "data" / "downloads" / "manual" / "aclImdb_v1.tar.gz"
        archives.write(path, texts * 2, texts)
        command = [
            sys.executable, "-m", "tests.faults.archives", str(path), *programs.TINY[:-2], "--data", "imdb",
            "--data-dir", str(folder / "data"), "--output", str(folder / "out"), "--maxlen", "8",
        ]  # fmt: skip
        ended = programs.run(command, programs.environment())
        yield programs.judge("review: odd ones to train on", ended, "cannot get the IMDB reviews", name)
