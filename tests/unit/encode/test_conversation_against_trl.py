"""Which tokens are trained, against TRL 1.16: its prompt + completion split and its {% generation %} templates.

Whitespace may differ one way: TRL also trains the newline that a template writes behind an end-of-turn token and, where
a tokenizer splits "\\n\\n" otherwise before a letter, the end of the prompt. We train neither.
"""

import logging
import random
import warnings

import pytest
from chat_tokenizers import TEMPLATES, byte_level, for_trl, metaspace, trained_text
from trl.chat_template_utils import get_training_chat_template, has_generation_markers
from trl.data_utils import common_prefix_length, prepare_multimodal_messages

from ft.encode.conversation import BadRow, Renderer
from properties.plain import random_dialogue

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training"))
TURNS = [
    ("What is the capital?", " It is Paris! "),
    ("And of two?", "1 + 2 = 3 🦊.\n\nOnce upon"),
    ("hello", "Good day to you"),
]
SYSTEM = {"role": "system", "content": "You answer in rhyme."}
CUE = "the prompt ends before it, but the training template trains it, which a model never has to write"
PROMPTED = "the generation prompt writes it already, but the training template trains it"
BEYOND = {  # stretches that TRL's training template trains and we do not, and why
    "deepseek_r1_distill": ({"<｜Assistant｜>"}, CUE.replace("before", "behind")),
    "deepseekv3": ({"<｜Assistant｜>"}, CUE.replace("before", "behind")),
    "gptoss": ({"<|start|>assistant"}, PROMPTED),
    "muse_glimmer": ({"<|start|>assistant"}, PROMPTED),
    "nemotron_3_5_lightning": ({"<think>"}, PROMPTED),
    "nemotron_3_nano": ({"<think>"}, PROMPTED),
    "nemotron_3_super": ({"<think>"}, PROMPTED),
    "nemotron_3_ultra": ({"<think>"}, PROMPTED),
    "qwen3_5_nothink": ({"<think>\n\n</think>"}, PROMPTED),
    "qwen3_5_think": ({"<think>"}, PROMPTED),
    "qwen3_6": ({"<think>"}, PROMPTED),
    "qwen3_8": ({"<think>"}, PROMPTED),
    "metaspace idefics3": ({"U"}, "the token '\\nU' is half the newline behind an answer, half the next 'User:'"),
    "metaspace smolvlm": ({"U"}, "the token '\\nU' is half the newline behind an answer, half the next 'User:'"),
}
REWRITTEN = {  # the training template writes an empty thinking block into earlier answers, the real one does not
    "qwen3",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_6",
}
NO_SYSTEM = {"gemma"}
NO_TRAINING_TEMPLATE = {"gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "llama3_1", "llama3_2"}


@pytest.fixture(scope="module", params=[byte_level, metaspace], ids=["byte_level", "metaspace"])
def make(request):
    return request.param


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def dialogues(name, longest=3):
    for turns in range(1, longest + 1):
        messages = [
            message
            for user, answer in TURNS[:turns]
            for message in ({"role": "user", "content": user}, {"role": "assistant", "content": answer})
        ]
        yield messages
        if name not in NO_SYSTEM:
            yield [SYSTEM, *messages]


def beyond(tokenizer, ids, theirs, ours):
    """The stretches that they train and we do not, whitespace apart; we may never train what they do not."""
    stretches, last = [], -2
    for place, (their, our) in enumerate(zip(theirs, ours, strict=True)):
        assert their or not our, f"we train {tokenizer.decode(ids[place])!r}, TRL does not"
        if their and not our:
            stretches.append([]) if place != last + 1 else None
            stretches[-1].append(ids[place])
            last = place
    return {text for text in (tokenizer.decode(stretch).strip() for stretch in stretches) if text}


def mask(rendered):
    return [int(label != -100) for label in rendered.labels]


def for_oracle(renderer, messages):
    return prepare_multimodal_messages(messages) if renderer.template.blocks else messages


@pytest.mark.parametrize("name", NAMES)
def test_the_last_answer_is_what_trl_calls_the_completion(name, make):
    tokenizer = for_trl(name, make)
    renderer = Renderer(tokenizer, train_on="last")
    for messages in dialogues(name):
        chat = for_oracle(renderer, messages)
        prompt = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True)["input_ids"]
        ids = tokenizer.apply_chat_template(chat)["input_ids"]
        split = common_prefix_length(prompt, ids)
        theirs = [0] * split + [1] * (len(ids) - split)
        rendered = renderer.render({"messages": messages})
        if name == "glm4moe":  # ends no answer: TRL trains no end at all here, we train the header of the next turn
            ids, theirs = [*ids, tokenizer.convert_tokens_to_ids("<|user|>")], [*theirs, 1]
        assert rendered.input_ids == ids
        assert beyond(tokenizer, ids, theirs, mask(rendered)) == set()
        assert rendered == renderer.render({"prompt": messages[:-1], "completion": messages[-1:]})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_TRAINING_TEMPLATE])
