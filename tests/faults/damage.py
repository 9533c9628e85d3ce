"""What a crash, a disk or a copy can leave of an interrupted run: each damage once, and what `ft run` makes of it.

    python tests/faults/damage.py            # all of them: about five minutes
    python tests/faults/damage.py trainer    # those whose name holds a word

SAME: the weights are those of an undisturbed run, bit for bit. SAID: exit code 2, and a line names the place. Both are
right. DIFF (other weights, and nothing said), TRACEBACK and DEAD END (the second try ends badly too) are faults, and
then the exit code is 1.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
from ft.__main__ import main as command
from ft.run import run as run_module

TRAIN = {
    **{"max_steps": 12, "save_strategy": "steps", "save_steps": 5, "per_device_train_batch_size": 4},
    **{"eval_strategy": "steps", "eval_steps": 6, "eval_on_start": True, "logging_steps": 5},
}
Damage = Callable[[Path], object]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def say(content: bytes) -> Damage:
    def write(file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    write.__qualname__ = f"says {content!r}"
    return write


def become_a_folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir(parents=True)


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("x", encoding="utf-8")


def become_a_loop(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def drop_manifest(file: Path) -> None:
    (file.parent / "manifest.json").unlink()


def also(*damages: Damage) -> Damage:
    return lambda file: [damage(file) for damage in damages]


def set_time(seconds: int) -> Damage:
    return lambda folder: [os.utime(file, (seconds, seconds)) for file in folder.rglob("*") if file.is_file()]


EMPTY, TEXTS = say(b""), [b"", b"{", b"null", b"[]", b"{}", b'"x"', b"5", b"\xff\xfe"]
NEWEST = "R/S/checkpoints/checkpoint-10/"
STATES = [b'{"global_step": "a"}', b'{"global_step": 8}', b'{"global_step": null}', b'{"global_step": 9999}']
KEYS = [b'{"data": 5, "inputs": 3, "model": []}', b'{"numbers": null}']
CASES: list[tuple[str, Damage]] = [
    *((NEWEST + "model.safetensors", damage) for damage in (cut, EMPTY, shorten, Path.unlink, flip_a_bit)),
    *((NEWEST + "optimizer.pt", damage) for damage in (cut, EMPTY, Path.unlink, flip_a_bit)),
    *((NEWEST + name, damage) for name in ("scheduler.pt", "rng_state.pth") for damage in (Path.unlink, flip_a_bit)),
    *((NEWEST + name, cut) for name in ("config.json", "tokenizer.json", "manifest.json")),
    *((NEWEST + "trainer_state.json", say(text)) for text in (*TEXTS, *STATES)),
    *((NEWEST + "trainer_state.json", also(drop_manifest, say(text))) for text in (*TEXTS, *STATES)),
    *(
        (NEWEST + name, also(drop_manifest, Path.unlink))
        for name in ("model.safetensors", "optimizer.pt", "config.json")
    ),
    ("R/S/checkpoints/checkpoint-x", Path.mkdir),
    ("R/S/checkpoints/checkpoint-99", Path.mkdir),
    ("R/S/checkpoints/checkpoint-99", EMPTY),
    ("R/S/checkpoints/checkpoint-99", become_a_loop),
    ("R/S/checkpoints", become_a_file),
    ("R/S/metrics.jsonl", say(b"garbage\n")),
    ("R/S/metrics.jsonl", become_a_folder),
    ("R/S/model.safetensors", say(b"half of it")),
    *((f"R/S/{name}", say(text)) for name in ("key.json", "job.json", "done.json") for text in (*TEXTS, *KEYS)),
    *((f".cache/W/{name}", damage) for name in ("train.arrow", "eval.arrow") for damage in (cut, EMPTY, Path.unlink)),
    (".cache/W/train.arrow", flip_a_bit),
    *((f".cache/W/{name}", also(drop_manifest, cut)) for name in ("train.arrow", "eval.arrow")),
    *((".cache/W/stats.json", say(text)) for text in (*TEXTS, b'{"train": null}', b'{"train": {}}')),
    *((".cache/W/stats.json", also(drop_manifest, damage)) for damage in (EMPTY, say(b'{"train": {}}'), Path.unlink)),
    (".cache/W", become_a_file),
    (".cache/W", become_a_loop),
    *((f".cache/{name}", say(text)) for name in ("hashes.json", "checked.json") for text in TEXTS),
    *((f".cache/{name}", become_a_folder) for name in ("hashes.json", "checked.json")),
    (".cache/locks", become_a_file),
    (".cache/locks/S", become_a_folder),
    (".cache", become_a_file),
    ("R/S", become_a_file),
    ("R/S", become_a_loop),
    ("R", become_a_file),
    ("R/S", set_time(4_000_000_000)),
    ("R/S", set_time(10)),
]


def run_command(words: list[str], talk: Path) -> None:
    """`ft WORDS` in this process, which has the libraries; its stage is a fork, where the command would start one."""
    with talk.open("wb") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    run_module.start_stage = lambda job, *others: Stage(job)
    sys.argv = ["ft", *words]
    command()


class Stage:
    """A stage's process."""

    def __init__(self, job: Path):
        self.process = tiny.forked(self.make, job)

    def make(self, job: Path) -> None:
        sys.argv = ["ft", "stage", str(job)]
        command()

    def code(self) -> int:
        self.process.join()
        return self.process.exitcode or 0


