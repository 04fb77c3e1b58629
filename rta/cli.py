"""The command line. Owns words, flags and exit codes (0 done, 1 failed, 2 bad usage); the work is done elsewhere.

Every command imports what it needs when it runs: `rta --help` costs nothing, and only `up` and `demo` know Ray.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rta
from rta.errors import BadRequestError, RtaError

if TYPE_CHECKING:
    from rta.client import Answer
    from rta.config import Settings
    from rta.generate.run import Counts, Plan

DONE, FAILED, BAD_USAGE = 0, 1, 2
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what `rta` on the command line does."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except RtaError as error:
        from rta.terminal import show_error

        show_error(error)
        return FAILED
    except UsageError as error:
        print(f"error: {error}\nhint: see 'rta {options.word} --help'", file=sys.stderr)
        return BAD_USAGE
    except BrokenPipeError:
        # Whoever read the results has seen enough; without this Python complains once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return FAILED


class UsageError(Exception):
    """Flags that parse but make no sense together."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rta",
        description="Real-time analytics: events in over HTTP, exactly once in every answer within a second.",
    )
    parser.add_argument("--version", action="version", version=f"rta {rta.__version__}")
    words = parser.add_subparsers(dest="word", metavar="COMMAND", required=True)
    _add_running(words)
    _add_asking(words)
    _add_send(words)
    _add_generate(words)
    return parser


Words = Any
"""argparse has no public name for what `add_subparsers` returns."""


