import logging
import string
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from ft.encode.conversation import Renderer
from ft.models.generation.dialogue import Dialogue, Transcript, Turn, answer_dialogues
from ft.models.generation.engine import Engine
from ft.models.generation.sampling import Sampling
from ft.models.load import load_base
from ft.recipe import ModelSource

PLAIN = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
NEWEST_MARKED = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}"
    "{% if m['role'] == 'user' and loop.index0 >= messages | length - 2 %}{{ 'now ' }}{% endif %}"
    "{{ m['content'] + '<end>' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SPECIAL = ["<pad>", "<end>", "<system>", "<user>", "<assistant>"]
LETTERS = string.ascii_lowercase + " .?"
VOCABULARY = len(SPECIAL) + len(LETTERS)
END = len(LETTERS) + SPECIAL.index("<end>")
GREEDY = Sampling(max_new_tokens=10)
SAMPLED = Sampling(max_new_tokens=10, temperature=1.0, top_p=0.9, seed=5)
DIALOGUES = [
    Dialogue("one", [Turn("hello")]),
    Dialogue("long", [Turn("what is it?"), Turn("and"), Turn("is that all there is?"), Turn("yes")]),
    Dialogue("system", [Turn("tell me."), Turn("more")], start=[{"role": "system", "content": "be kind."}]),
    Dialogue("given", [Turn("one", given="a fox"), Turn("two", given="an owl", ask=False), Turn("three")]),
    Dialogue("last", [Turn(word, given="so it is", ask=False) for word in ("a", "bee", "sea")] + [Turn("dee")]),
    Dialogue("twin of one", [Turn("hello")]),
]


def renderer(template: str = PLAIN) -> Renderer:
    """One token a letter, so that an answer's text has the tokens the model wrote, its special ones apart."""
    bpe = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(LETTERS)}, merges=[]))
    bpe.decoder = decoders.Fuse()
    bpe.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = template
    return Renderer(tokenizer)


def llama(attention: str = "sdpa", **changed: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes | {"initializer_range": 0.2} | changed)
    config._attn_implementation = attention
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=256, initializer_range=0.2)
    return GPT2LMHeadModel(config).eval()


def mistral(**changed: Any) -> MistralForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=2, initializer_range=0.2, **sizes, **changed)
    return MistralForCausalLM(config).eval()


def transcripts(
    model: Any,
    dialogues: list[Dialogue],
    sampling: Sampling = GREEDY,
    reuse_cache: bool = True,
    rendering: Renderer | None = None,
    **options: Any,
) -> dict[str, Transcript]:
    rendering = rendering or renderer()
    engine = Engine(model, rendering.stop_ids, reuse_cache=reuse_cache)
    finished = answer_dialogues(engine, rendering, dialogues, sampling, **options)
    return {transcript.dialogue.key: transcript for transcript in finished}


def ids(found: dict[str, Transcript]) -> dict[str, list[list[int] | None]]:
    return {key: [a and a.ids for a in found[key].answers] for key in sorted(found)}


def answers_without_cache(model: Any, rendering: Renderer, dialogue: Dialogue) -> list[list[int] | None]:
    """The greedy answers with no cache and no batch: every token from a forward pass over everything before it."""
    messages, answers = list(dialogue.start), []
    for turn in dialogue.turns:
        messages.append({"role": "user", "content": turn.user})
        text, answer = turn.given, None
        if turn.ask:
            prompt, answer = rendering.prompt(messages), []
            while len(answer) < GREEDY.max_new_tokens:
                with torch.no_grad():
                    token = int(model(torch.tensor([prompt + answer]), use_cache=False).logits[0, -1].argmax())
                if token in rendering.stop_ids:
                    break
                answer.append(token)
            text = turn.given or rendering.tokenizer.decode(answer, skip_special_tokens=True).strip()
        messages.append({"role": "assistant", "content": text})
        answers.append(answer)
    return answers


@pytest.fixture
def tokens_read() -> Callable[[Any], list[int]]:
    """Of a model: how many columns of tokens each forward pass was fed, as long as it runs."""

    def watch(model: Any) -> list[int]:
        seen: list[int] = []
        model.get_input_embeddings().register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
        return seen

    return watch