class Scene:
    """A recipe whose one stage was killed after step 10 of 12, and the weights it must end with."""

    def __init__(self, folder: Path):
        self.folder = folder
        base, rows = tiny.base(folder / "base"), tiny.rows(folder / "rows.jsonl", 48)
        self.file = tiny.recipe(folder, [tiny.sft(rows, TRAIN, rows={"eval_fraction": 0.2})], model=str(base))
        self.left = folder / "left"
        self.recipe = tiny.planned(self.file, self.left).recipe.name
        tiny.make(tiny.planned(self.file, self.left), "sft")  # here, so that forks have what it imports
        self.stage = tiny.planned(self.file, self.left).stage("sft").folder.name
        self.rows = next((self.left / ".cache").glob("rows-*")).name
        self.weights = self.hash(self.left)
        result = self.left / self.recipe / self.stage
        shutil.rmtree(result / "checkpoints" / "checkpoint-12", ignore_errors=True)
        for file in [file for file in result.iterdir() if file.is_file() and file.name not in ("key.json", "job.json")]:
            file.unlink()

    def run(self, runs: Path) -> tuple[int, str]:
        """The exit code of `ft run` and what it said."""
        talk = self.folder / "talk.txt"
        process = tiny.forked(run_command, ["run", str(self.file), "--runs", str(runs)], talk)
        process.join()
        return process.exitcode or 0, talk.read_text(encoding="utf-8", errors="replace")

    def hash(self, runs: Path) -> str:
        file = runs / self.recipe / self.stage / "model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

    def try_out(self, place: str, damage: Damage) -> tuple[str, str]:
        """The verdict, and the last line that was said."""
        runs = self.folder / "tried"
        shutil.rmtree(runs, ignore_errors=True)
        shutil.copytree(self.left, runs, symlinks=True)
        damage(runs / place.replace("R", self.recipe, 1).replace("S", self.stage).replace("W", self.rows))
        code, text = self.run(runs)
        last = (text.strip().splitlines() or [""])[-1]
        if "Traceback" in text:
            return "TRACEBACK", last
        if code == 2:
            return ("SAID" if str(runs) in last else "DEAD END"), last
        return ("SAME" if code == 0 and self.hash(runs) == self.weights else "DIFF"), last


def main(words: list[str]) -> int:
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        for place, damage in CASES:
            name = f"{place} {damage.__qualname__.partition('.')[0]}"
            if all(word in name for word in words):
                verdict, line = scene.try_out(place, damage)
                faults += verdict not in ("SAME", "SAID")
                print(f"{verdict:9} {name:60} {line[:160].replace(folder, '')}", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