def _add_running(words: Words) -> None:
    for word, command, text in (
        ("demo", demo, "start rta with one day of Wikipedia edits and a generated web shop"),
        ("up", up, "start rta here, until Ctrl-C or SIGTERM"),
        ("down", down, "stop the rta that runs on the data folder"),
    ):
        sub = words.add_parser(word, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--config", type=Path, help="settings file (default: rta.yaml, where there is one)")
        sub.add_argument("--data-dir", type=Path, help="folder that holds everything (default: ./rta-data)")
        if word != "down":
            sub.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
            sub.add_argument("--port", type=int, help="port to listen on (default: 8000)")


def _add_asking(words: Words) -> None:
    sub = words.add_parser("status", help="lag, watermarks, rates, actors and the ledger of a running rta")
    sub.set_defaults(command=status)
    _add_url(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")
    text = "let so many aggregators take part, until the next start"
    sub = words.add_parser("scale", help=text, description=text)
    sub.set_defaults(command=scale)
    _add_url(sub)
    sub.add_argument("--aggregators", type=int, required=True, metavar="N", help="how many")
    sub.add_argument("--json", action="store_true", help="print JSON")
    text = "go on behind a gap in the log that has stopped a datasource"
    sub = words.add_parser("resume", help=text, description=text)
    sub.set_defaults(command=resume)
    _add_url(sub)
    sub.add_argument("--datasource", required=True, help="which")
    sub.add_argument("--accept-loss", action="store_true", help="give up what the gap held; without, it is only said")
    sub.add_argument("--json", action="store_true", help="print JSON")
    text = "which rollups the last questions would have wanted, what each costs and saves"
    sub = words.add_parser("advise", help=text, description=text)
    sub.set_defaults(command=advise)
    _add_url(sub)
    sub.add_argument("--datasource", help="which (default: all)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = words.add_parser("query", help="ask a question in the form of POST /v1/query")
    sub.set_defaults(command=query)
    _add_url(sub)
    sub.add_argument("question", metavar="FILE|-|JSON", help="a file, - for standard input, or the JSON itself")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = words.add_parser("sql", help="ask a question in SQL, as POST /v1/sql")
    sub.set_defaults(command=sql)
    _add_url(sub)
    sub.add_argument("statement", metavar="SQL|-", help="one statement, or - for standard input")
    sub.add_argument("--json", action="store_true", help="print JSON")


def _add_send(words: Words) -> None:
    text = "send a file of events (JSON array or NDJSON; plain, gzip or zstd); sent twice, it counts once"
    sub = words.add_parser("send", help=text, description=text)
    sub.set_defaults(command=send)
    _add_url(sub)
    sub.add_argument("file", metavar="FILE|-", help="a file, or - for standard input")
    sub.add_argument("--datasource", default="events", help="where the events go (default: events)")
    sub.add_argument("--wait", action="store_true", help="return when every answer contains the events")
    sub.add_argument("--retry-seconds", type=float, default=60.0, help="how long to wait for a server that is away")
    sub.add_argument("--json", action="store_true", help="print JSON")


def _add_generate(words: Words) -> None:
    text = "make up the events of a web shop, and send them or write them to a file"
    sub = words.add_parser("generate", help=text, description=text)
    sub.set_defaults(command=generate)
    _add_url(sub)
    sub.add_argument("--rate", type=float, default=1000, help="events per second; 0: as fast as they are taken")
    sub.add_argument("--seconds", type=float, help="for how long (default: until Ctrl-C)")
    sub.add_argument("--events", type=int, help="how many at most")
    sub.add_argument("--seed", type=int, default=0, help="same seed, same shop; ids and times differ")
    sub.add_argument("--datasource", default="events", help="where the events go (default: events)")
    sub.add_argument("--history", metavar="DURATION", help="fill the time from DURATION ago to now, such as 24h")
    sub.add_argument("--start", metavar="TIME", help="fill the time from here on, for --history or --seconds")
    sub.add_argument("-o", "--output", metavar="FILE|-", help="write NDJSON there instead of sending it")


def _add_url(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--url", help="where rta listens (default: as in rta.yaml, else http://127.0.0.1:8000)")


# -- running ---------------------------------------------------------------------------------------------------------


def up(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from rta import launch

    return launch.up(settings)


def down(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from rta import launch

    return launch.down(settings)


def demo(options: argparse.Namespace) -> int:
    """Run rta, and in a thread beside it the demo; if that fails, everything stops with exit code 1."""
    settings = _settings(options)
    from rta import launch
    from rta.terminal import note, show_error

    stop = threading.Event()
    failures: list[RtaError] = []
    played = threading.Event()

    def begin(url: str) -> None:
        from rta.demo.play import play

        try:
            play(url, stop, note)
        except RtaError as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            played.set()

    started = threading.Event()

    def on_ready(url: str) -> None:
        started.set()
        begin(url)

    code = launch.up(settings, on_ready=on_ready)
    stop.set()
    if started.is_set():
        played.wait(timeout=10)
    for failure in failures:
        show_error(failure)
    return FAILED if failures else code


def _settings(options: argparse.Namespace) -> Settings:
    from rta.config import load_settings

    given = {name: getattr(options, name, None) for name in ("host", "port", "data_dir")}
    return load_settings(getattr(options, "config", None), **given)


# -- asking ----------------------------------------------------------------------------------------------------------


def status(options: argparse.Namespace) -> int:
    from rta.client import Client
    from rta.terminal import show_status

    with Client(_url(options), retry_s=0) as client:
        document = client.status()
        ledgers = client.ledger().get("datasources", {})
    if options.json:
        _print_json({**document, "ledger": ledgers})
    else:
        show_status(document, ledgers)
    return DONE


def scale(options: argparse.Namespace) -> int:
    from rta.client import Client
    from rta.terminal import note

    with Client(_url(options), retry_s=5) as client:
        scaled = client.scale(options.aggregators)
    if options.json:
        _print_json(scaled)
    else:
        note(f"{len(scaled['aggregators'])} aggregators take part, before there were {len(scaled['before'])}")
    return DONE


def resume(options: argparse.Namespace) -> int:
    from rta.client import Client
    from rta.terminal import note

    with Client(_url(options), retry_s=0) as client:
        found = client.resume(options.datasource, options.accept_loss)
    if options.json:
        _print_json(found)
    elif not found["gaps"]:
        note(f"the log of '{options.datasource}' has no gap")
    else:
        note(f"'{options.datasource}' goes on behind gaps in {len(found['gaps'])} partitions; the ledger keeps them")
    return DONE


def advise(options: argparse.Namespace) -> int:
    from rta.client import Client
    from rta.terminal import show_advice

    with Client(_url(options), retry_s=5) as client:
        found = client.advise(options.datasource)
    if options.json:
        _print_json(found)
    else:
        for one in found["datasources"]:
            show_advice(one)
    return DONE


def query(options: argparse.Namespace) -> int:
    from rta.client import Client

    question = _question(options.question)
    with Client(_url(options), retry_s=5) as client:
        return _show_answer(client.query(question), options)


def sql(options: argparse.Namespace) -> int:
    from rta.client import Client

    statement = sys.stdin.read() if options.statement == "-" else options.statement
    with Client(_url(options), retry_s=5) as client:
        return _show_answer(client.sql_rows(statement), options)


def _show_answer(answer: Answer, options: argparse.Namespace) -> int:
    from rta.terminal import note, show_rows

    if options.json:
        _print_json({"rows": answer.rows, "meta": answer.meta})
        return DONE
    show_rows(answer.rows)
    sources = ", ".join(str(source) for source in answer.meta.get("sources", ()))
    note(f"{len(answer.rows):,} rows from {sources or 'nowhere'} in {answer.meta.get('elapsed_ms', 0):.1f} ms")
    if answer.meta.get("truncated") and options.word == "sql":
        note(f"there are more: an answer has at most {answer.meta['row_limit']:,} rows")
    if not answer.meta.get("complete", True):
        note("not complete: a partition has no owner at the moment")
    return DONE


def _question(text: str) -> dict[str, Any]:
    try:
        if text == "-":
            what, text = "standard input", sys.stdin.read()
        elif text.lstrip().startswith("{"):
            what = "the question"
        else:
            what, text = f"'{text}'", Path(text).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadRequestError(f"'{text}' can't be read: {reason}", "name a file, - or write the JSON itself") from error
    try:
        question = json.loads(text)
    except ValueError as error:
        raise BadRequestError(f"{what} is no JSON: {error}", "quote it for the shell: '{...}'") from error
    if not isinstance(question, dict):
        raise BadRequestError(f"{what} holds a {type(question).__name__}", "a question is a JSON object")
    return question


# -- events ----------------------------------------------------------------------------------------------------------


def send(options: argparse.Namespace) -> int:
    from rta.client import Client
    from rta.send import explain, send_file
    from rta.terminal import byte_progress, note

    with (
        Client(_url(options), retry_s=options.retry_seconds, on_pause=_pause_note()) as client,
        byte_progress(_file_bytes(options.file), options.datasource) as bar,
    ):
        report = send_file(client, options.file, options.datasource, bar)
        if options.wait and report.position is not None:
            client.wait(options.datasource, report.position)
    if options.json:
        counts = {"total": report.total, "successful": report.successful, "failed": report.failed}
        _print_json({**counts, "position": report.position, "errors": explain(report)})
    else:
        print(f"{report.total:,} events: {report.successful:,} successful, {report.failed:,} failed")
        for line in explain(report):
            note(line)
    return FAILED if report.failed else DONE


def _file_bytes(file: str) -> int | None:
    with suppress(OSError):
        return None if file == "-" else Path(file).stat().st_size
    return None


def _pause_note() -> Callable[[RtaError], None]:
    """Says at most every 5 s what is being waited for."""
    from rta.terminal import note

    said_s = -math.inf

    def say(error: RtaError) -> None:
        nonlocal said_s
        if time.monotonic() - said_s > 5:
            said_s = time.monotonic()
            note(f"waiting: {error.message}")

    return say


def generate(options: argparse.Namespace) -> int:
    plan = _plan(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # One thread is plenty for any rate here, and rta runs on the same cores; read when polars is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from rta.generate.run import Counts

    counts = Counts()
    interrupted = False
    try:
        if options.output is None:
            _generate_to_server(plan, counts, _url(options), options.datasource)
        else:
            _generate_to_file(plan, counts, options.output)
    except KeyboardInterrupt:
        interrupted = True
    from rta.terminal import note

    unknown = counts.made - counts.acknowledged - counts.refused
    rest = f", {unknown:,} not acknowledged" if interrupted and unknown else ""
    note(f"{counts.acknowledged:,} events, {counts.refused:,} refused{rest}")
    return FAILED if counts.refused else DONE


def _generate_to_server(plan: Plan, counts: Counts, url: str, datasource: str) -> None:
    from rta.client import Client
    from rta.generate.run import ServerSink
    from rta.generate.run import generate as run
    from rta.terminal import ProgressLine

    line = ProgressLine()
    begun_s = time.monotonic()

    def report(now: Counts) -> None:
        per_s = now.acknowledged / max(1e-9, time.monotonic() - begun_s)
        line.show(f"{now.acknowledged:,} events acknowledged, {per_s:,.0f}/s, {now.refused:,} refused")

    sink = ServerSink(Client(url, retry_s=math.inf, on_pause=_pause_note()), datasource, counts)
    try:
        run(plan, sink, counts, report, threading.Event())
    finally:
        sink.close()
        line.end()


def _generate_to_file(plan: Plan, counts: Counts, output: str) -> None:
    from rta.generate.run import FileSink
    from rta.generate.run import generate as run

    stop = threading.Event()
    if output == "-":
        run(plan, FileSink(sys.stdout.buffer, counts), counts, lambda _: None, stop)
        return
    try:
        with Path(output).open("wb") as stream:
            run(plan, FileSink(stream, counts), counts, lambda _: None, stop)
    except OSError as error:
        raise BadRequestError(f"'{output}' can't be written: {error.strerror}", "choose another file") from error


def _plan(options: argparse.Namespace) -> Plan:
    from rta.events.units import parse_duration_ms
    from rta.generate.run import Plan

    if options.rate < 0 or (options.seconds or 0) < 0 or (options.events or 0) < 0:
        raise UsageError("--rate, --seconds and --events can't be negative")
    events = options.events
    if options.rate and options.seconds is not None:
        by_time = round(options.rate * options.seconds)
        events = by_time if events is None else min(events, by_time)
    start_ms = None if options.start is None else _time_ms(options.start)
    now_ms = time.time_ns() // 1_000_000
    length_ms = parse_duration_ms(options.history) if options.history else None
    if length_ms is None and (start_ms is not None or options.output is not None):
        if options.seconds is None and (options.events is None or not options.rate):
            raise UsageError("--start and --output need --history, --seconds, or --events with a --rate")
        length_ms = round(1000 * (options.events / options.rate if options.seconds is None else options.seconds))
    if length_ms is None:
        return Plan(options.rate, options.seconds, events, options.seed)
    if options.rate == 0 and options.events is None:
        raise UsageError("--rate 0 says nothing about how many events fill a time; give --events")
    first_ms = start_ms if start_ms is not None else now_ms - length_ms if options.history else now_ms
    return Plan(options.rate, None, options.events, options.seed, (first_ms, first_ms + length_ms))


def _time_ms(text: str) -> int:
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--start '{text}' is no time; write it as 2026-01-01T00:00:00Z") from None
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


# -- shared by all ---------------------------------------------------------------------------------------------------


def _url(options: argparse.Namespace) -> str:
    """The address given, else that of the rta whose settings are here."""
    if options.url:
        return str(options.url)
    settings = _settings(argparse.Namespace())
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.port}"


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


if __name__ == "__main__":
    sys.exit(main())