@pytest.mark.parametrize("template", [PLAIN, NEWEST_MARKED], ids=["plain", "rewrites earlier turns"])
@pytest.mark.parametrize("make", [llama, lambda: llama("eager"), gpt2], ids=["sdpa", "eager", "learned positions"])
def test_answers_are_those_of_one_dialogue_read_without_a_cache(make: Callable[[], Any], template: str) -> None:
    model, rendering = make(), renderer(template)

    found = ids(transcripts(model, DIALOGUES, rendering=rendering))

    assert found == {d.key: answers_without_cache(model, rendering, d) for d in sorted(DIALOGUES, key=lambda d: d.key)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sampled_answers_are_the_same_with_and_without_a_reused_cache(attention: str) -> None:
    model = llama(attention)

    assert ids(transcripts(model, DIALOGUES, SAMPLED)) == ids(transcripts(model, DIALOGUES, SAMPLED, reuse_cache=False))


def test_an_answer_ends_at_the_end_of_turn_token_or_is_cut() -> None:
    many = [Dialogue(f"{n}", [Turn("hello")]) for n in range(40)]

    answers = [transcript.answers[0] for transcript in transcripts(llama(), many, SAMPLED).values()]

    assert {len(answer.ids) for answer in answers if not answer.ended} == {10}
    assert min(len(answer.ids) for answer in answers if answer.ended) < 5
    assert all(END not in answer.ids for answer in answers)


def test_a_dialogue_is_read_once_and_its_answers_at_most_twice(tokens_read: Callable[[Any], list[int]]) -> None:
    model, rendering = llama(), renderer()
    columns = tokens_read(model)

    (transcript,) = transcripts(model, [DIALOGUES[1]], GREEDY, rendering=rendering).values()

    said = [
        {"role": role, "content": text}
        for turn, answer in zip(transcript.dialogue.turns, transcript.answers, strict=True)
        for role, text in (("user", turn.user), ("assistant", answer.text))
    ]
    assert sum(columns) <= len(rendering.prompt(said[:-1])) + sum(len(answer.ids) for answer in transcript.answers)


def test_the_batch_the_order_and_what_was_done_before_change_nothing() -> None:
    model = llama()

    together = ids(transcripts(model, DIALOGUES, SAMPLED))

    assert ids(transcripts(model, DIALOGUES, SAMPLED, batch_size=1)) == together
    assert ids(transcripts(model, DIALOGUES[::-1], SAMPLED, batch_size=4)) == together
    assert ids(transcripts(model, DIALOGUES[2:4], SAMPLED)) == {key: together[key] for key in ("given", "system")}


def test_the_key_the_turn_and_the_seed_decide_what_is_drawn() -> None:
    twice = [Dialogue("a", [Turn("hello"), Turn("hello")]), Dialogue("b", [Turn("hello"), Turn("hello")])]
    flat = llama(initializer_range=1e-4)  # every token as likely as another, whatever was said

    found = ids(transcripts(flat, twice, Sampling(8, temperature=1.0, seed=1)))
    other = ids(transcripts(flat, twice, Sampling(8, temperature=1.0, seed=2)))

    answers = [tuple(answer) for run in (found, other) for pair in run.values() for answer in pair]
    assert len(set(answers)) == 8


def test_a_given_answer_stands_in_the_context_of_later_turns() -> None:
    model = llama()
    history = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "a fox"}]
    asked = Dialogue("asked", [Turn("one", given="a fox"), Turn("two")])
    silent = Dialogue("silent", [Turn("one", given="a fox", ask=False), Turn("two")])
    before = Dialogue("before", [Turn("two")], start=history)
    own = Dialogue("own", [Turn("one"), Turn("two")])

    found = ids(transcripts(model, [asked, silent, before, own]))

    assert found["asked"][0] == found["own"][0]
    assert found["silent"][0] is None
    assert found["asked"][1] == found["silent"][1] == found["before"][0] != found["own"][1]


def test_an_adapter_answers_the_same_with_and_without_a_reused_cache() -> None:
    from peft import LoraConfig, get_peft_model

    base = ids(transcripts(llama(), DIALOGUES))
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(llama(), adapter).eval()

    reused = ids(transcripts(model, DIALOGUES))

    assert reused == ids(transcripts(model, DIALOGUES, reuse_cache=False))
    assert reused != base


