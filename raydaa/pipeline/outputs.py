"""What others read: a study's questions, and responses in AlpacaEval's and ArenaHard's file formats."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.responses import GenerationWork
from raydaa.store.artifacts import key_of, write_text
from raydaa.store.output import Output
from raydaa.store.study_folder import StudyFolder
from raydaa.store.tables import GENERATIONS, QUESTIONS, column, read


def write_questions(at: StudyFolder, benchmark: Benchmark, judged: Mapping[str, GenerationWork]) -> str:
    """What models were asked and compared with, for who reads the study without its cache; the file's place in it."""
    output = Output(at.questions, {"prompts": benchmark.key, "baseline": benchmark.baseline_key(judged)})
    if not output.done:
        output.seal(lambda folder: QUESTIONS.write(folder, _questions(benchmark, judged)))
    return str(output.folder.relative_to(at.path) / QUESTIONS.name)


def _questions(benchmark: Benchmark, judged: Mapping[str, GenerationWork]) -> list[dict[str, Any]]:
    prompts = read(benchmark.table).to_pylist()
    against: list[str | None] = [None] * len(prompts)
    if benchmark.fixed is not None:
        against = list(benchmark.fixed)
    elif benchmark.judge is not None:
        against = column(GENERATIONS.read(judged[benchmark.baseline].folder), "response")
    return [
        {"prompt_id": prompt["prompt_id"], "question": prompt["question"], "baseline": response}
        for prompt, response in zip(prompts, against, strict=True)
    ]


def write_outputs(
    folder: Path, benchmark: Benchmark, judged: Mapping[str, GenerationWork], titles: Mapping[str, str]
) -> None:
    """One file for each model below ``folder``; benchmarks whose tools are not known here have none."""
    write = {"alpaca_eval": _alpaca_eval, "arena_hard": _arena_hard}.get(benchmark.name)
    if write is None:
        return
    prompts = read(benchmark.table).to_pylist()
    for name, work in judged.items():
        title = re.sub(r"[^A-Za-z0-9._=-]+", "_", titles[name])
        responses = GENERATIONS.read(work.folder).to_pylist()
        suffix, text = write(title, prompts, responses)
        write_text(folder / benchmark.name / f"{title}{suffix}", text)


def _alpaca_eval(title: str, prompts: list[dict[str, Any]], responses: list[dict[str, Any]]) -> tuple[str, str]:
    rows = [
        {"instruction": prompt["question"], "output": response["response"], "generator": title}
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return ".json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _arena_hard(title: str, prompts: list[dict[str, Any]], responses: list[dict[str, Any]]) -> tuple[str, str]:
    rows: list[dict[str, Any]] = []
    for prompt, response in zip(prompts, responses, strict=True):
        turn = {"content": response["response"], "token_len": len(response["tokens"])}
        question = prompt["question_id"] or prompt["prompt_id"]
        answer = key_of(model=title, question=question, turn=turn)
        # Both layouts that its tools have had.
        first: dict[str, Any] = {"question_id": question, "answer_id": answer, "model_id": title}
        first["choices"] = [{"index": 0, "turns": [turn]}]
        conversation = [
            *json.loads(prompt["messages"]),
            {"role": "assistant", "content": {"answer": response["response"]}},
        ]
        rows.append({**first, "uid": question, "model": title, "messages": conversation})
    return ".jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
