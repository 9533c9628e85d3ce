"""Dialogues per second with the key/value cache kept from turn to turn, beside reading every prompt from its beginning.

    python benchmarks/rollout.py [--turns 1 5 20] [--dialogues 64] [--repeats 2] [--json]

A random Llama of about a million parameters answers greedily, 16 tokens a turn, in one batch on one thread. `anew` is
the same engine without the kept cache; `generate` is Hugging Face's, called once a turn with the rendered prompts.
All three must write the same answers. Times are the best of the repeats, taken in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ft.encode.conversation import Renderer
from ft.models.batching import pad
from ft.models.generation.dialogue import Dialogue, Turn, answer_dialogues
from ft.models.generation.engine import Engine
from ft.models.generation.sampling import Sampling

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
WORDS = [chr(0x4E00 + number) for number in range(1276)]
ANSWER, QUESTION, POSITIONS = 16, 12, 1024
SAMPLING = Sampling(max_new_tokens=ANSWER)


def make_renderer() -> Renderer:
    """One token a character, and a token that ends answers which no model can write: all are of one length."""
    bpe = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(WORDS)}, merges=[]))
    bpe.decoder = decoders.Fuse()
    bpe.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    renderer = Renderer(tokenizer)
    renderer.stop_ids = (len(WORDS) + len(SPECIAL),)
    return renderer


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + len(SPECIAL),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.1,
        pad_token_id=len(WORDS),
    )
    return LlamaForCausalLM(config).eval()


def make_dialogues(count: int, turns: int) -> list[Dialogue]:
    """Questions of 6 to 18 characters, so that rows are ragged."""
    generator = torch.Generator().manual_seed(turns)
    numbers = torch.randint(0, len(WORDS), (count, turns, QUESTION * 2), generator=generator).tolist()
    lengths = torch.randint(QUESTION // 2, QUESTION * 3 // 2 + 1, (count, turns), generator=generator).tolist()
    return [
        Dialogue(str(n), [Turn("".join(WORDS[i] for i in numbers[n][t][: lengths[n][t]])) for t in range(turns)])
        for n in range(count)
    ]


def by_engine(model: Any, renderer: Renderer, dialogues: list[Dialogue], reuse: bool) -> dict[str, list[list[int]]]:
    engine = Engine(model, renderer.stop_ids, reuse_cache=reuse)
    transcripts = answer_dialogues(engine, renderer, dialogues, SAMPLING, batch_size=len(dialogues))
    return {one.dialogue.key: [answer.ids for answer in one.answers if answer] for one in transcripts}


def by_transformers(model: Any, renderer: Renderer, dialogues: list[Dialogue]) -> dict[str, list[list[int]]]:
    made: dict[str, list[list[int]]] = {dialogue.key: [] for dialogue in dialogues}
    messages: list[list[dict[str, str]]] = [[] for _ in dialogues]
    for turn in range(len(dialogues[0].turns)):
        for dialogue, history in zip(dialogues, messages, strict=True):
            history.append({"role": "user", "content": dialogue.turns[turn].user})
        prompts = [renderer.prompt(history) for history in messages]
        answers = generate(model, prompts, renderer.stop_ids)
        for dialogue, history, ids in zip(dialogues, messages, answers, strict=True):
            text = renderer.tokenizer.decode(ids, skip_special_tokens=True).strip()
            history.append({"role": "assistant", "content": text})
            made[dialogue.key].append(ids)
    return made


def generate(model: Any, prompts: list[list[int]], stop_ids: tuple[int, ...]) -> list[list[int]]:
    """Greedy answers by Hugging Face's generate, in one batch; none of them ends early."""
    ids, own = pad(prompts, "left", value=len(WORDS))
    out = model.generate(
        input_ids=ids,
        attention_mask=own.long(),
        eos_token_id=list(stop_ids),
        pad_token_id=len(WORDS),
        do_sample=False,
        max_new_tokens=ANSWER,
    )
    answers: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return answers


def measure(turns: int, count: int, repeats: int) -> dict[str, float]:
    """Seconds of each way, the best of `repeats`; raises where their answers differ."""
    model, renderer, dialogues = make_model(), make_renderer(), make_dialogues(count, turns)
    ways: dict[str, Callable[[list[Dialogue]], dict[str, list[list[int]]]]] = {
        "carried": lambda dialogues: by_engine(model, renderer, dialogues, reuse=True),
        "anew": lambda dialogues: by_engine(model, renderer, dialogues, reuse=False),
        "generate": lambda dialogues: by_transformers(model, renderer, dialogues),
    }
    answers = {name: way(make_dialogues(2, 2)) for name, way in ways.items()}  # what a first call costs is not timed
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            answers[name] = way(dialogues)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    if not answers["carried"] == answers["anew"] == answers["generate"]:
        raise SystemExit(f"the answers differ at {turns} turns")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--dialogues", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for turns in options.turns:
        seconds = measure(turns, options.dialogues, options.repeats)
        results[turns] = {name: round(options.dialogues / taken, 2) for name, taken in seconds.items()} | {
            "carried / anew": round(seconds["anew"] / seconds["carried"], 2),
            "carried / generate": round(seconds["generate"] / seconds["carried"], 2),
        }
    if options.json:
        print(json.dumps(results))
        return
    names = next(iter(results.values()))
    print(f"{'turns':>5}" + "".join(f"{name:>20}" for name in names) + "   (dialogues/s, then ratios)")
    for turns, result in results.items():
        print(f"{turns:>5}" + "".join(f"{value:>20}" for value in result.values()))


if __name__ == "__main__":
    main()
