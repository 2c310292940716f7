"""Models, templates and data that can't go well are refused while the study is prepared; what can be mended is told."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from raydaa.cluster import Resources
from raydaa.data.tokenize import Encoder
from raydaa.errors import InputError
from raydaa.pipeline.context import Context
from raydaa.pipeline.prepared import Prepared, prepared_data
from raydaa.pipeline.run import input_errors_of, run_first
from raydaa.progress import Progress
from raydaa.store.artifacts import read_json
from raydaa.study import Study
from raydaa.training.model import Policy, load_model, write_model
from raydaa.training.probe import ArchitectureError, Way
from raydaa.training.tokenizer import load_tokenizer, stops_of
from tests.models import make_tokenizer, save_llama
from tests.studies import micro
from tests.training.test_scoring import SHORT, SIZES, alone, packed

TEXTS = ["Hello there, how are you? What is a fruit? A pear and an apple."] * 4


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pairs and a Llama whose tokenizer fits it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [{"prompt": f"fruit {i}?", "chosen": f"pear {i}", "rejected": "no", "score": i} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = make_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(tmp_path / "model")
    save_llama(tmp_path / "model", len(tokenizer), 64, 2)
    return tmp_path


def study_of(folder: Path, **changes: Any) -> Study:
    preferences = {"source": str(folder / "pairs.jsonl"), "validation": 0.3}
    data = {
        "sft": {"source": "preferences.chosen"},
        "preferences": preferences,
        "prompts": {"num": 4},
        "max_length": 64,
    }
    made = micro(model={"source": str(folder / "model")}, evaluation={"judge": "none"}, data=data)
    return Study.from_tree(made, {"storage.study": str(folder / "study"), **changes})


def prepare(folder: Path, **changes: Any) -> tuple[Prepared, str]:
    """What the stage leaves, and what it says."""
    with (folder / "terminal").open("w+b") as terminal:
        progress = Progress(terminal.fileno())
        context = Context(study_of(folder, **changes), progress, lambda: Resources(1, 0, local=True))
        with input_errors_of(context.study):
            run_first(context)
        terminal.seek(0)
        return context.once(prepared_data), terminal.read().decode()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**read_json(path), **changes}))


def small_embedding(folder: Path) -> None:
    save_llama(folder / "model", 100, 64, 2)


def no_eos(folder: Path) -> None:
    edit(folder / "model" / "tokenizer_config.json", eos_token=None)


def raising_template(folder: Path) -> None:
    (folder / "model" / "chat_template.jinja").write_text("{{ raise_exception('not like this') }}")


def broken_template(folder: Path) -> None:
    (folder / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content")


def unknown_kind(folder: Path) -> None:
    edit(folder / "model" / "config.json", model_type="perceptron", architectures=["Perceptron"])


def other_weights(folder: Path) -> None:
    edit(folder / "model" / "config.json", hidden_size=32)


def adaptive_head(folder: Path) -> None:
    sizes = {"vocab_size": 320, "emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
    config = transformers.XLMConfig(**sizes, asm=True, asm_cutoffs=[100, 200], asm_div_value=2.0)
    transformers.XLMWithLMHeadModel(config).save_pretrained(folder / "model")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tokenizer larger than the embedding": (small_embedding, "model's embedding has 100 rows"),
    "no end of text": (no_eos, "the tokenizer has no EOS token"),
    "a template that raises": (raising_template, "the chat template refuses the conversation: not like this"),
    "a template that is none": (broken_template, "the chat template refuses the conversation"),
    "an unknown kind of model": (unknown_kind, "is no causal language model that can be loaded: .*perceptron"),
    "weights of other sizes": (other_weights, "LlamaForCausalLM can't be loaded"),
    "an architecture that can't be asked": (adaptive_head, "XLMWithLMHeadModel can't be loaded: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_go_well_is_refused_in_one_line(name: str, world: Path) -> None:
    change, message = REFUSED[name]
    change(world)
    with pytest.raises(InputError, match=message) as error:
        prepare(world)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["lm_head"]}, "lm_head shares its weight with model.embed_tokens.weight; leave it out"),
        ({"targets": ["embed_tokens"]}, "model.embed_tokens is a Embedding; only linear layers take adapters here"),
        ({"targets": ["c_attn"]}, "no linear layer is named c_attn"),
    ],
)
def test_adapters_that_could_not_be_handed_over_are_refused(lora: dict[str, Any], message: str, world: Path) -> None:
    save_llama(world / "model", 320, 64, 2, tie_word_embeddings=True)
    with pytest.raises(InputError, match=f"training.lora.targets: {message}"):
        prepare(world, **{"training.lora": lora})
    prepare(world, **{"training.lora": {"rank": 2}})  # all-linear leaves the head alone


@pytest.mark.parametrize("kind", ["Mixtral", "GPT2", "FalconH1"])
def test_all_linear_passes_over_what_is_not(kind: str, world: Path) -> None:
    sizes = {**SIZES, "vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "num_local_experts": 2}
    small = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
    config = getattr(transformers, f"{kind}Config")(**sizes, **(small if kind == "FalconH1" else {}))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(world / "model")
    if kind == "GPT2":
        with pytest.raises(InputError, match="no linear layer is named all-linear; the model has Conv1D, Embedding"):
            prepare(world, **{"training.lora": {"rank": 2}})
    else:
        prepare(world, **{"training.lora": {"rank": 2}})


HEADS = {
    "multiplied": ("FalconH1", {"lm_head_multiplier": 0.4, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16}),
    "divided by other words": ("HunYuanDenseV1", {}),
    "of two layers": ("ModernBertDecoder", {"global_attn_every_n_layers": 1}),
    "of an encoder": ("Bert", {"is_decoder": True}),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_more_than_a_matrix_is_the_model_s_own(name: str) -> None:
    kind, changes = HEADS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.config.use_cache = False
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    expected = [alone(model, prompt, response) for prompt, *responses in SHORT for response in responses]
    policy = Policy(model).eval()
    assert packed(policy, SHORT, policy.sharing.allowed) == pytest.approx(expected, abs=1e-4)


class Noisy(transformers.LlamaForCausalLM):
    """Never the same twice: no way of asking it can agree with its forward pass."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        output = super().forward(*arguments, **options)
        output.logits = output.logits + torch.randn_like(output.logits)
        return output