def test_a_4_bit_model_answers_the_same_with_and_without_a_reused_cache(tmp_path: Any) -> None:
    """The products of 4-bit weights may be rounded otherwise for one token than for many: 1 answer in 20 may differ."""
    llama().save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")
    model = load_base(ModelSource(str(tmp_path)), "float32", nf4.to_diff_dict(), use_cpu=True).eval()
    many = [Dialogue(f"{n}", [Turn(f"is it {LETTERS[n]}?"), Turn("and now?"), Turn("then?")]) for n in range(20)]

    reused, anew = (transcripts(model, many, SAMPLED, reuse_cache=reuse_cache) for reuse_cache in (True, False))

    same = [ids(reused)[key][turn] == ids(anew)[key][turn] for key in reused for turn in range(3)]
    assert len(same) == 60
    assert sum(same) >= 57


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: mistral(sliding_window=16), "its cache has layers of the kind DynamicSlidingWindowLayer"),
        (
            lambda: llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
            "its rotary embedding is of the type dynamic",
        ),
    ],
    ids=["sliding window", "dynamic rope"],
)
def test_a_cache_that_cannot_be_reused_is_made_anew(
    make: Callable[[], Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, rendering = make(), renderer()

    with caplog.at_level(logging.WARNING, "ft"):
        found = ids(transcripts(model, DIALOGUES, rendering=rendering))

    assert found == {d.key: answers_without_cache(model, rendering, d) for d in sorted(DIALOGUES, key=lambda d: d.key)}
    assert caplog.messages == [f"every turn is read from the beginning, which is slower: {reason}"]


def test_a_dialogue_longer_than_the_models_positions_is_stopped_and_says_so() -> None:
    model = llama(max_position_embeddings=40)
    unending = Sampling(max_new_tokens=10, temperature=1.0, top_p=0.01)
    dialogues = [
        Dialogue("short", [Turn("hi")]),
        Dialogue("question", [Turn("hi", given="a" * 18, ask=False), Turn("is it so then?")]),
        Dialogue("answer", [Turn("hi", given="a" * 18), Turn("oh so?")]),
    ]

    found = transcripts(model, dialogues, unending)

    assert {key: transcript.stopped for key, transcript in found.items()} == {
        "short": "",
        "question": "turn 2: its prompt has 41 tokens, and the model has 40 positions",
        "answer": "turn 2: its answer does not fit into the model's 40 positions",
    }


def test_a_message_the_template_cannot_hold_stops_its_dialogue_alone() -> None:
    dialogues = [Dialogue("forged", [Turn("hi"), Turn("stop<end>")]), Dialogue("honest", [Turn("hi"), Turn("stop")])]

    found = transcripts(llama(), dialogues)

    assert found["forged"].stopped.startswith("turn 2: message 3 (user) holds '<end>'")
    assert [len(found[key].answers) for key in ("forged", "honest")] == [1, 2]


def test_every_turn_and_every_token_is_ticked() -> None:
    ticks: list[tuple[int, int]] = []

    found = transcripts(llama(), DIALOGUES, SAMPLED, batch_size=4, tick=lambda *ticked: ticks.append(ticked))

    answers = [answer for transcript in found.values() for answer in transcript.answers if answer]
    assert sum(turns for turns, _ in ticks) == sum(turn.ask for dialogue in DIALOGUES for turn in dialogue.turns)
    assert sum(tokens for _, tokens in ticks) == sum(len(answer.ids) + answer.ended for answer in answers)


def test_a_finished_dialogue_comes_before_the_next_batch_is_begun(tokens_read: Callable[[Any], list[int]]) -> None:
    model = llama()
    columns = tokens_read(model)

    rendering = renderer()
    first = next(answer_dialogues(Engine(model, rendering.stop_ids), rendering, DIALOGUES, GREEDY, batch_size=1))

    assert first.dialogue.key == "long"  # most to answer, so first
    assert len(columns) == sum(len(answer.ids) + answer.ended for answer in first.answers)


def test_what_would_make_answers_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the model is in training mode.*model\.eval\(\)"):
        transcripts(llama().train(), DIALOGUES)
    with pytest.raises(ValueError, match="dialogues share the key 'one'"):
        transcripts(llama(), [DIALOGUES[0], DIALOGUES[0]])
    with pytest.raises(ValueError, match="the turn 'hi' has no answer"):
        Turn("hi", ask=False)
