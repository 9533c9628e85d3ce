"""Step time of DPO on a whole model: the reference beside the policy, and overlapped on an actor of Ray.

    OMP_NUM_THREADS=1 python benchmarks/ray_overlap.py [--steps 12] [--picture docs/overlap.svg]

A Llama with random weights and the tokenizer of the embedded model trains in float32 on the embedded pairs, one thread
for the policy and one for the actor: with two cores the reference then costs no time of the policy's. The picture shows
when each of them computed, live above, overlapped below, from the same run of this script.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
WAYS = ("live", "overlapped")


def make_model(folder: Path) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "tiny" / "base")
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, pad_token_id=0, **SHAPE)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def job_of(folder: Path, way: str, steps: int) -> Any:
    import yaml

    from ft.recipe import read
    from ft.recipe.engine import EngineOptions
    from ft.results.store import plan
    from ft.run.rows import prepare_rows
    from ft.stages import STAGES

    train = {"max_length": 256, "max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 3e-5}
    train |= {"logging_steps": 1, "save_strategy": "no", "gradient_checkpointing": False, "beta": 0.1}
    data = [{"path": str(ROOT / "data" / "tiny" / "pairs.jsonl.gz"), "format": "preference", "rows": 8 * steps}]
    recipe = {"model": str(folder / "model"), "chat_template": str(ROOT / "data" / "tiny" / "chat.jinja")}
    recipe["stages"] = [{"kind": "dpo", "data": data, "train": train}]
    file = folder / f"{way}.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    there = plan(read(file, STAGES), folder / "runs")
    planned = there.stages[0]
    prepare_rows(there, planned)
    planned.folder.mkdir(parents=True, exist_ok=True)
    engine = EngineOptions("ray", actors=1, overlap_reference=True) if way == "overlapped" else EngineOptions()
    return replace(plan(there.recipe, folder / "runs").job(planned), engine=engine)


def timed(work: Any, file: Path) -> Any:
    """The work of the reference, which also writes down when it was at it."""

    def at_work(model: Any, batch: Any, tick: Any) -> Iterator[Any]:
        import torch

        torch.set_num_threads(1)
        start = time.time()
        found = list(work(model, batch, tick))
        with file.open("a", encoding="utf-8") as out:
            out.write(f"{start} {time.time()}\n")
        yield from found

    return at_work


def train(folder: Path, way: str, steps: int) -> dict[str, Any]:
    """Seconds of each step, losses, and when policy and reference computed."""
    import torch
    from transformers import TrainerCallback

    from ft.models.device import keep_freed_memory
    from ft.models.generation.executor import use_engine
    from ft.stages import dpo
    from ft.training.dpo import overlapped

    torch.set_num_threads(1)
    keep_freed_memory()  # as a stage's process does
    job, begins, ends = job_of(folder, way, steps), [], []
    file, original = folder / "reference.txt", overlapped._log_probs
    file.write_text("", encoding="utf-8")
    overlapped._log_probs = timed(original, file)

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begins.append(time.time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    with use_engine(job.engine, job.folder, "benchmark"):
        trainer = dpo.trainer_of(job)
        if way == "live":
            watch(trainer.ref_model, file)
        trainer.add_callback(Clock())
        trainer.train()
    overlapped._log_probs = original
    shutil.rmtree(job.folder)
    reference = [tuple(map(float, line.split())) for line in file.read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    starts = [begins[0], *ends[:-1]]
    seconds = [end - start for start, end in zip(starts, ends, strict=True)][2:]
    return {"seconds": seconds, "losses": losses, "steps": list(zip(starts, ends, strict=True)), "reference": reference}


def watch(model: Any, file: Path) -> None:
    forward = model.forward

    def watched(**inputs: Any) -> Any:
        start = time.time()
        outputs = forward(**inputs)
        with file.open("a", encoding="utf-8") as out:
            out.write(f"{start} {time.time()}\n")
        return outputs

    model.forward = watched


def picture(found: dict[str, dict[str, Any]], shown: int = 6) -> str:
    """SVG: of the live and of the overlapped run the same number of steps, on one scale of seconds."""
    width, left, lines, longest = 900, 150, [], 0.0
    spans = {}
    for way in ("live", "overlapped"):
        steps = found[way]["steps"][2 : 2 + shown]
        begin = steps[0][0]
        reference = [(a - begin, b - begin) for a, b in found[way]["reference"] if b > begin and a < steps[-1][1]]
        spans[way] = [(a - begin, b - begin) for a, b in steps], reference
        longest = max(longest, spans[way][0][-1][1])
    scale = (width - left - 20) / longest
    for place, (way, (steps, reference)) in enumerate(spans.items()):
        top = 30 + 120 * place
        lines.append(f'<text x="8" y="{top + 14}" font-weight="bold">{way}</text>')
        for row, (name, parts, colour) in enumerate((("step", steps, "#4477aa"), ("reference", reference, "#ee8844"))):
            y = top + 24 + 34 * row
            lines.append(f'<text x="8" y="{y + 17}">{name}</text>')
            for number, (start, end) in enumerate(parts):
                x, wide = left + max(0.0, start) * scale, (end - max(0.0, start)) * scale
                lines.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{max(1.0, wide - 1):.1f}" height="24" fill="{colour}" '
                    f'opacity="{0.95 if number % 2 else 0.7}"/>'
                )
    for second in range(int(longest) + 1):
        x = left + second * scale
        lines.append(f'<line x1="{x:.1f}" y1="24" x2="{x:.1f}" y2="256" stroke="#999" stroke-width="0.5"/>')
        lines.append(f'<text x="{x:.1f}" y="270" text-anchor="middle">{second} s</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 280" font-family="sans-serif" font-size="13">'
    return "\n".join([head, f'<rect width="{width}" height="280" fill="white"/>', *lines, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        found = {way: train(folder, way, given.steps) for way in WAYS}
    base = statistics.median(found["live"]["seconds"])
    print("| reference | median step, s | of live | largest difference of a loss |\n|---|---|---|---|")
    for way in WAYS:
        seconds = statistics.median(found[way]["seconds"])
        pairs = zip(found[way]["losses"], found["live"]["losses"], strict=True)
        difference = max(abs(one - other) for one, other in pairs)
        print(f"| {way} | {seconds:.3f} | {seconds / base:.2f} | {difference:.1e} |")
    print("load:", os.getloadavg())
    if given.picture:
        given.picture.write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
