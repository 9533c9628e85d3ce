import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.encode.token_text import IncrementalDecoder, text_pieces
from ft.errors import UserError
from ft.files import read_lines, write_json
from ft.models.generation.chat_model import NF4, ChatModel
from ft.models.generation.decoding import PRESETS
from ft.models.generation.sampling import Sampling
from ft.models.lineage import is_adapter
from ft.recipe import ModelSource
from ft.tools.chat import AnswerOptions, ChatSession, ChatTarget, model_at, newest_model
from wording import Like

GREEDY = Sampling(max_new_tokens=16)
Says = Callable[..., Path]


@pytest.fixture(scope="session")
def says(tmp_path_factory: pytest.TempPathFactory) -> Says:
    """Models that always give one answer: the next token follows from the last one alone.

    Embeddings are one-hot, the layers add nothing, and the head holds the table of what follows what.
    """

    def made(answer: str, end: bool = True, positions: int = 256, behind: str = "\n") -> Path:
        """`behind` is what the template writes last before an answer; without `end` the answer begins again."""
        folder = tmp_path_factory.mktemp("says")
        words = tiny.tokenizer()
        ids = [*words(behind + answer)["input_ids"], words.eos_token_id if end else words(behind)["input_ids"][0]]
        config = LlamaConfig(
            **{**tiny.config(words).to_dict(), "hidden_size": 320, "head_dim": 80, "max_position_embeddings": positions}
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.copy_(torch.eye(len(words), 320))
            model.lm_head.weight.zero_()
            for last, following in pairwise(ids):
                model.lm_head.weight[following, last] = 1.0
        model.save_pretrained(str(folder))
        words.save_pretrained(str(folder))
        return folder

    return made


@pytest.fixture(scope="session")
def blue(says: Says) -> Path:
    return says("Blue")


class Talk:
    """A dialogue with what it says and what it notes."""

    def __init__(self, model: Path, out: io.StringIO | None = None, chat_template: str | None = None):
        self.out, self.notes = out or io.StringIO(), io.StringIO()
        chat_model = ChatModel(None, model, chat_template)
        self.session = ChatSession(chat_model, GREEDY, self.out, Console(file=self.notes, width=400))

    def take(self, *lines: str) -> bool:
        return [self.session.handle(line) for line in lines][-1]

    def prompts_read(self) -> list[str]:
        """What the model reads from now on, each text as it begins an answer."""
        texts: list[str] = []

        def record(module: Any, inputs: Any) -> None:
            if inputs[0].shape[1] > 1:
                texts.append(self.session.chat_model.tokenizer.decode(inputs[0][0]))

        self.session.chat_model.model.get_input_embeddings().register_forward_pre_hook(record)
        return texts

    @property
    def said(self) -> str:
        return self.out.getvalue()

    @property
    def noted(self) -> str:
        return self.notes.getvalue()


def test_an_answer_is_said_and_remembered(blue: Path) -> None:
    talk = Talk(blue)
    assert talk.take("what is the sky?")
    assert talk.said == "assistant: Blue\n"
    assert talk.session.messages == [
        {"role": "user", "content": "what is the sky?"},
        {"role": "assistant", "content": "Blue"},
    ]
    assert talk.noted == ""


def test_an_answer_moves_no_cursor(says: Says) -> None:
    talk = Talk(says("\x1b[2J"))
    assert talk.take("what is the sky?")
    assert talk.said == "assistant: ⟨U+001B⟩[2J\n"


def test_each_piece_of_text_comes_as_soon_as_its_character_is_whole(says: Says) -> None:
    pieces: list[str] = []
    chat_model = ChatModel(None, says("né"))
    chat_model.stream(chat_model.renderer.prompt([{"role": "user", "content": "hi"}]), GREEDY, pieces.append)
    assert pieces == ["n", "é"]


def test_a_streamed_answer_is_the_answer_of_evaluation(base: Path) -> None:
    pieces: list[str] = []
    chat_model = ChatModel(None, base)
    asked = [{"role": "user", "content": "sky?"}]
    chat_model.stream(chat_model.renderer.prompt(asked), GREEDY, pieces.append)
    assert "".join(pieces).strip() == chat_model.answer([asked], GREEDY)[0]
    assert len(pieces) > 1


def test_chat_with_the_same_seed_gives_the_same_answers(base: Path) -> None:
    def answers(seed: str) -> str:
        return (
            CliRunner()
            .invoke(app, ["chat", str(base), "--max-new-tokens", "12", "--seed", seed], input="a\na\n")
            .stdout
        )

    first = answers("3")
    assert first == answers("3") != answers("4")
    once, again = first.split("assistant: ")[1:]
    assert once != again, "a message sent again may get another answer"


def test_a_message_with_a_control_token_is_refused_and_the_dialogue_goes_on(blue: Path) -> None:
    talk = Talk(blue)
    talk.take("hi <|im_end|> there", "hi")
    assert talk.noted == Like("… 1 … '<|im_end|>' … otherwise …\n")
    assert talk.said == "assistant: Blue\n"


def test_an_answer_that_would_forge_a_turn_is_not_remembered(says: Says) -> None:
    talk = Talk(says("Hi\nUser", end=False, behind=":"), chat_template="plain")
    talk.take("hello")
    assert talk.said == "assistant: Hi\nUser:Hi\nUser: […]\n"
    assert talk.noted.splitlines()[1].startswith(
        "the answer is not remembered: message 2 (assistant) holds '\\nUser:', which marks"
    )
    assert talk.session.messages == []


def test_an_interrupt_stops_the_answer_and_not_the_program(says: Says) -> None:
    class Interrupting(io.StringIO):
        """Ctrl-C at the third letter."""

        def write(self, text: str) -> int:
            written = super().write(text)
            if self.getvalue() == "assistant: aba":
                signal.raise_signal(signal.SIGINT)
            return written

    talk = Talk(says("abacada", end=False), out=Interrupting())
    assert talk.take("go")
    assert talk.said == "assistant: aba […]\n"
    assert talk.session.messages[-1] == {"role": "assistant", "content": "aba"}


def test_the_oldest_turns_are_forgotten_when_the_model_has_no_room_and_it_is_said(says: Says) -> None:
    talk = Talk(says("Blue", positions=100))
    talk.take("/system be brief", "first question", "second question")
    assert talk.noted == Like("… system message …\n… oldest … forgotten … 100 …\n")
    assert [message["content"] for message in talk.session.messages] == ["second question", "Blue"]
    assert talk.session.system == [{"role": "system", "content": "be brief"}]


def test_a_message_longer_than_the_model_sees_is_refused(says: Says) -> None:
    talk = Talk(says("Blue", positions=64))
    talk.take("a" * 50)
    assert talk.noted == Like("… 69 … 48 … Shorten … --max-new-tokens …\n")
    assert talk.said == ""


def test_commands(blue: Path) -> None:
    talk = Talk(blue)
    assert talk.take("hi", "/reset", "/preset creative", "/preset hot", "/systen x", "", "/help")
    assert talk.session.messages == []
    assert (talk.session.sampling.temperature, talk.session.sampling.top_p) == (1.0, 0.95)
    assert talk.noted.startswith(
        "The dialogue is forgotten.\n"
        "creative: temperature 1, top_p 0.95\n"
        f"no preset 'hot'. There are: {', '.join(PRESETS)}.\n"
        "no command '/systen'. There are: /retry, /undo, /compare, /save, /system, /reset, /preset, /image, /caption, "
        "/help, /quit.\n"
        "/retry         answer the last message again"
    )
    assert not talk.take("/quit")


def test_the_last_message_is_answered_again_or_forgotten(blue: Path) -> None:
    talk = Talk(blue)
    prompts = talk.prompts_read()
    talk.take("hi", "sky?", "/retry")
    assert prompts[1] == prompts[2]
    assert [message["content"] for message in talk.session.messages] == ["hi", "Blue", "sky?", "Blue"]
    talk.take("/undo", "/undo", "/undo")
    assert talk.session.messages == []
    assert talk.session.refused == 1


def test_a_dialogue_is_saved_as_a_row_of_training_data(blue: Path, tmp_path: Path) -> None:
    talk = Talk(blue)
    talk.take("/save", "/system Rhyme.", "hi", f"/save {tmp_path}/rows.jsonl", f"/save {tmp_path}/absent/rows.jsonl")
    (row,) = read_lines(tmp_path / "rows.jsonl")
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert talk.session.refused == 2


def test_the_model_before_answers_the_same_message(blue: Path, says: Says) -> None:
    talk, red = Talk(blue), ChatModel(None, says("Red"))
    talk.take("sky?", "/compare")
    assert talk.session.refused == 1, "a folder that nobody trained has no model before it"
    talk.session.load_before = lambda: ("sft", red)
    talk.take("/compare")
    assert talk.said == "assistant: Blue\nsft: Red\n"
    assert talk.session.messages[-1]["content"] == "Blue"


def test_the_model_before_is_the_one_of_the_stage_before_or_the_base(blue: Path, tmp_path: Path) -> None:
    sft, dpo = tmp_path / "sft-aaaaaaaaaaaa", tmp_path / "dpo-bbbbbbbbbbbb"
    write_json(sft / "job.json", {"model": {"path": "gpt2"}})
    write_json(dpo / "job.json", {"model": {"path": "gpt2"}, "init": str(sft)})
    assert ChatTarget("dpo", folder=dpo).before() == ChatTarget("sft", folder=sft)
    assert ChatTarget("sft", folder=sft).before() == ChatTarget("the base model gpt2", model=ModelSource("gpt2"))
    assert ChatTarget("gpt2", model=ModelSource("gpt2")).before() is None


def test_an_answer_that_has_no_room_is_marked_as_cut(says: Says) -> None:
    talk = Talk(says("abacada", end=False))
    talk.take("go")
    assert talk.said.endswith(" […]\n")
    assert "cut at 16 tokens; --max-new-tokens" in talk.noted


def test_a_pipe_ends_with_1_where_a_message_was_refused(blue: Path) -> None:
    result = CliRunner().invoke(app, ["chat", str(blue), "--preset", "greedy"], input="hi <|im_end|>\nhello\n")
    assert (result.exit_code, result.stdout) == (1, "assistant: Blue\n")


def test_lines_pasted_into_a_terminal_are_one_message(tmp_path: Path) -> None:
    """Through a pseudo-terminal, whose user pastes two lines and presses Enter."""
    script = "import sys\nfrom ft.tools.chat import _typed_lines\n"
    script += "class Session:\n    def note(self, text): pass\n"
    script += "print(repr(next(_typed_lines(Session()))))\n"
    primary, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "INPUTRC": os.devnull}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = read_until(primary, b"you: ")
        os.write(primary, b"\x1b[200~one\ntwo\x1b[201~\r")
        shown += read_until(primary, b"'\r\n")
        process.wait()
    os.close(primary)
    assert b"'one\\ntwo'" in shown


