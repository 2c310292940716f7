"""Responses in the file formats of AlpacaEval and ArenaHard, for their own tools."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydaa.artifacts import key_of, write_text
from raydaa.pipeline.benchmarks import Benchmark
from raydaa.pipeline.generation import Job
from raydaa.records import read


def write_outputs(folder: Path, benchmark: Benchmark, jobs: Mapping[str, Job], titles: Mapping[str, str]) -> None:
    """One file for each model below ``folder``; benchmarks whose tools are not known here have none."""
    write = {"alpaca_eval": _alpaca_eval, "arena_hard": _arena_hard}.get(benchmark.name)
    if write is None:
        return
    prompts = read(benchmark.table).to_pylist()
    for name, job in jobs.items():
        title = re.sub(r"[^A-Za-z0-9._=-]+", "_", titles[name])
        responses = read(job.folder / "responses.parquet").to_pylist()
        suffix, text = write(title, prompts, responses)
        write_text(folder / benchmark.name / f"{title}{suffix}", text)


def _alpaca_eval(title: str, prompts: list[dict[str, Any]], responses: list[dict[str, Any]]) -> tuple[str, str]:
    rows = [
        {"instruction": prompt["question"], "output": response["response"], "generator": title}
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return ".json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _arena_hard(title: str, prompts: list[dict[str, Any]], responses: list[dict[str, Any]]) -> tuple[str, str]:
    rows = list[dict[str, Any]]()
    for prompt, response in zip(prompts, responses, strict=True):
        turn = {"content": response["response"], "token_len": len(response["tokens"])}
        question = prompt["question_id"] or prompt["prompt_id"]
        answer = key_of(model=title, question=question, turn=turn)
        # Both layouts that its tools have had.
        first: dict[str, Any] = {"question_id": question, "answer_id": answer, "model_id": title}
        first["choices"] = [{"index": 0, "turns": [turn]}]
        said = [*json.loads(prompt["messages"]), {"role": "assistant", "content": {"answer": response["response"]}}]
        rows.append({**first, "uid": question, "model": title, "messages": said})
    return ".jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
