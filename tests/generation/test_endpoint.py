"""The OpenAI-compatible endpoint over a checkpoint, as `serve run` starts it from the file in `clusters/`, by the
client that everybody uses."""

import concurrent.futures
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

import raydaa
from raydaa.data.packing import ResponseTable
from raydaa.data.tokenize import Encoder
from raydaa.generation import server
from raydaa.generation.serving import available, serve_running
from raydaa.training.model import Policy, load_model
from raydaa.training.reference import score
from raydaa.training.tokenizer import load_tokenizer
from tests.command import LISTENING, Command
from tests.own_cluster import free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="vLLM is not installed"),
]

SHIPPED = Path(__file__).parent.parent.parent / "clusters" / "serve.yaml"
KEY = "a key of its own"
BEARER = {"Authorization": f"Bearer {KEY}"}
PROMPT = "list the animals : cat red pie fox"


@pytest.fixture(scope="module")
def model(pocket_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model with a template that ends turns by another token than EOS, which nothing else names."""
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(pocket_model, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "<unk>")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(model: Path) -> dict[str, Any]:
    """The shipped file, over a model and a port of this test."""
    made: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    sizes = {"dtype": "float32", "max_model_len": 200, "max_num_seqs": 64}
    made["applications"][0]["args"] |= {"model": str(model), "name": "pocket", **sizes}
    made["http_options"]["port"] = free_ports(1)[0]
    return made


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[server.Endpoint]:
    command = Command(tmp_path_factory.mktemp("serve"))
    command.environment["RAYDAA_TEST_KEY"] = KEY
    config["applications"][0]["args"]["api_key_env"] = "RAYDAA_TEST_KEY"
    path, log = command.folder / "serve.yaml", command.folder / "serve.log"
    path.write_text(yaml.safe_dump(config))
    made = server.Endpoint(f"http://127.0.0.1:{config['http_options']['port']}/v1", "pocket")
    code = LISTENING + "from ray.serve.scripts import cli; cli()"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-c", code, "run", str(path)],
            env=command.environment,
            cwd=command.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_until_answering(made, process, log)
            yield made
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)
    assert command.wait_until_gone() == {}


def wait_until_answering(endpoint: server.Endpoint, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    body = {"model": endpoint.model, "prompt": "list", "max_tokens": 3}
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        time.sleep(0.5)
        try:
            if httpx.post(f"{endpoint.url}/completions", json=body, headers=BEARER, timeout=60).status_code == 200:
                return
        except httpx.TransportError:
            continue
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def client(endpoint: server.Endpoint) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=0, timeout=120)


def test_models_and_completions(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["pocket"]
    assert client.models.retrieve("pocket").id == "pocket"
    options = {"model": "pocket", "prompt": PROMPT, "max_tokens": 12, "temperature": 1.0, "logprobs": 2}
    one, other, third = (
        client.completions.create(**options, seed=seed, extra_body={"top_k": 40}).choices[0] for seed in (1, 1, 2)
    )
    assert one.text == other.text != third.text
    assert len(one.logprobs.token_logprobs) == len(one.logprobs.tokens) <= 12
    assert all(value <= 0 for value in one.logprobs.token_logprobs)
    only = client.completions.create(**options, seed=3, extra_body={"top_k": 1}).choices[0]
    greedy = client.completions.create(**{**options, "temperature": 0.0}).choices[0]
    assert only.text == greedy.text


def test_streams_what_it_would_answer(client: Any) -> None:
    options = {"model": "pocket", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 12, "seed": 5}
    whole = client.chat.completions.create(**options).choices[0].message.content
    parts = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**options, stream=True)]
    assert "".join(parts) == whole
    assert len(parts) > 2


def test_scores_given_texts_as_evaluation_harnesses_ask(client: Any, pocket_model: Path) -> None:
    """Several prompts of token ids, echoed with their log-probabilities, and next to nothing generated."""
    prompts = [[1, 10, 11, 12, 7], [1, 20, 21, 7, 30, 31]]
    answer = client.completions.create(
        model="pocket", prompt=prompts, echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    policy = Policy(load_model(pocket_model))
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        told = choice.logprobs.token_logprobs
        assert told[0] is None
        expected = score(policy, ResponseTable([prompt[:1]], [prompt[1:]]), np.arange(1), budget=64)[0, 0]
        assert sum(told[1 : len(prompt)]) == pytest.approx(expected, abs=1e-4)


def test_a_chat_prompt_has_the_ids_that_were_trained_on(client: Any, pocket_model: Path) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    answer = client.chat.completions.create(
        model="pocket", messages=messages, max_tokens=1, extra_body={"return_token_ids": True}
    )
    assert answer.prompt_token_ids == Encoder(load_tokenizer(pocket_model), 200).prompt(messages)


def test_an_answer_ends_where_the_template_ends_a_turn(client: Any, model: Path) -> None:
    tokenizer = load_tokenizer(model)
    for token, reason in ((tokenizer.unk_token_id, "stop"), (tokenizer.convert_tokens_to_ids("cat"), "length")):
        answer = client.completions.create(
            model="pocket", prompt=PROMPT, max_tokens=4, temperature=0, logit_bias={str(token): 100}
        )
        assert answer.choices[0].finish_reason == reason


def test_prompt_logprobs_are_the_training_scorers(client: Any, pocket_model: Path) -> None:
    """What KL takes from the start model is the same by either."""
    prompt, response = [1, 10, 11, 12, 7], [20, 21, 22, 13, 2]
    answer = client.completions.create(
        model="pocket", prompt=prompt + response, max_tokens=1, extra_body={"prompt_logprobs": 0}
    )
    steps = answer.choices[0].prompt_logprobs[len(prompt) :]
    found = sum(step[str(token)]["logprob"] for step, token in zip(steps, response, strict=True))
    expected = score(Policy(load_model(pocket_model)), ResponseTable([prompt], [response]), np.arange(1), budget=64)
    assert found == pytest.approx(expected[0, 0], abs=1e-4)


def test_without_the_key_nothing_is_told(endpoint: server.Endpoint) -> None:
    root = endpoint.url.removesuffix("/v1")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}):
        for path in ("/v1/models", "/v1/models/pocket", "/docs", "/openapi.json", "/nowhere"):
            assert httpx.get(f"{root}{path}", headers=headers).status_code == 401
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/embeddings"):
            answer = httpx.post(f"{root}{path}", content=b"no JSON", headers=headers)
            assert answer.status_code == 401
            assert "API key is missing or wrong" in answer.text
    known = httpx.get(f"{root}/v1/models", headers={**BEARER, "Origin": "http://elsewhere"})
    assert known.status_code == 200
    assert "access-control-allow-origin" not in known.headers


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"prompt": "cat " * 300}, 400, "maximum context length"),
        ({"prompt": "x" * 2**20}, 400, "maximum context length"),
        ({"prompt": "cat", "model": "another"}, 404, "another"),
        ({"prompt": "cat", "temperature": -1.0}, 400, "temperature"),
        ({"prompt": "cat", "max_tokens": 0}, 400, "max_tokens"),
        ({}, 400, "prompt"),
    ],
)
def test_bad_requests_have_a_reason_and_do_no_harm(
    endpoint: server.Endpoint, client: Any, body: dict[str, Any], status: int, reason: str
) -> None:
    answer = httpx.post(
        f"{endpoint.url}/completions", json={"model": "pocket", "max_tokens": 4, **body}, headers=BEARER, timeout=120
    )
    assert answer.status_code == status, answer.text
    assert reason in answer.text
    assert client.completions.create(model="pocket", prompt="cat", max_tokens=2).choices[0].text


def test_text_that_is_no_json_is_refused(endpoint: server.Endpoint) -> None:
    headers = {**BEARER, "Content-Type": "application/json"}
    answer = httpx.post(f"{endpoint.url}/completions", content=b'{"model": "pocket", "prom', headers=headers)
    assert 400 <= answer.status_code < 500
    assert "JSON" in answer.text


def test_sixty_four_ragged_requests_at_once(client: Any) -> None:
    def ask(number: int) -> int:
        prompt = [1, *[4 + (number + i) % 60 for i in range(3 + 2 * number)]]
        answer = client.completions.create(
            model="pocket", prompt=prompt, max_tokens=10 + number % 50, seed=number, extra_body={"ignore_eos": True}
        )
        return answer.usage.completion_tokens

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [10 + number % 50 for number in range(64)]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:8000", 200),
        ("[::1]:8000", 200),
        ("127.0.0.1", 200),
        ("anybodys.example:8000", 403),
        ("127.0.0.1.anybodys.example", 403),
        ("192.0.2.7:8000", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_key_requests_must_be_meant_for_this_machine(host: str, status: int) -> None:
    """A page that a browser here shows must not reach the endpoint by a name of its own."""
    guarded = TestClient(server.Guard(PlainTextResponse("answer"), digest=None))
    assert guarded.get("/", headers={"Host": host}).status_code == status


def test_the_shipped_files_application_is_not_built_where_others_would_see_it(
    own_ray: None, config: dict[str, Any]
) -> None:
    """`serve run` starts Serve by the file's options and then asks for the application."""
    arguments = {**config["applications"][0]["args"], "api_key_env": None}
    with serve_running(http_options={**config["http_options"], "host": "0.0.0.0"}, proxy_location="Disabled"):
        refusal = "host: 0.0.0.0 is seen by others; name an environment variable with a key as api_key_env"
        with pytest.raises(ValueError, match=refusal):
            server.app(arguments)


def test_others_are_not_served_without_a_key(pocket_model: Path) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.7", "somewhere"):
        with pytest.raises(ValueError, match=f"host: {host} is seen by others"), raydaa.serve(pocket_model, host=host):
            pass
    with pytest.raises(ValueError, match="api_key_env: NO_SUCH_KEY is not set"):
        server.app({"model": str(pocket_model), "api_key_env": "NO_SUCH_KEY"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "model: Field required"),
        ({"model": "."}, "is not a model folder"),
        ({"model": ".", "gpu": 1}, "gpu: Extra"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        server.app(arguments)