def read_until(terminal: int, end: bytes) -> bytes:
    """What a program writes to its terminal, until it has written `end`."""
    shown = b""
    while end not in shown:
        shown += os.read(terminal, 4096)
    return shown


def test_a_system_message_reaches_the_prompt_and_leaves_it(blue: Path) -> None:
    talk = Talk(blue)
    prompts = talk.prompts_read()
    talk.take("/system Rhyme.", "hi", "/system", "/reset", "hi")
    turn = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert prompts == [f"<|im_start|>system\nRhyme.<|im_end|>\n{turn}", turn]


def test_four_bit_weights_answer_on_a_cpu(blue: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    chat_model = ChatModel(None, blue, quantization=NF4)
    held = [module for module in chat_model.model.modules() if isinstance(module, Linear4bit)]
    assert len(held) == 14  # seven in each of two layers
    assert held[0].weight.quant_state.nested  # the constants are quantised too
    assert chat_model.answer([[{"role": "user", "content": "sky?"}]], GREEDY) == ["Blue"]


def test_a_pipe_gets_answers_only(blue: Path) -> None:
    result = CliRunner().invoke(app, ["chat", str(blue), "--preset", "greedy"], input="hello\nand?\n/quit\nnever\n")
    assert result.stdout == "assistant: Blue\nassistant: Blue\n"
    assert result.stderr == f"{blue}: preset greedy, temperature 0, top_p 1\n"


def test_a_recipe_answers_with_its_last_model_that_is_made(blue: Path, data: Path, tmp_path: Path) -> None:
    file = tiny.recipe(tmp_path, [tiny.sft(data), tiny.sft(data, name="more", init="$sft")], model=str(blue))
    there = tiny.planned(file, tmp_path / "runs")
    with pytest.raises(UserError) as error:
        newest_model(there, print)
    assert str(error.value) == Like(f"{file}: … {file} --to …")
    write_json(there.stage("sft").folder / "done.json", {"stage": "sft", "numbers": {}})
    assert newest_model(tiny.planned(file, tmp_path / "runs"), print).folder == there.stage("sft").folder


def test_an_adapter_answers_on_its_base(ending: Path, data: Path, tmp_path: Path) -> None:
    made = tiny.trained(tmp_path, ending, data, {"max_steps": 1, "learning_rate": 1e-9}, lora=tiny.LORA)
    assert is_adapter(made.folder)
    found = model_at(str(made.folder))
    asked = [[{"role": "user", "content": "sky?"}]]
    assert ChatModel(found.model, found.folder).answer(asked, GREEDY) == ChatModel(None, ending).answer(asked, GREEDY)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "./nothing",
            Like("./nothing: … model's folder, a recipe's … (owner/name) …"),
        ),
        ("a/b/c", Like("a/b/c: … model's folder, a recipe's … (owner/name) …")),
    ],
)
def test_a_path_to_no_model_is_refused(path: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        model_at(path)
    assert str(error.value) == said


def test_a_folder_of_results_names_the_models_in_it(tmp_path: Path) -> None:
    write_json(tmp_path / "sft-1" / "config.json", {})
    with pytest.raises(UserError) as error:
        model_at(str(tmp_path))
    assert str(error.value) == Like(f"{tmp_path}: … folders … sft-1 …")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (AnswerOptions({"preset": "hot"}), Like("ft chat: … no preset 'hot'; there are: greedy, llama2, creative, …")),
        (AnswerOptions({"temperature": -1.0}), Like("ft chat: temperature is -1; … 0 (greedy) or above…")),
        (AnswerOptions({"preset": "creative", "top_p": 1.5}), Like("ft chat: top_p is 1.5; … share …")),
        (AnswerOptions({"preset": "llama2", "beams": 4}), Like("ft chat: beams … temperature is 0.6 …")),
        (AnswerOptions(max_new_tokens=128), Like("--max-new-tokens: … 128 … Write 1 … 127 … 128 tokens …")),
    ],
)
def test_what_was_typed_is_checked(options: AnswerOptions, said: str) -> None:
    with pytest.raises(UserError) as error:
        options.sampling(128)
    assert str(error.value) == said


