"""``shoal-edge``: run the agent, ask the deployed model for a prediction, read the privacy ledger."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from shoal_codecs.lifecycle import remember_signals, run_until_stopped
from shoal_edge.swarm.command import add_swarm

STOPPED, FAULT = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a named fault is one line on standard error and exit code 2."""
    from shoal_codecs.errors import ShoalError  # noqa: PLC0415

    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except ShoalError as error:
        from shoal_edge.errors import fault_name  # noqa: PLC0415

        sys.stderr.write(f"shoal-edge: {fault_name(error)}: {error}\n")
        if sys.stderr.isatty():
            # Notes name what is the owner's own: files, labels.
            sys.stderr.writelines(f"  {note}\n" for note in getattr(error, "__notes__", ()))
        return FAULT
    return code


def _parser() -> argparse.ArgumentParser:
    from shoal_codecs import __version__  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="shoal-edge", description="The agent on a device: trains, and runs what the fleet has learnt."
    )
    parser.add_argument("--version", action="version", version=f"shoal-edge {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="connect to the broker and serve until stopped")
    _add_place(run)
    run.add_argument("--broker", metavar="URL", help="mqtt://HOST:PORT or mqtts://HOST:PORT")
    run.add_argument(
        "--stop-on-stdin-eof", action="store_true", help="end when the parent that holds standard input ends"
    )
    run.add_argument("--print-config", action="store_true", help="print every setting as TOML and exit")
    run.set_defaults(command=_run)

    add_swarm(commands)

    predict = commands.add_parser("predict", help="ask the deployed model about one example")
    _add_place(predict)
    predict.add_argument("--input", type=Path, metavar="FILE.npz", help="examples x (default: held-out ones)")
    predict.add_argument("--index", type=int, default=0, metavar="N", help="which example, counted from 0")
    predict.set_defaults(command=_predict)

    data = commands.add_parser("data", help="the device's own examples")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND")
    check = data_commands.add_parser("check", help="read the examples and show what they are")
    _add_place(check)
    check.add_argument("--task", type=Path, metavar="FILE", help="for this task (default: the one here)")
    check.set_defaults(command=_check_data)

    privacy = commands.add_parser("privacy", help="show what this device has spent of its privacy budget")
    _add_place(privacy)
    privacy.add_argument("--output", "-o", choices=("table", "json"), default="table", help="table or json")
    privacy.set_defaults(command=_privacy)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (TOML)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="the device's folder: keys and state")


def _print_settings(options: argparse.Namespace) -> int:
    """Print the settings; the defaults where those cannot be used, for the fault's remedy is to look here."""
    from shoal_codecs.settings import SettingsError, print_settings  # noqa: PLC0415
    from shoal_edge.config import EdgeSettings, load_edge_settings  # noqa: PLC0415

    try:
        settings = load_edge_settings(options.config, folder=options.data_dir, broker=options.broker)
    except SettingsError:
        sys.stdout.write(print_settings(EdgeSettings()))
        raise
    sys.stdout.write(print_settings(settings))
    return STOPPED


def _run(options: argparse.Namespace) -> int:
    if not options.print_config:
        # Before the imports that take time: a Ctrl-C in the middle of them ends in order too.
        remember_signals()
    from shoal_edge.config import load_edge_settings  # noqa: PLC0415

    if options.print_config:
        return _print_settings(options)
    settings = load_edge_settings(options.config, folder=options.data_dir, broker=options.broker)
    # structlog loads rich where it is installed, which costs an idle agent 6 MB for nothing.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    import structlog  # noqa: PLC0415

    from shoal_codecs.logs import configure_logs  # noqa: PLC0415
    from shoal_codecs.settings import SettingsError  # noqa: PLC0415
    from shoal_edge.agent import EdgeAgent  # noqa: PLC0415
    from shoal_edge.folder_lock import held_folder  # noqa: PLC0415

    if not settings.name:
        raise SettingsError("the settings name no device: set `name`, or give --config or --data-dir")
    configure_logs(settings.log_level)
    structlog.contextvars.bind_contextvars(device=settings.name)

    async def serve() -> None:
        agent = EdgeAgent(settings)
        await run_until_stopped(
            agent.run(), stop_on_stdin_eof=options.stop_on_stdin_eof, farewell=agent.farewell
        )

    with held_folder(settings.state):
        asyncio.run(serve())
    return STOPPED


def _predict(options: argparse.Namespace) -> int:
    from shoal_codecs.logs import configure_logs  # noqa: PLC0415
    from shoal_edge.config import load_edge_settings  # noqa: PLC0415
    from shoal_edge.predict import predict  # noqa: PLC0415

    settings = load_edge_settings(options.config, folder=options.data_dir)
    configure_logs("warning")
    sys.stdout.write(predict(settings, options.input, options.index))
    return STOPPED


def _check_data(options: argparse.Namespace) -> int:
    from shoal_edge.config import load_edge_settings  # noqa: PLC0415
    from shoal_edge.data_check import data_words  # noqa: PLC0415

    settings = load_edge_settings(options.config, folder=options.data_dir)
    sys.stdout.write(data_words(settings, options.task, labels=sys.stdout.isatty()))
    return STOPPED


def _privacy(options: argparse.Namespace) -> int:
    from shoal_codecs.settings import SettingsError  # noqa: PLC0415
    from shoal_edge.config import load_edge_settings  # noqa: PLC0415
    from shoal_edge.privacy_guard import open_ledger  # noqa: PLC0415
    from shoal_edge.privacy_words import privacy_words  # noqa: PLC0415

    settings = load_edge_settings(options.config, folder=options.data_dir)
    if not settings.name:
        # Else a folder that is none of a device would be told as a budget that is lost.
        raise SettingsError("the settings name no device: set `name`, or give --config or --data-dir")
    ledger = open_ledger(settings.state, make=False)
    sys.stdout.write(privacy_words(settings, ledger, as_json=options.output == "json"))
    return STOPPED


def entry() -> NoReturn:
    """Run as ``python -m shoal_edge.cli``."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
