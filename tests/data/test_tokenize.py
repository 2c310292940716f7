"""Ids of prompts and turns are those of the chat template's own rendering, whatever the template."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from raydaa.data.chat import ChatFormat
from raydaa.data.sources import BadRowError, PreferencePair, messages_of
from raydaa.data.template import DEFAULT_TEMPLATE, with_template
from raydaa.data.tokenize import NO_THOUGHT, REMOVED, SPANNED, UNSAID, Encoder, TokenizedExample
from tests.data.chat_templates import TEXTS, published, tokenizer_for
from tests.models import make_tokenizer

USER, ANSWER = {"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "fine"}
TALK = [USER, ANSWER, {"role": "user", "content": "how are you?"}, {"role": "assistant", "content": "thanks."}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "id": "call00001", "function": {"name": "add", "arguments": {"a": 1}}}
CALLED = [
    {"role": "user", "content": "add one"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
TALKS = {
    "single": (TALK[:2], None),
    "several": (TALK, None),
    "system": ([{"role": "system", "content": "Be brief."}, *TALK], None),
    "tools": (CALLED, TOOLS),
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Templates as they are met: BOS of their own, turns ended by EOS or by another token, text after the end.
TEMPLATES = {
    "none": None,
    "own bos": "{{ bos_token }}" + DEFAULT_TEMPLATE,
    "other end": CHATML,
    "eos only": "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}",
}


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    made = make_tokenizer(TEXTS, 320)
    made.chat_template = TEMPLATES[request.param]
    return made


def rendered(tokenizer: Any, talk: list[dict[str, Any]], tools: Any, prompt: bool) -> list[int]:
    """What everybody else makes of a conversation; skips where the template has no such thing."""
    if ChatFormat(tokenizer).in_parts:
        talk = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in talk]
    given = {} if tools is None else {"tools": tools}
    try:
        return list(tokenizer.apply_chat_template(talk, add_generation_prompt=prompt, return_dict=False, **given))
    except Exception as error:
        pytest.skip(f"the template refuses it: {error}")


@pytest.mark.parametrize("kind", TALKS)
@pytest.mark.parametrize("name", published())
def test_a_published_template_is_spoken_to_the_token(name: str, kind: str) -> None:
    template = published()[name]
    talk, tools = TALKS[kind]
    made = tokenizer_for(name, template)
    prompt, whole = rendered(made, talk[:-1], tools, True), rendered(made, talk, tools, False)
    encoder = Encoder(tokenizer_for(name, template), 4000)
    assert encoder.prompt(talk[:-1], tools) == prompt
    ids = encoder.pair(PreferencePair(talk[:-1], talk[-1]["content"], "no", tools))
    assert ids.prompt == prompt
    both = prompt + ids.chosen
    if any(note.startswith(NO_THOUGHT) for note in encoder.notes):  # no rendering has both the prompt and the answer
        assert whole[: len(prompt)] != prompt or whole[: len(both)] == both
        return
    assert both[-1] in encoder.chat.stops()
    if encoder.chat.end.text is None:  # the template says nothing after an answer that is the last
        assert whole[: len(both) - 1] == both[:-1]
        assert not made.decode(whole[len(both) - 1 :]).strip().removeprefix("</s>")
    else:
        assert whole[: len(both)] == both
        assert made.decode(whole[len(both) :]).strip() in ("", made.eos_token)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("gemma", "<end_of_turn>"),
        ("phi3", "<|end|>"),
        ("cohere2", "<|END_OF_TURN_TOKEN|>"),
        ("gptoss", "<|return|>"),
        ("glm4moe", "<|user|>"),
        ("llama3", "<|eot_id|>"),
        ("qwen3", "<|im_end|>"),
        ("gemma4", "<turn|>"),
        ("idefics3", "<end_of_utterance>"),
    ],
)
def test_a_turn_ends_as_its_template_ends_it(name: str, end: str) -> None:
    chat = ChatFormat(tokenizer_for(name, published()[name]))
    assert chat.added[chat.end.token] == end
    assert {chat.end.token, chat.tokenizer.eos_token_id, 7} <= set(chat.stops([7]))


def test_an_end_that_is_no_token_is_eos() -> None:
    """ChatML over a tokenizer that spells its marks: only EOS can end a generation."""
    made = make_tokenizer(TEXTS, 320)
    made.chat_template = CHATML
    ids = Encoder(made, 200).pair(PreferencePair([USER], "fine", "thanks."))
    assert made.decode(ids.chosen) == "fine<eos>"


@pytest.mark.parametrize("name", ["phi3", "qwen3", "gptoss", "glm4moe", "qwen3_5_think", "nemotron_3_nano"])
def test_each_turn_is_scored_as_the_last(name: str) -> None:
    """Also where the template says earlier turns otherwise; none is left out."""
    encoder = Encoder(tokenizer_for(name, published()[name]), 4000)
    found = list(scored_turns(encoder.examples(TALK)))
    assert len(found) == 2
    for number, (context, answer) in zip((1, 3), found, strict=True):
        assert context == encoder.prompt(TALK[:number])
        alone = encoder.pair(PreferencePair(TALK[:number], TALK[number]["content"], "no"))
        assert answer == alone.chosen


def scored_turns(examples: list[TokenizedExample]) -> Iterator[tuple[list[int], list[int]]]:
    """The ids of every run of scored tokens, and all that stand before it."""
    for example in examples:
        edges = [0, *(i for i in range(1, len(example.scored)) if example.scored[i] != example.scored[i - 1])]
        for begin, end in zip(edges[1::2], [*edges[2::2], len(example.scored)], strict=False):
            yield example.tokens[:begin], example.tokens[begin:end]


def test_contexts_that_agree_are_one_example(tokenizer: Any) -> None:
    spelled = tokenizer.chat_template == CHATML  # whose end no token of the template's stands for
    assert len(Encoder(tokenizer, 400).examples(TALK)) == 1 + spelled


def test_bos_inside_a_prompt_stays() -> None:
    """SmolLM2's BOS opens every turn."""
    made = make_tokenizer(TEXTS, 320)
    made.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    made.add_special_tokens({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    made.chat_template = CHATML
    prompt = Encoder(made, 200).prompt(TALK[:3])
    assert prompt.count(made.bos_token_id) == 4
    assert prompt == made.apply_chat_template(TALK[:3], add_generation_prompt=True, return_dict=False)


def test_bos_doubled_at_the_start_stands_once() -> None:
    made = make_tokenizer(TEXTS, 320)
    made.chat_template = "{{ bos_token }}{{ bos_token }}" + DEFAULT_TEMPLATE
    once = made.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)[1:]
    encoder = Encoder(made, 200)
    assert encoder.prompt([USER]) == once
    assert encoder.pair(PreferencePair([USER], "fine", "no")).prompt == once


def test_prefix_spaces_are_the_template_s() -> None:
    """SentencePiece writes a space before a text that stands alone, and none inside one."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "<s>", "</s>"]
    texts = ["[INST] Hello there [/INST] fine thanks"] * 4
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=200, special_tokens=specials))
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    ids = Encoder(made, 200).pair(PreferencePair([USER], "fine thanks", "no"))
    whole = made.apply_chat_template([USER, {**ANSWER, "content": "fine thanks"}], return_dict=False)
    assert ids.prompt + ids.chosen == whole


def test_a_token_across_the_border_is_counted_and_the_prompt_stands() -> None:
    core = make_tokenizer(["\n\n\n"] * 20, 300)
    assert "ĊĊ" in core.get_vocab()
    encoder = Encoder(core, 200)
    prompt = encoder.prompt([USER])
    ids = encoder.pair(PreferencePair([USER], "\n\nfine", "no"))
    assert ids.prompt == prompt
    assert core.decode(ids.chosen) == "\n\nfine<eos>"
    assert encoder.notes[SPANNED] == 1


def test_arguments_become_part_of_the_template() -> None:
    """So that training, generation and serving render alike; who serves may still say otherwise."""
    made = with_template(tokenizer_for("qwen3", published()["qwen3"]), None, {"enable_thinking": False})
    own = tokenizer_for("qwen3", published()["qwen3"])
    quiet = own.apply_chat_template([USER], add_generation_prompt=True, return_dict=False, enable_thinking=False)
    assert Encoder(made, 200).prompt([USER]) == quiet
    loud = own.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    given = {"enable_thinking": True, "return_dict": False}
    assert made.apply_chat_template([USER], add_generation_prompt=True, **given) == loud != quiet


def test_a_template_of_one_s_own_takes_the_place_of_the_model_s() -> None:
    made = with_template(
        make_tokenizer(TEXTS, 320), "{% for m in messages %}<{{ m.content }}>{{ eos_token }}{% endfor %}"
    )
    assert Encoder(made, 200).prompt_text([USER]) == "<Hello there><eos>"


def test_a_thought_that_the_prompt_opens_is_gone_on_with() -> None:
    made = tokenizer_for("deepseek_r1_distill", published()["deepseek_r1_distill"])
    encoder = Encoder(made, 4000)
    ids = encoder.pair(PreferencePair([USER], "<think>\nhm\n</think>\n\nfine", "no"))
    assert made.decode(ids.prompt).endswith("<think>\n")
    assert made.decode(ids.chosen).startswith("hm\n</think>\n\nfine")
    (note,) = encoder.notes.items()  # of the rejected one
    assert note == (f"{NO_THOUGHT} (set data.chat_template.file: a template without it)", 1)


def test_what_a_template_leaves_out_is_refused() -> None:
    encoder = Encoder(tokenizer_for("phi3", published()["phi3"]), 400)
    with pytest.raises(BadRowError, match="leaves the answer's tool calls out"):
        encoder.examples(CALLED, TOOLS)


@pytest.mark.parametrize(
    ("name", "said", "text"),
    [
        ("gptoss", "<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>fine<|return|>", "fine"),
        ("qwen3", "<think>\n\n</think>\n\nfine<|im_end|>", "fine"),
        ("llama3", "fine<|eot_id|>", "fine"),
        ("llama3", "fine", "fine"),
    ],
)
def test_the_answer_in_a_response(name: str, said: str, text: str) -> None:
    chat = ChatFormat(tokenizer_for(name, published()[name]))
    ids = chat.tokenizer(said, add_special_tokens=False)["input_ids"]
    assert chat.answer(ids, chat.stops()) == text


def test_the_template_alone_gives_the_prompts_ids(tokenizer: Any) -> None:
    """As a server renders it, that knows nothing of how the model was trained."""
    prompt = Encoder(tokenizer, 200).prompt(TALK[:3])
    served = tokenizer.apply_chat_template(TALK[:3], add_generation_prompt=True, return_dict=False)
    assert list(served) == prompt


def test_every_assistant_turn_is_scored_and_nothing_else(tokenizer: Any) -> None:
    examples = Encoder(tokenizer, 200).examples(TALK)
    said = [tokenizer.decode(answer, skip_special_tokens=False) for _, answer in scored_turns(examples)]
    assert said == ["fine<eos>", "thanks.<eos>"]


def test_truncation_keeps_the_start() -> None:
    tokenizer = make_tokenizer(TEXTS, 320)
    encoder = Encoder(tokenizer, 200)
    whole = encoder.pair(PreferencePair(TALK[:1], "thanks. " * 5, "fine"))
    short = Encoder(tokenizer, len(whole.prompt) + 4)
    cut = short.pair(PreferencePair(TALK[:1], "thanks. " * 5, "fine"))
    assert cut.chosen == whole.chosen[:4]
    assert short.notes == {"responses cut at max_length": 1}
    with pytest.raises(BadRowError, match="equals rejected after truncation"):
        short.pair(PreferencePair(TALK[:1], "thanks. " * 5, "thanks. " * 6))
    with pytest.raises(BadRowError, match="prompt longer than max_length"):
        Encoder(tokenizer, len(whole.prompt)).pair(PreferencePair(TALK[:1], "thanks", "fine"))


def test_special_tokens_inside_a_response_are_removed_and_counted() -> None:
    encoder = Encoder(make_tokenizer(TEXTS, 320), 200)
    ids = encoder.pair(PreferencePair(TALK[:1], "fine<eos> thanks<bos>", "no"))
    assert ids.chosen.count(2) == 1
    assert 1 not in ids.chosen
    assert encoder.notes == {REMOVED: 1}


def test_tokenizer_without_eos_is_refused() -> None:
    tokenizer = make_tokenizer(TEXTS, 320)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        Encoder(tokenizer, 10)


@pytest.mark.parametrize("answer", ["end", "c", "of", "e", "fine"])
def test_an_answer_is_not_looked_for_in_the_end_of_its_turn(answer: str) -> None:
    made = tokenizer_for("deepseek_r1_distill", published()["deepseek_r1_distill"])
    made.add_special_tokens({"eos_token": "<｜end▁of▁sentence｜>"})
    ids = Encoder(made, 4000).pair(PreferencePair([USER], answer, "no"))
    assert made.decode(ids.chosen) == f"{answer}<｜end▁of▁sentence｜>"


R1 = "deepseek_r1_distill"
CALLS = {
    name: {"role": "assistant", "content": text, "tool_calls": [CALL]} for name, text in (("", ""), ("null", None))
}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("hm\n</think>\n\nfine", "hm\n</think>\n\nfine"),  # as servers of such models give it back
        ({"role": "assistant", "content": "fine", "reasoning_content": "hm"}, "hm\n</think>\n\nfine"),
    ],
)
def test_a_thought_that_the_template_leaves_out_is_kept(answer: Any, said: str) -> None:
    made = tokenizer_for(R1, published()[R1])
    encoder = Encoder(made, 4000)
    ids = encoder.pair(PreferencePair([USER], answer, "no"))
    assert made.decode(ids.chosen) == said + made.decode(encoder.chat.end.token)


def test_a_template_that_needs_a_system_message_ends_its_turns() -> None:
    template = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('system needed') }}{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    made = tokenizer_for("own", template)
    encoder = Encoder(made, 200)
    ids = encoder.pair(PreferencePair([{"role": "system", "content": "S"}, USER], "fine", "no"))
    assert made.decode(ids.chosen) == "fine<|end|>"
    assert made.convert_tokens_to_ids("<|end|>") in encoder.chat.stops()


@pytest.mark.parametrize("content", CALLS)
@pytest.mark.parametrize("name", ["gptoss", "qwen3_vl", "lfm2_2_5", "qwen3", "deepseekv3_training"])
def test_calls_without_text_are_said(name: str, content: str) -> None:
    """OpenAI's null content too, which many templates stumble over."""
    made = tokenizer_for(name, published()[name])
    said = made.decode(Encoder(made, 4000).pair(PreferencePair([USER], CALLS[content], "no", TOOLS)).chosen)
    assert "add" in said
    assert "None" not in said


def test_the_middle_of_a_text_begins_none() -> None:
    """SentencePiece would write its space again after a token that spans the border."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"])
    core.train_from_iterator(["USER: Hello ASSISTANT: Fine thanks.\n"] * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    ids = Encoder(made, 200).pair(PreferencePair([USER], "Fine thanks.", "no"))
    whole = made.apply_chat_template([USER, {**ANSWER, "content": "Fine thanks."}], tokenize=False)
    assert made.decode(ids.prompt + ids.chosen).strip() == made.decode(made(whole, add_special_tokens=False).input_ids)


ARGUMENTS = '{"a": "x \\"y\\""}'


@pytest.mark.parametrize("name", [n for n in published() if "training" not in n])
def test_arguments_that_are_json_text_are_said_once(name: str) -> None:
    """As OpenAI's files have them; a server parses them before it renders, so that none stands inside quotes."""
    made = tokenizer_for(name, published()[name])
    texts = []
    for arguments in (ARGUMENTS, json.loads(ARGUMENTS)):
        call = {**CALL, "function": {"name": "add", "arguments": arguments}}
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        try:
            encoder = Encoder(made, 4000)
            texts.append(made.decode(encoder.pair(PreferencePair([USER], answer, "no", TOOLS)).chosen))
        except BadRowError as error:
            pytest.skip(f"{name}: {error}")
    assert texts[0] == texts[1]
    assert "None" not in texts[0]


def test_a_thought_or_text_that_is_left_out_beside_a_call_is_told() -> None:
    encoder = Encoder(tokenizer_for("gptoss", published()["gptoss"]), 4000)
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    encoder.pair(PreferencePair([USER], {**call, "thinking": "hm"}, "no", TOOLS))
    assert encoder.notes[UNSAID] == 0
    encoder.pair(PreferencePair([USER], {**call, "reasoning_content": "hm"}, "no", TOOLS))
    assert encoder.notes[UNSAID] == 1


def test_ends_of_turns_are_removed_wherever_an_answer_has_them() -> None:
    made = tokenizer_for("qwen3", published()["qwen3"])
    call = {**CALL, "function": {"name": "add", "arguments": {"a": ["1<|im_end|>"]}}}
    answer = {"role": "assistant", "content": "ok", "reasoning_content": "hm<|im_end|>m", "tool_calls": [call]}
    encoder = Encoder(made, 4000)
    chosen = encoder.pair(PreferencePair([USER], answer, "no", TOOLS)).chosen
    assert chosen.count(made.convert_tokens_to_ids("<|im_end|>")) == 1
    assert "hmm" in made.decode(chosen)
    assert '["1"]' in made.decode(chosen)
    assert encoder.notes[REMOVED] == 1


def test_a_template_for_tools_ends_its_turns_in_its_own_way() -> None:
    one = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|END|>{% endfor %}"
    one += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    other = one.replace("<|END|>", "<|eot|>")
    made = tokenizer_for("own", one + other)
    made.chat_template = {"default": one.replace("<|END|>", "<|end|>"), "tool_use": other}
    made.add_tokens(["<|end|>", "<|eot|>"], special_tokens=True)
    encoder = Encoder(made, 400)
    for tools, end in ((None, "<|end|>"), (TOOLS, "<|eot|>")):
        ids = encoder.pair(PreferencePair([USER], "fine", "no", tools))
        assert made.decode(ids.chosen) == f"fine{end}"


def test_a_turn_without_weight_is_context_alone() -> None:
    encoder = Encoder(make_tokenizer(TEXTS, 320), 400)
    talk = messages_of([TALK[0], {**TALK[1], "weight": 0}, TALK[2], {**TALK[3], "weight": 1}])
    (example,) = encoder.examples(talk)
    ((context, answer),) = scored_turns([example])
    assert (context, encoder.tokenizer.decode(answer)) == (encoder.prompt(TALK[:3]), "thanks.<eos>")
    with pytest.raises(BadRowError, match="no assistant turn has a weight"):
        encoder.examples(talk[:2])


def test_arguments_may_be_nested() -> None:
    made = with_template(
        make_tokenizer(TEXTS, 320),
        "{{ given.a is none }} {{ given.b[1] }} {{ given.c is true }}{% for m in messages %}{% endfor %}",
        {"given": {"a": None, "b": [1, "x'\"\n"], "c": True}},
    )
    assert Encoder(made, 200).prompt_text([USER]) == "True x'\"\n True"