def test_presets_and_what_goes_over_them() -> None:
    assert AnswerOptions().sampling(4096) == Sampling(512, 0.6, 0.9)
    greedy, cooler = {"preset": "greedy", "top_p": 0.5}, {"preset": "creative", "temperature": 0.2}
    assert AnswerOptions(greedy).sampling(128) == Sampling(64, 0.0, 0.5)
    assert AnswerOptions(cooler, max_new_tokens=7).sampling(None) == Sampling(7, 0.2, 0.95)
    assert AnswerOptions({"preset": "beams", "stop": ["user:"]}).sampling(128) == Sampling(64, beams=4, stop=("user:",))


def test_pieces_of_tokens_join_to_the_text_and_keep_characters_whole() -> None:
    words = tiny.tokenizer()
    text = "<|im_start|>né 🦊\n "
    ids = words(text)["input_ids"]
    pieces = list(text_pieces(words, ids))
    assert [piece.text for piece in pieces] == ["<|im_start|>", "n", "é", " ", "🦊", "\n", " "]
    assert [token for piece in pieces for token in piece.ids] == ids


def test_half_a_character_at_the_end_is_told_at_the_end() -> None:
    words = tiny.tokenizer()
    decoder = IncrementalDecoder(words)
    assert decoder.add(words("é")["input_ids"][0]) is None
    rest = decoder.flush()
    assert rest is not None
    assert (rest.text, len(rest.ids)) == ("�", 1)
