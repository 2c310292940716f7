"""A real 135M chat model: its turns to the token, both engines, training on real pairs, a judge, and a whole study."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raydaa.data.packing import PairTable
from raydaa.data.sources import PreferencePair
from raydaa.data.tokenize import Encoder
from raydaa.generation.sample import Response, Sampling, generate
from raydaa.generation.server import Endpoint, serve
from raydaa.judging.cache import VerdictCache
from raydaa.judging.language import Endpoint as JudgeEndpoint
from raydaa.judging.language import Game, JudgeClient
from raydaa.judging.prompt import Answer, judge_prompt
from raydaa.results import TrialResults
from raydaa.settings.data import ChatTemplateSettings
from raydaa.store.artifacts import read_json
from raydaa.store.study_folder import StudyFolder
from raydaa.store.tables import read
from raydaa.study import Study
from raydaa.training import launch
from raydaa.training.model import Policy, load_model
from raydaa.training.reference import Scoring, score
from raydaa.training.run import Run
from raydaa.training.tokenizer import load_tokenizer, stops_of, study_tokenizer
from raydaa.training.workers import Workers
from tests.command import Command
from tests.studies import done, written
from tests.tables import folder_of, prepare
from tests.training.runs import run_spec

pytestmark = pytest.mark.slow

ASKED = ["What is the capital of France?", "Name a colour.", "Who wrote Hamlet?", "How many legs has a spider?"]
GREEDY = Sampling(0.0, 0, 1.0, 24, seed=0)


@pytest.fixture(scope="module")
def chat(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's tokenizer."""
    return study_tokenizer(real_model, ChatTemplateSettings(), tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def pairs(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pairs that are short, and whose answers differ in length so much that a few steps can learn it: 16 to train
    on and 16 held out."""
    table = pq.read_table(real_data / "alpaca_gpt4_pairs.parquet", columns=["prompt", "chosen", "rejected"])
    rows = [row for row in table.to_pylist() if len(row["chosen"]) > 2 * len(row["rejected"])]
    rows = [row for row in rows if sum(map(len, row.values())) < 400][:32]
    split = [{**row, "split": "train" if place < 16 else "validation"} for place, row in enumerate(rows)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in split))
    return path


def study_tree(model: Path, pairs: Path, **changes: Any) -> dict[str, Any]:
    tree = {
        "name": "real",
        "model": {"source": str(model)},
        "data": {
            "preferences": {"source": str(pairs), "validation": "validation"},
            "prompts": {"num": 4},
            "max_length": 128,
        },
        "training": {"batch_size": 4, "precision": "fp32", "tokens_per_microbatch": 512, "validations": 1},
        "search": {
            "init": "base",
            "learning_rate": [1.0e-5],
            "methods": [{"name": "dpo", "beta": [0.1]}],
            "early_stopping": None,
        },
        "generation": {"engine": "transformers", "temperature": 0.0, "max_new_tokens": 16, "batch_size": 8},
        "evaluation": {"judge": "none", "kl_prompts": 4},
        "storage": {"keep": "all"},
    }
    return {**tree, **changes}


def test_prompts_and_turns_are_the_template_s_to_the_token(real_model: Path, chat: Path) -> None:
    own, encoder = load_tokenizer(real_model), Encoder(load_tokenizer(chat), 2048)
    turns = [{"role": "user", "content": ASKED[0]}, {"role": "assistant", "content": "Paris."}]
    turns += [{"role": "user", "content": "And of Italy?"}, {"role": "assistant", "content": " Rome, of course!\n"}]
    for talk in (turns[:2], turns, [{"role": "system", "content": "Be brief."}, *turns]):
        prompt = own.apply_chat_template(talk[:-1], add_generation_prompt=True, return_dict=False)
        whole = own.apply_chat_template(talk, return_dict=False)
        ids = encoder.pair(PreferencePair(talk[:-1], talk[-1]["content"], "no"))
        assert ids.prompt == prompt
        assert ids.prompt.count(own.bos_token_id) > 1  # it opens every turn
        assert whole[: len(prompt) + len(ids.chosen)] == prompt + ids.chosen
        assert own.decode(ids.chosen[-1]) == "<|im_end|>"
        (example,) = encoder.examples(talk)
        assert example.tokens == whole[: len(example.tokens)]


@pytest.fixture(scope="module")
def answers(real_model: Path, chat: Path) -> list[Response]:
    """Greedy ones by transformers."""
    tokenizer = load_tokenizer(chat)
    encoder = Encoder(tokenizer, 2048)
    prompts = [encoder.prompt([{"role": "user", "content": text}]) for text in ASKED]
    model = load_model(real_model).eval()
    model.config.use_cache = True
    return generate(model, prompts, GREEDY, stops_of(chat), tokenizer.pad_token_id, batch_size=4)


def test_it_answers_and_ends_where_its_turn_ends(answers: list[Response], chat: Path) -> None:
    encoder = Encoder(load_tokenizer(chat), 2048)
    texts = [encoder.chat.answer(answer.tokens, stops_of(chat)) for answer in answers]
    assert "Paris" in texts[0]
    ended = [answer for answer in answers if not answer.cut]
    assert ended
    assert all(answer.tokens[-1] in stops_of(chat) for answer in ended)
    assert not any("<|im_" in text for text in texts)


@pytest.fixture(scope="module")
def tables(real_model: Path, chat: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The prepared pairs, and their log-probabilities under the model."""
    study = Study.from_tree(study_tree(real_model, pairs))
    folder = tmp_path_factory.mktemp("tables")
    made = prepare(study, chat, folder)
    names = {name: str(folder_of(made, "pairs") / f"{name}.parquet") for name in ("train", "validation")}
    reference = folder / "reference"
    reference.mkdir()
    alone = Workers(1, 2, 0, None, threads=2, storage=str(folder / "ray"), max_failures=0, in_process=True)
    launch.reference(launch.ReferenceTask(str(real_model), names, reference, Scoring("fp32", 512)), alone)
    return {**{name: Path(path) for name, path in names.items()}, "reference": reference}


def test_real_pairs_are_learned_and_what_is_exported_is_what_was_trained(
    real_model: Path, chat: Path, tables: dict[str, Path], tmp_path: Path
) -> None:
    """All weights; the study below trains adapters."""
    run = Run(
        run_spec(
            start=str(real_model),
            tokenizer=str(chat),
            train=str(tables["train"]),
            validation=str(tables["validation"]),
            reference=str(tables["reference"]),
            learning_rate=5e-5,
            batch_size=4,
            warmup_ratio=0.1,
            max_grad_norm=2.0,
            tokens_per_microbatch=512,
            checkpoint_every=100,
            validations=1,
        )
    )
    try:
        first = run.train_step()["loss"]
        for _ in range(run.total_steps - 1):
            run.train_step()
        trained = run.validate()
        run.export(tmp_path / "model")
    finally:
        run.close()
    assert first == pytest.approx(np.log(2), abs=1e-3)  # the policy is its own reference
    check_learned(trained, tables["validation"], tmp_path / "model")
    assert read_json(tmp_path / "model" / "generation_config.json")["eos_token_id"] == list(stops_of(chat))


def check_learned(trained: dict[str, float], validation: Path, exported: Path) -> None:
    """Better than chance on held-out pairs, and the exported model says of them what the last validation said."""
    rows = read(validation)
    assert trained["validation/preference_loss"] < np.log(2)
    low, _ = wilson(trained["validation/rewards/accuracies"], len(rows))
    assert low > 0.5
    policy = Policy(load_model(exported)).eval()
    held_out = PairTable(rows, sharing=policy.sharing)
    logps = score(policy, held_out, np.arange(len(held_out)), 512)
    assert logps[:, 0].mean() == pytest.approx(trained["validation/logps/chosen"], abs=1e-3)
    assert logps[:, 1].mean() == pytest.approx(trained["validation/logps/rejected"], abs=1e-3)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def adapters(model: Path, pairs: Path) -> dict[str, Any]:
    """A study of one trial that trains adapters."""
    tree = study_tree(model, pairs)
    tree["training"] |= {"lora": {"rank": 8, "alpha": 16.0}}
    tree["search"] |= {"learning_rate": [1.0e-3]}
    tree["scaling"] = {"cpus_per_worker": 2}
    return tree


def test_a_whole_study(command: Command, real_model: Path, pairs: Path, tmp_path: Path) -> None:
    """Adapters learn, and answers end where their turn ends."""
    check_study(command, {**adapters(real_model, pairs), "name": "adapters"}, tmp_path / "real")


def check_study(command: Command, tree: dict[str, Any], folder: Path) -> TrialResults:
    done(command.run("run", str(written(command.folder, tree)), "--output", str(folder), timeout=1200))
    results = TrialResults.load(folder)
    (row,) = results
    assert row.state == "finished"
    prepared = (command.folder / "cache" / "raydaa").glob("prepared/pairs/*/validation.parquet")
    validation = max(prepared, key=lambda path: path.stat().st_mtime)  # other studies of the session lie there too
    check_learned(StudyFolder(folder).trial(row.key).read_metrics()[-1], validation, folder / "best" / "dpo")
    assert row.kl is not None
    stops = set(read_json(folder / "best" / "dpo" / "generation_config.json")["eos_token_id"])
    tables = [read(path).to_pylist() for path in folder.glob("generations/*/responses.parquet")]
    assert len(tables) == 2
    for answer in (answer for table in tables for answer in table):
        assert answer["cut"] or answer["tokens"][-1] in stops
        assert not stops & set(answer["tokens"][:-1])
        assert "<|im_" not in answer["response"]
    return results


@pytest.fixture(scope="module")
def endpoint(real_model: Path, own_ray: None) -> Iterator[Endpoint]:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    with serve(real_model, dtype="float32", max_model_len=2048, max_num_seqs=8) as there:
        yield there


def test_vllm_and_transformers_agree(endpoint: Endpoint, answers: list[Response]) -> None:
    """Prompts rendered by the server, greedy tokens and their log-probabilities."""
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=endpoint.url, api_key="none") as client:
        for text, answer in zip(ASKED, answers, strict=True):
            said = client.chat.completions.create(
                model=endpoint.model,
                messages=[{"role": "user", "content": text}],
                temperature=0,
                max_tokens=GREEDY.max_new_tokens,
                logprobs=True,
                extra_body={"return_token_ids": True},
            )
            (choice,) = said.choices
            assert choice.token_ids == answer.tokens
            assert choice.finish_reason == ("length" if answer.cut else "stop")
            logp = sum(token.logprob for token in choice.logprobs.content)
            assert logp == pytest.approx(answer.logp, abs=1e-2)


def test_a_served_judge_says_what_its_logits_say(endpoint: Endpoint, real_model: Path, tmp_path: Path) -> None:
    """Its preference for the first answer is that of the two labels' next-token probabilities."""
    pytest.importorskip("openai", reason="openai is not installed")
    asked = judge_prompt("alpaca_eval")
    games = [
        Game(text, first, "I do not know.") for text, first in zip(ASKED, ("Paris.", "Red.", "I", "8"), strict=True)
    ]
    there = JudgeEndpoint(endpoint.model, endpoint.url, api_key_env=None, parameters={"top_logprobs": 20})
    rulings = JudgeClient(there, asked, VerdictCache(tmp_path)).rule(games)
    assert any(ruling.outcome is not None for ruling in rulings)
    tokenizer, model = load_tokenizer(real_model), load_model(real_model).eval()
    for game, ruling in zip(games, rulings, strict=True):
        if ruling.outcome is None:  # neither label is among the likeliest
            continue
        talk = asked.messages(game.prompt, game.first, game.second)
        ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False, return_tensors="pt")
        with torch.no_grad():
            likeliest = torch.log_softmax(model(ids).logits[0, -1], dim=-1).topk(20)
        found = [(tokenizer.decode(int(t)), float(v)) for v, t in zip(*likeliest, strict=True)]
        reading = asked.read(Answer("", found))
        assert reading is not None
        assert ruling.outcome == pytest.approx(reading.outcome, abs=1e-3)


@pytest.mark.soak
def test_a_whole_study_by_vllm_with_the_model_as_its_judge(
    command: Command, real_model: Path, pairs: Path, tmp_path: Path
) -> None:
    """Five minutes on two cores, most of them two starts of vLLM and imports."""
    tree = adapters(real_model, pairs)
    tree["generation"] |= {"engine": "vllm"}
    judge = {"kind": "served", "model": str(real_model), "prompt": "alpaca_eval", "parameters": {"top_logprobs": 20}}
    tree["evaluation"] = {"judge": judge, "baseline": "base", "models": ["base"], "kl_prompts": 4}
    (row,) = check_study(command, tree, tmp_path / "real")
    assert row.win_rate is not None
