"""Homes that are not there, terminals that are none, languages without the letters, and two programs in one folder."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults import archives, programs
from tests.faults.verdicts import Case, Setting, Verdict, expect

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}


def cases(setting: Setting) -> Iterator[Case]:
    """Each of them once."""
    variables = programs.environment(setting.folder / "compiled")
    (place := setting.folder / "first").mkdir()
    yield programs.judge("nothing odd", programs.run(programs.commanded(place), variables))
    if setting.quick:
        return
    yield from homes(setting.folder, variables)
    yield from languages(setting.folder, variables, place / "out")
    yield from streams(setting.folder, variables, place / "out")
    yield from together(setting.folder, variables)


def homes(folder: Path, variables: dict[str, str]) -> Iterator[Case]:
    """Homes that cannot be written, or are none."""
    (locked := folder / "locked").mkdir()
    os.chmod(locked, 0o555)
    nowhere = {
        name: value for name, value in variables.items() if name not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")
    }
    tries = [
        ("a read-only home", variables | {"HOME": str(locked)}, programs.without_privileges),
        ("a home that is not there", variables | {"HOME": str(folder / "none")}, programs.without_privileges),
        ("no home, and a user who is in no list", nowhere, programs.as_nobody_known),
    ]
    for fault, these, change in tries:
        for number, arguments in enumerate((["--data", "generated"], ["--data", "auto"], ["--data", "imdb"])):
            place = folder / f"{fault} {number}"
            place.mkdir()
            os.chmod(place, 0o777)
            offline = {name: value for name, value in these.items() if name != "TFDS_DATA_DIR"} | programs.OFFLINE
            # What is compiled goes into a folder that this user may have made by somebody else.
            offline.pop("JAX_COMPILATION_CACHE_DIR", None)
            ended = programs.run(change(programs.commanded(place, *arguments)), offline, cwd=place)
            words = "cannot get the IMDB reviews" if arguments[1] == "imdb" else None
            yield programs.judge(fault, ended, words, " ".join(arguments))
    os.chmod(locked, 0o755)


def languages(folder: Path, variables: dict[str, str], trained: Path) -> Iterator[Case]:
    """Output that has no letters but those of ASCII, for training and for asking."""
    fault = "a locale that is not UTF-8"
    these = variables | ASCII
    (place := folder / "caf\u00e9").mkdir()
    ended = programs.run(programs.commanded(place), these)
    yield programs.judge(fault, ended, "--checkpoint: .*PYTHONUTF8", "checkpoints in a folder caf\u00e9")
    ended = programs.run([*programs.IMDB, *programs.TINY[:-2], "--output", str(place / "out")], these)
    yield programs.judge(fault, ended, what="results in a folder caf\u00e9")
    model = ["predict", "--model", str(trained), "--cell", "lstm"]
    for text in ("the film", "caf\u00e9 film \U0001f600", "film \udcff"):
        ended = programs.run([*programs.IMDB, *model, os.fsencode(text)], these)
        yield programs.judge(fault, ended, "imdb.py predict: ", ascii(text))
    (review := folder / "review.txt").write_text("the caf\u00e9 film \U0001f600", encoding="utf-8")
    ended = programs.run([*programs.IMDB, *model, "--file", str(review)], these)
    yield programs.judge(fault, ended, "imdb.py predict: ", "a file")
    with review.open("rb") as stream:
        ended = programs.run([*programs.IMDB, *model], these, stdin=stream)
    yield programs.judge(fault, ended, "imdb.py predict: ", "standard input")
    ended = programs.run([*programs.IMDB, "predict", "the film", "--model", str(place / "out")], these)
    yield programs.judge(fault, ended, "imdb.py predict: ", "a model in a folder caf\u00e9")
    for arguments in (["--help"], ["predict", "--help"], ["--cell", "caf\u00e9"]):
        ended = programs.run([*programs.IMDB, *arguments], these)
        yield programs.judge(fault, ended, "imdb.py: error: ", ascii(arguments))


def streams(folder: Path, variables: dict[str, str], trained: Path) -> Iterator[Case]:
    """A reader that goes away, and streams that are closed."""
    endings = {
        "| head -n 1": "| head", "> /dev/full": "standard output is a full disk", ">&- 2>&- <&-": "closed streams",
        ">&-": "closed streams", "2>&-": "closed streams", "<&-": "closed streams",
    }  # fmt: skip
    predict = f"predict --model {trained} 'the film' 'no film'"
    for arguments in (" ".join(programs.TINY[:-2]) + f" --output {folder / 'piped'}", predict, "--help"):
        for ending, fault in [*endings.items()][: 3 if "--output" in arguments else None]:
            line = f"{sys.executable} {programs.IMDB[1]} {arguments} {ending}"
            ended = programs.run(["bash", "-c", f"set -o pipefail; {line}"], variables)
            yield programs.judge(fault, ended, "", line)
    for ending in ("<&-", "< /dev/null"):
        line = f"{sys.executable} {programs.IMDB[1]} predict --model {trained} {ending}"
        yield programs.judge("closed streams", programs.run(["bash", "-c", line], variables), "imdb.py predict: ", line)


def together(folder: Path, variables: dict[str, str]) -> Iterator[Case]:
    """Two programs at once: in one folder of checkpoints, of results, of data."""
    archive = archives.place(folder / "archive")

    def command(place: Path, checkpoint: str | None, output: str, data: str) -> list[str]:
        manual = place / data / "downloads" / "manual"
        if not manual.exists():
            manual.mkdir(parents=True)
            (manual / archive.name).write_bytes(archive.read_bytes())
        saves = [] if checkpoint is None else ["--checkpoint", str(place / checkpoint), "--every", "20"]
        return [
            sys.executable, "-m", "tests.faults.archives", str(archive), *programs.TINY[:-2], "--data", "imdb",
            "--data-dir", str(place / data), "--output", str(place / output), *saves,
        ]  # fmt: skip

    alone = folder / "alone"
    yield programs.judge("nothing odd", programs.run(command(alone, "saves", "out", "data"), variables))
    weights = (alone / "out" / "lstm.safetensors").read_bytes()
    kinds: dict[str, tuple[tuple[str | None, str, str], tuple[str | None, str, str]]] = {
        "checkpoints": (("saves", "out-0", "data-0"), ("saves", "out-1", "data-1")),
        "results": ((None, "out", "data-0"), (None, "out", "data-1")),
        "data": ((None, "out-0", "data"), (None, "out-1", "data")),
        "everything": (("saves", "out", "data"), ("saves", "out", "data")),
    }
    for kind, pair in kinds.items():
        for number, delay in enumerate((0.0, 2.0)):
            place = folder / f"{kind} {number}"
            commands = [command(place, *parts) for parts in pair]
            yield from _both(f"two programs at once, same {kind}", commands, variables, delay, place, weights)


def _both(
    fault: str, commands: list[list[str]], variables: dict[str, str], delay: float, place: Path, weights: bytes
) -> Iterator[Case]:
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        processes: list[subprocess.Popen[bytes]] = []
        for command, output in zip(commands, (first, second), strict=True):
            processes.append(programs.start(command, variables, output=output))
            time.sleep(delay)
        ended: list[programs.Ended] = []
        for process, output in zip(processes, (first, second), strict=True):
            code = process.wait(programs.SECONDS)
            output.seek(0)
            ended.append(programs.Ended(code, output.read().decode(errors="replace")))
    found = [programs.judge(fault, one, "in use by another program", f"{delay} s apart") for one in ended]
    yield from found
    if not any(case.verdict is Verdict.SURVIVED for case in found):
        yield Case(fault, Verdict.LOST, f"{delay} s apart: neither did what it should: {ended[0].last} {ended[1].last}")
    for path in place.rglob("lstm.safetensors"):
        yield expect(fault, path.read_bytes() == weights, f"{delay} s apart: {path} has other weights")