def test_every_answer_is_what_the_generation_markers_hold(name, make):
    tokenizer = for_trl(name, make)
    renderer = Renderer(tokenizer, train_on="assistant")
    training = get_training_chat_template(tokenizer) or tokenizer.chat_template
    allowed = BEYOND.get(f"{make.__name__} {name}", BEYOND.get(name, (set(), "")))[0]
    assert has_generation_markers(training)
    seen = set()
    for messages in dialogues(name, longest=1 if name in REWRITTEN else 3):
        theirs = tokenizer.apply_chat_template(
            for_oracle(renderer, messages), chat_template=training, return_assistant_tokens_mask=True
        )
        rendered = renderer.render({"messages": messages})
        assert rendered.input_ids == theirs["input_ids"]
        seen |= beyond(tokenizer, rendered.input_ids, theirs["assistant_masks"], mask(rendered))
    assert seen == allowed


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_TRAINING_TEMPLATE])
def test_random_dialogues_are_what_the_generation_markers_hold(name, case):
    draw, tokenizer = random.Random(f"{name} {case}"), for_trl(name, byte_level)
    renderer, training = Renderer(tokenizer), get_training_chat_template(tokenizer) or tokenizer.chat_template
    messages = random_dialogue(draw, 1 if name in REWRITTEN else draw.randint(1, 4))
    messages = messages[1:] if name in NO_SYSTEM and messages[0]["role"] == "system" else messages
    # Of a character of several tokens that ends an answer, transformers' mask holds the first token alone.
    messages = [{**message, "content": f"{message['content']} end"} for message in messages]
    theirs = tokenizer.apply_chat_template(
        for_oracle(renderer, messages), chat_template=training, return_assistant_tokens_mask=True
    )
    rendered = renderer.render({"messages": messages})
    assert rendered.input_ids == theirs["input_ids"]
    found = beyond(tokenizer, rendered.input_ids, theirs["assistant_masks"], mask(rendered))
    assert found <= BEYOND.get(name, (set(), ""))[0]


@pytest.mark.parametrize("name", sorted(REWRITTEN))
def test_earlier_answers_are_trained_as_the_real_template_writes_them(name):
    tokenizer = for_trl(name, byte_level)
    renderer = Renderer(tokenizer, train_on="assistant")
    messages = [*dialogues(name, longest=2)][2]
    first, last = trained_text(renderer, {"messages": messages}).split("␣…␣")
    assert first.strip() in ("It is Paris! <|im_end|>", "It is Paris!<|im_end|>")
    assert last.endswith("1 + 2 = 3 🦊.\n\nOnce upon<|im_end|>")


@pytest.mark.parametrize("name", sorted(NO_TRAINING_TEMPLATE))
def test_trl_has_no_training_template_but_every_answer_is_trained_through_its_end(name):
    tokenizer = for_trl(name, byte_level)
    with pytest.raises(ValueError, match="The chat template is not training-compatible"):
        get_training_chat_template(tokenizer)
    renderer = Renderer(tokenizer, train_on="assistant")
    end = tokenizer.decode(renderer.stop_ids)
    for messages in dialogues(name):
        rendered = renderer.render({"messages": messages})
        trained = tokenizer.decode([label for label in rendered.labels if label != -100])
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        assert "".join(trained.split()) == "".join("".join(answer + end for answer in answers).split())


@pytest.mark.parametrize("name", sorted(NO_SYSTEM))
def test_a_template_without_system_role_says_so(name):
    renderer = Renderer(for_trl(name, byte_level))
    with pytest.raises(BadRow, match="the chat template refuses it: System role not supported"):
        renderer.render({"messages": [SYSTEM, *next(dialogues(name))]})


@pytest.mark.parametrize("name", NAMES)
def test_with_all_every_token_is_trained(name):
    renderer = Renderer(for_trl(name, byte_level), train_on="all")
    rendered = renderer.render({"messages": next(dialogues(name))})
    assert rendered.labels == rendered.input_ids