def test_where_nothing_agrees_there_is_no_number(world: Path) -> None:
    noisy = Noisy(transformers.LlamaConfig(**SIZES)).eval()
    with pytest.raises(ArchitectureError, match="Noisy is not supported: its log-probabilities could not be had"):
        Policy(noisy)


def test_only_odd_heads_cost_whole_logits(world: Path) -> None:
    assert Policy(load_model(world / "model")).way == Way("sdpa", own_head=False)


def test_a_generation_config_that_cannot_be_saved_is_mended_and_told_once(
    world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As many published models have it: a temperature, and no sampling."""
    path = world / "model" / "generation_config.json"
    path.write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 7], "transformers_version": "4"}))
    prepared, _ = prepare(world)
    told = [record.message for record in caplog.records if "generation_config" in record.message]
    assert len(told) == 1
    assert "do_sample is set in what is handed over" in told[0]
    assert stops_of(prepared.tokenizer) == (2, 7)
    prepare(world)
    assert len([record for record in caplog.records if "generation_config" in record.message]) == 1
    write_model(load_model(world / "model"), load_tokenizer(world / "model"), world / "saved")
    assert read_json(world / "saved" / "generation_config.json")["do_sample"] is True


def test_the_study_s_template_is_in_what_is_handed_over(world: Path) -> None:
    """With its arguments, so that a server needs none; and the ids that end a turn."""
    own = "{% for m in messages %}{{ m.content }}{{ mark }}{{ eos_token }}{% endfor %}"
    (world / "own.jinja").write_text(own)
    template = {"file": str(world / "own.jinja"), "arguments": {"mark": "!"}}
    prepared, _ = prepare(world, **{"data.chat_template": template})
    made = load_tokenizer(prepared.tokenizer)
    talk = [{"role": "user", "content": "Hello"}]
    assert Encoder(made, 100).prompt_text(talk) == "Hello!<eos>"
    assert stops_of(prepared.tokenizer) == (2,)
    plain, _ = prepare(world)
    assert plain.keys["pairs"] != prepared.keys["pairs"]
    (world / "own.jinja").write_text(own + "\n")
    assert prepare(world, **{"data.chat_template": template})[0].keys["pairs"] != prepared.keys["pairs"]
    with pytest.raises(InputError, match=r"data.chat_template.file: .*nowhere: can't be read"):
        prepare(world, **{"data.chat_template": {"file": "nowhere"}})


def test_columns_that_are_not_read_are_named(world: Path) -> None:
    _, said = prepare(world)
    assert "; columns not read: score" in said


def test_a_prompt_that_opens_a_thought_is_told_with_its_remedy(world: Path) -> None:
    (world / "model" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% if enable_thinking is not defined or enable_thinking %}<think>\n"
        "{% endif %}{% endif %}"
    )
    _, said = prepare(world)
    assert "responses without a thought to prompts that open one (set data.chat_template.arguments: {enable_th" in said
    _, quiet = prepare(world, **{"data.chat_template": {"arguments": {"enable_thinking": False}}})
    assert "without a thought" not in quiet


def test_a_share_that_holds_out_no_prompt_says_so(world: Path) -> None:
    with pytest.raises(InputError, match=r"validation: a share of 0.001 holds out no prompt; write a larger one"):
        prepare(world, **{"data.preferences.validation": 0.001})


def test_a_split_of_null_switches_the_column_off(world: Path) -> None:
    rows = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    (world / "pairs.jsonl").write_text("".join(json.dumps({**row, "split": "b"}) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"no split 'train'; its column split has b \(null for"):
        prepare(world)
    prepared, _ = prepare(world, **{"data.preferences.train": None})
    assert prepared.rows["train"] + prepared.rows["validation"] == 24


def test_a_baseline_is_asked_for_only_where_it_is_used(world: Path) -> None:
    tree = study_of(world).tree
    del tree["data"]["sft"]
    tree["search"]["init"] = "base"
    Study.from_tree({**tree, "evaluation": {"judge": "none"}})
    with pytest.raises(InputError, match=r"evaluation.baseline: 'sft' needs data.sft"):
        Study.from_tree({**tree, "evaluation": {"judge": {"kind": "openai", "model": "gpt"}}})


def test_a_model_beside_a_study_may_be_large(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is, only the first layers are loaded to be looked at."""
    from raydaa.training import model

    save_llama(world / "model", 320, 64, 6)
    monkeypatch.setattr(model, "WHOLE", 0)
    few = model.load_few_layers(world / "model")
    assert few.config.num_hidden_layers == model.LAYERS
    whole = load_model(world / "model").state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in few.state_dict().items())
    shutil.rmtree(world / "cache", ignore_errors=True)
    prepare(world)


def test_umask_and_lock_leave_no_trace(world: Path) -> None:
    prepare(world)
    assert not [name for name in os.listdir(world / "cache" / "raydaa") if name.startswith(".")]
