"""`python -m rta.log.embedded --folder F --socket S`: the log server as a process of its own, in the foreground.

Ends with SIGTERM or SIGINT, and when the process named by `--parent` is gone: a log that nobody supervises would keep
the folder from its successor.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path

from rta.errors import RtaError
from rta.log.embedded.server import LogServer
from rta.log.embedded.settings import EmbeddedSettings

_PARENT_POLL_S = 0.2


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 after a clean end, 1 after an error, which is printed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given = {field.name: getattr(options, field.name) for field in fields(EmbeddedSettings)}
    try:
        settings = EmbeddedSettings(**{name: value for name, value in given.items() if value is not None})
        asyncio.run(_serve(options.folder, options.socket, settings, options.parent))
    except RtaError as error:
        print(f"log: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rta.log.embedded", description="Serve the embedded log.")
    parser.add_argument("--folder", type=Path, required=True, help="where the log's files are")
    parser.add_argument("--socket", type=Path, required=True, help="path of the Unix socket to serve")
    parser.add_argument("--parent", type=int, default=None, help="end when this process is gone")
    defaults = EmbeddedSettings()
    for field in fields(EmbeddedSettings):
        default = getattr(defaults, field.name)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", dest=field.name, type=type(default), help=f"default {default}"
        )
    return parser


async def _serve(folder: Path, socket: Path, settings: EmbeddedSettings, parent: int | None) -> None:
    server = LogServer(folder, socket, settings)
    await server.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(f"log: serving '{folder}' on '{socket}'", flush=True)
    serving = asyncio.create_task(server.serve_forever())
    watching = [serving, asyncio.create_task(_wait_for(stop))]
    if parent is not None:
        watching.append(asyncio.create_task(_parent_gone(parent)))
    done, pending = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if serving in done:
        serving.result()
    await server.close()


async def _wait_for(stop: asyncio.Event) -> None:
    await stop.wait()


async def _parent_gone(parent: int) -> None:
    """Return when the process has ended: at once where the kernel tells, else after at most 0.2 s."""
    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        while _is_alive(parent):
            await asyncio.sleep(_PARENT_POLL_S)
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main())
