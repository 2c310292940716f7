"""The command line: one command to one stage or study. The only place that prints or exits."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from raydaa.pipeline.study import Study


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    root = argparse.ArgumentParser(
        prog="raydaa", description="Choose an alignment method, its β and its learning rate from one study file."
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a study, or go on with it")
    _study_arguments(run)
    run.add_argument("--output", metavar="DIR", help="study folder (default: studies/<name>)")
    run.add_argument("--address", metavar="ADDRESS", help="Ray cluster to use, e.g. auto (default: this machine)")
    run.set_defaults(action=_run)
    plan = commands.add_parser("plan", help="what a study will take, before anything is started")
    _study_arguments(plan)
    _as_json(plan)
    plan.set_defaults(action=_plan)
    stages = commands.add_parser("stages", help="what of a study is done and what would run; or what stages there are")
    _study_arguments(stages, optional=True)
    stages.add_argument("--output", metavar="DIR", help="study folder (default: studies/<name>)")
    _as_json(stages)
    stages.set_defaults(action=_stages)
    report = commands.add_parser("report", help="make a study's report again")
    report.add_argument("folder", help="study folder")
    report.set_defaults(action=_report)
    compare = commands.add_parser("compare", help="several studies in one report")
    compare.add_argument("folders", nargs="+", metavar="folder", help="study folders")
    compare.add_argument(
        "--output", metavar="DIR", default="comparison", help="where to write it (default: %(default)s)"
    )
    _as_json(compare)
    compare.set_defaults(action=_compare)
    toy = commands.add_parser("toy", help="pairwise against pointwise ranking in small networks")
    toy.add_argument(
        "settings", nargs="?", default="search_spaces/toy.yaml", help="settings file (default: %(default)s)"
    )
    _overriding(toy)
    toy.set_defaults(action=_toy)
    status = commands.add_parser("status", help="what a study is doing: from any terminal, while it runs")
    status.add_argument("folder", help="study folder")
    _as_json(status)
    status.set_defaults(action=_status)
    suggest = commands.add_parser("suggest", help="the study that would answer what a finished one leaves open")
    suggest.add_argument("folder", help="study folder")
    goals = {
        "edges": "points beyond the grid",
        "seeds": "more seeds",
        "prompts": "more prompts",
        "rates": "finer rates",
    }
    what = ", ".join(f"{name}: {text}" for name, text in goals.items())
    suggest.add_argument("--for", dest="goal", choices=goals, help=f"{what} (default: what is open)")
    suggest.add_argument("--output", metavar="FILE", default="next.yaml", help="study file (default: %(default)s)")
    suggest.set_defaults(action=_suggest)
    verdicts = commands.add_parser("verdicts", help="all that judges were paid for, as one Parquet file")
    verdicts.add_argument("file", help="where to write it")
    verdicts.add_argument("--cache", metavar="DIR", help="a study's storage.cache (default: the shared one)")
    verdicts.set_defaults(action=_verdicts)
    methods = commands.add_parser("methods", help="the built-in methods and their formulas")
    methods.set_defaults(action=_methods)
    return root


def _as_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="the same as JSON, for programs")


def _overriding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a setting")


def _study_arguments(command: argparse.ArgumentParser, optional: bool = False) -> None:
    command.add_argument("study", help="study file (YAML)", nargs="?" if optional else None)
    _overriding(command)
    command.add_argument(
        "--pocket",
        nargs="?",
        choices=("thin", "full"),
        const="thin",
        help="the same study in the pocket world, in minutes: its grid thinned to 3 β × 2 learning rates, or full",
    )
    command.add_argument("--allow-code", action="store_true", help="allow code named by the study file to run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the work failed, 2 the input can't be used, 130 interrupted."""
    options = parser().parse_args(arguments)
    from raydaa.errors import InputError

    try:
        return int(options.action(options))
    except InputError as error:
        print(f"raydaa: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        again = {"toy": "; the same command starts anew", "run": "; the same command goes on from here"}
        print(f"raydaa: interrupted{again.get(options.command, '')}", file=sys.stderr)
        return 130


def process() -> NoReturn:
    """`main` as a process of its own."""
    import raydaa.own_process  # noqa: F401
    from raydaa.compat.python import end_process
    from raydaa.signals import hear_terminate_as_interrupt

    hear_terminate_as_interrupt()
    end_process(main())


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    from raydaa.errors import InputError
    from raydaa.settings.yaml_file import parse_yaml

    values: dict[str, Any] = {}
    for item in options.set:
        path, equals, text = item.partition("=")
        if not equals or not path:
            raise InputError(f"--set {item}: is not PATH=VALUE; write e.g. search.seeds=[0,1]")
        values[path] = parse_yaml(text, f"--set {path}")
    return values


def _study(options: argparse.Namespace, more: dict[str, Any]) -> "Study":
    from raydaa.pipeline.study import Study

    if options.allow_code:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: own methods lie beside the study
    values = {**_overrides(options), **more}
    if options.pocket is None:
        return Study.load(options.study, values, options.allow_code)
    twin = Study.load(options.study, allow_code=options.allow_code).pocket_twin(options.pocket == "full")
    return twin.with_values(values)


@contextlib.contextmanager
def _last_word(text: str) -> Iterator[None]:
    """Has ``text`` said where this process ends and can't say anything: killed, or by Ray, which exits when its head
    is gone."""
    # Ctrl-C at a terminal reaches it as well.
    shell = ["/bin/sh", "-c", 'trap "" INT; read -r over || printf "%s\\n" "$0" >&2', text]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, bufsize=0) as watcher:
        assert watcher.stdin is not None
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                watcher.stdin.write(b"over\n")


def _run(options: argparse.Namespace) -> int:
    from raydaa.errors import InputError, is_passing, machine_error
    from raydaa.store.study_folder import StudyFolder

    study = _study(options, {"storage.study": options.output} if options.output else {})
    log = StudyFolder(study.folder).log
    again = f"(see {log}; the same command goes on from here)"
    try:
        with _last_word(f"raydaa: the run died without a word {again}"):
            results = study.run(options.address)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        advice = again if is_passing(error) else f"(see {log}; what is done is kept)"
        print(f"raydaa: {machine_error(str(error)) or lines[-1]} {advice}", file=sys.stderr)
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:  # its disk may be full
            import traceback

            traceback.print_exception(error, file=file)
        return 1
    from raydaa.reporting.summary import summarize

    print(f"{StudyFolder(study.folder).page}: {summarize(results)}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # what is here already, and nothing else
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing trains here; DeepSpeed would say that it looks for GPUs
    study = _study(options, {})
    from raydaa.planning.estimate import make_plan
    from raydaa.planning.text import render_plan

    _show(options, make_plan(study), render_plan)
    return 0


def _stages(options: argparse.Namespace) -> int:
    from raydaa.pipeline.survey import descriptions, render_survey, stages_table, survey

    if options.study is None:
        _show(options, descriptions(), lambda _: stages_table())
        return 0
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    study = _study(options, {"storage.study": options.output} if options.output else {})
    _show(options, survey(study), render_survey)
    return 0


def _show(options: argparse.Namespace, value: Any, render: Callable[[Any], str]) -> None:
    """A value in words, or as JSON for a program."""
    from raydaa.store.plain import to_plain

    print(json.dumps(to_plain(value), indent=1) if options.json else render(value))


def _report(options: argparse.Namespace) -> int:
    from raydaa.errors import InputError
    from raydaa.reporting.results import TrialResults
    from raydaa.reporting.summary import summarize

    try:
        results = TrialResults.load(options.folder)
    except ValueError as error:
        raise InputError(str(error)) from None
    page = results.report(results.at.report)
    print(f"{page}: {summarize(results)}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from raydaa.errors import InputError
    from raydaa.reporting.compare import compare_studies, load_studies, write_comparison

    try:
        studies = load_studies([Path(folder) for folder in options.folders])
        page = write_comparison(studies, Path(options.output))
        _show(options, compare_studies(studies), lambda _: str(page))
    except ValueError as error:
        raise InputError(str(error)) from None
    return 0


def _status(options: argparse.Namespace) -> int:
    from raydaa.errors import InputError
    from raydaa.status import read_status, render_status

    try:
        _show(options, read_status(Path(options.folder).absolute()), render_status)
    except ValueError as error:
        raise InputError(str(error)) from None
    return 0


def _suggest(options: argparse.Namespace) -> int:
    from raydaa.errors import InputError
    from raydaa.planning.suggest import suggest
    from raydaa.store.artifacts import write_text

    try:
        suggestion = suggest(Path(options.folder).absolute(), options.goal)
    except ValueError as error:
        raise InputError(str(error)) from None
    write_text(Path(options.output), suggestion.to_yaml())
    print("\n".join([*suggestion.reasons, f"raydaa run {options.output}"]))
    return 0


def _verdicts(options: argparse.Namespace) -> int:
    from raydaa.judging.cache import VerdictCache
    from raydaa.store.cache import cache_at

    cache = VerdictCache(cache_at(options.cache) / "verdicts")
    cache.export(Path(options.file))
    print(f"{options.file}: {len(cache.rulings)} verdicts")
    return 0


def _methods(_: argparse.Namespace) -> int:
    from raydaa.algorithms.catalog import table

    print(table())
    return 0


def _toy(options: argparse.Namespace) -> int:
    from raydaa.progress import Progress
    from raydaa.settings.yaml_file import checked, read_yaml
    from raydaa.toy.settings import ToySettings
    from raydaa.toy.study import run_toy

    settings = checked(ToySettings, read_yaml(options.settings), _overrides(options), options.settings)
    page, answer = run_toy(settings, Progress(sys.stdout.fileno()))
    print(f"{page}: {answer}")
    return 0
