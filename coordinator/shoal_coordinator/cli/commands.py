"""The commands of ``shoal`` and their options."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from shoal_codecs import __version__
from shoal_codecs.errors import ShoalError
from shoal_codecs.wire.plan import LED_CODEC, SHARED_CODECS

app = typer.Typer(
    help="Train models across a fleet over MQTT, and put them back on it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
coordinator_app = typer.Typer(help="The coordinator.", no_args_is_help=True)
hub_app = typer.Typer(help="A hub.", no_args_is_help=True)
fleet_app = typer.Typer(help="Keys, roster and settings of a fleet.", no_args_is_help=True)
roster_app = typer.Typer(help="Who belongs to a fleet, signed offline.", no_args_is_help=True)
rounds_app = typer.Typer(help="Rounds.", no_args_is_help=True)
privacy_app = typer.Typer(help="Privacy budgets.", no_args_is_help=True)
release_app = typer.Typer(help="Releases.", no_args_is_help=True)
task_app = typer.Typer(help="Tasks: models that devices train.", no_args_is_help=True)
app.add_typer(coordinator_app, name="coordinator")
app.add_typer(hub_app, name="hub")
app.add_typer(fleet_app, name="fleet")
app.add_typer(roster_app, name="roster")
app.add_typer(rounds_app, name="rounds")
app.add_typer(privacy_app, name="privacy")
app.add_typer(release_app, name="release")
app.add_typer(task_app, name="task")

Config = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).", dir_okay=False)]
Broker = Annotated[str | None, typer.Option("--broker", help="mqtt://HOST:PORT or mqtts://HOST:PORT.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The party's folder: keys and state.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print every setting as TOML and exit.")]
Wait = Annotated[bool, typer.Option("--wait", help="Tell how it goes, and end when it is done.")]
Output = Annotated[Literal["table", "json"], typer.Option("--output", "-o", help="A table, or JSON.")]
OperatorConfig = Annotated[
    Path,
    typer.Option("--config", help="The operator's settings file.", envvar="SHOAL_OPERATOR_CONFIG"),
]
DEFAULT_OPERATOR = Path("operator/config.toml")


def _version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        typer.echo(f"shoal {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train models across a fleet over MQTT, and put them back on it."""


@coordinator_app.command("run")
def coordinator_run(
    *,
    config: Config = None,
    broker: Broker = None,
    data_dir: DataDir = None,
    print_config: PrintConfig = False,
) -> None:
    """Run the coordinator until it is stopped."""
    from shoal_coordinator.cli.serve import serve_coordinator  # noqa: PLC0415

    serve_coordinator(config, broker, data_dir, print_only=print_config)


@hub_app.command("run")
def hub_run(
    *,
    config: Config = None,
    broker: Broker = None,
    data_dir: DataDir = None,
    print_config: PrintConfig = False,
) -> None:
    """Run a hub until it is stopped."""
    from shoal_coordinator.cli.serve import serve_hub  # noqa: PLC0415

    serve_hub(config, broker, data_dir, print_only=print_config)


@app.command("author")
def author(
    *,
    model: Annotated[Path, typer.Argument(help="A Python file that ends with task = Task(...).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The task file; beside the model unless given.")
    ] = None,
) -> None:
    """Make a task that devices can train of a model's description; needs TensorFlow."""
    from shoal_coordinator.cli.author import author_model  # noqa: PLC0415

    author_model(model, output or model.with_suffix(".task"))


@task_app.command("list")
def task_list() -> None:
    """List the tasks that come with Shoal."""
    from shoal_coordinator.cli.tasks import list_tasks  # noqa: PLC0415

    list_tasks()


@task_app.command("show")
def task_show(
    *, task: Annotated[str, typer.Argument(help="The name of a task that comes with Shoal, or a file.")]
) -> None:
    """Say what a task takes, holds and does by default."""
    from shoal_coordinator.cli.tasks import show_task  # noqa: PLC0415

    show_task(task)


@fleet_app.command("init")
def fleet_init(
    *,
    folder: Annotated[Path, typer.Argument(help="Where the parties' folders shall be.")],
    fleet: Annotated[
        str | None, typer.Option(help="The fleet's name; that of the folder, else demo.", show_default=False)
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(help="How many devices, named device-01 and on; those of the folder, else 3.", min=1),
    ] = None,
    hubs: Annotated[
        int | None,
        typer.Option(help="How many hubs, named hub-1 and on; 2 in mode hubs, else none.", min=0),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(help="The broker's URL; the coordinator's, else mqtt://127.0.0.1:1883."),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Who signed the broker's certificate; copied to everybody.")
    ] = None,
    mode: Annotated[
        Literal["hubs", "single", "plain"] | None,
        typer.Option(
            help="Secret-shared between hubs, masked among devices, or in clear; the fleet's, else hubs."
        ),
    ] = None,
    sample_data: Annotated[
        bool, typer.Option("--sample-data", help="Give every device a share of the digits to train on.")
    ] = False,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Privacy budget of every device, and of the rounds; 0: none. The fleet's, else 0.", min=0
        ),
    ] = None,
    allow_small_fleet: Annotated[
        bool, typer.Option("--allow-small-fleet", help="A budget that so few devices learn little under.")
    ] = False,
) -> None:
    """Make keys, the signed roster and a settings file for every party; run again to add devices."""
    from shoal_coordinator.cli.enrol import enrol  # noqa: PLC0415
    from shoal_coordinator.cli.enrolment import Enrolment  # noqa: PLC0415

    plan = Enrolment(
        folder=folder,
        fleet=fleet,
        devices=devices,
        hubs=hubs,
        broker=broker,
        ca_file=ca_file,
        mode=mode,
        sample_data=sample_data,
        epsilon=epsilon,
        allow_small_fleet=allow_small_fleet,
    )
    enrol(plan)


@app.command("status")
def status(
    *,
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it.")] = False,
    output: Output = "table",
) -> None:
    """Show the fleet, the round and the releases."""
    from shoal_coordinator.cli.operate import show_status  # noqa: PLC0415

    _run(show_status(config, broker, watch=watch, as_json=output == "json"))


@roster_app.command("key")
def roster_key(
    *,
    name: Annotated[str, typer.Argument(help="The party's name in the fleet.")],
    folder: Annotated[Path, typer.Option(help="The party's folder.")] = Path(),
) -> None:
    """Print this party's public key for the roster; make its key if there is none. Run it on its machine."""
    from shoal_coordinator.cli.roster import show_key  # noqa: PLC0415

    show_key(name, folder)


@roster_app.command("sign")
def roster_sign(
    *,
    file: Annotated[Path, typer.Argument(help="The parties: TOML or CSV.")],
    authority: Annotated[Path, typer.Option(help="The authority's folder, kept offline.")] = Path(
        "authority"
    ),
    out: Annotated[Path, typer.Option(help="Where the signed roster goes.")] = Path("roster.bin"),
    fleet: Annotated[str, typer.Option(help="The fleet's name, where the file does not say.")] = "",
    serial: Annotated[int, typer.Option(help="The serial; one more than the last unless given.")] = 0,
) -> None:
    """Sign who belongs to the fleet, with a serial that only grows. Needs no network."""
    from shoal_coordinator.cli.roster import sign  # noqa: PLC0415

    sign(file, authority, out, fleet, serial)


@roster_app.command("show")
def roster_show(
    *,
    file: Annotated[Path, typer.Argument(help="A signed roster.")] = Path("roster.bin"),
    authority: Annotated[Path, typer.Option(help="The authority's public key.")] = Path("authority.pub"),
    fleet: Annotated[str, typer.Option(help="The fleet's name.")] = "demo",
    output: Output = "table",
) -> None:
    """Verify a signed roster and print it."""
    from shoal_coordinator.cli.roster import show  # noqa: PLC0415

    show(file, authority, fleet, as_json=output == "json")


@rounds_app.command("run")
def rounds_run(
    *,
    count: Annotated[int, typer.Option(help="How many rounds more, each making a version.", min=1)] = 1,
    wait: Wait = False,
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
) -> None:
    """Ask the coordinator for more rounds."""
    _command(config, broker, "rounds.run", wait=wait, count=count)


@rounds_app.command("stop")
def rounds_stop(
    *,
    abort: Annotated[
        bool, typer.Option("--abort", help="Give the round under way up too, where that loses nothing.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; `shoal status` shows it.")] = "taken back by the operator",
    wait: Annotated[bool, typer.Option("--wait", help="End when the round under way has ended.")] = False,
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
) -> None:
    """Take back the rounds that were asked for and are not open yet; the one under way is the last."""
    _command(config, broker, "rounds.stop", wait=wait, abort=abort, reason=reason)


@rounds_app.command("skip")
def rounds_skip(
    *,
    reason: Annotated[
        str, typer.Option(help="Why; it stays in the rounds' list.")
    ] = "skipped by the operator",
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
) -> None:
    """Go on where a hub was lost with a released sum: make the next version like the present one."""
    _command(config, broker, "rounds.skip", reason=reason)


@rounds_app.command("list")
def rounds_list(
    *,
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
    output: Output = "table",
) -> None:
    """List the rounds that ended, the newest last."""
    from shoal_coordinator.cli.operate import list_rounds  # noqa: PLC0415

    _run(list_rounds(config, broker, as_json=output == "json"))


@privacy_app.command("show")
def privacy_show(
    *,
    device: Annotated[str, typer.Option(help="Only this device, with every round it is charged for.")] = "",
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
    output: Output = "table",
) -> None:
    """Show what devices have spent of their privacy budget, and what is left."""
    from shoal_coordinator.cli.privacy import show_privacy  # noqa: PLC0415

    _run(show_privacy(config, broker, device, as_json=output == "json"))


@release_app.command("create")
def release_create(
    *,
    version: Annotated[int, typer.Option(help="Model version, -1 for the newest.")] = -1,
    name: Annotated[str, typer.Option(help="The release's name; made up where empty.")] = "",
    canaries: Annotated[int, typer.Option(help="Devices that go first.", min=1)] = 1,
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="Also onto devices that run a newer version.")
    ] = False,
    wait: Wait = False,
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
) -> None:
    """Release a model version to the fleet."""
    arguments = {"version": version, "name": name, "canaries": canaries, "allow_older": allow_older}
    _command(config, broker, "release.create", wait=wait, **arguments)


@release_app.command("withdraw")
def release_withdraw(
    *,
    release: Annotated[str, typer.Argument(help="The release's name.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "withdrawn by the operator",
    config: OperatorConfig = DEFAULT_OPERATOR,
    broker: Broker = None,
) -> None:
    """Stop a release; what runs keeps running."""
    _command(config, broker, "release.withdraw", release=release, reason=reason)


@app.command("demo")
def demo(
    *,
    devices: Annotated[int, typer.Option(help="Edge agents to start.", min=2, max=99)] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds to train.", min=1)] = 40,
    mode: Annotated[
        Literal["hubs", "single", "plain"],
        typer.Option(help="Secret-shared between hubs, masked among devices, or in clear."),
    ] = "hubs",
    codec: Annotated[
        Literal["", "randk", "global_topk", "randk4", "topk", "topk4", "int8", "int4", "dense"],
        typer.Option(
            help="randk or global_topk; mode plain: randk, topk, int8, randk4, topk4, int4 or dense. "
            "The mode's own where left out.",
            metavar="<codec>",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Draws shards and first weights.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the fleet; a second run goes on.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the result as JSON.", dir_okay=False)] = None,
    broker: Annotated[str, typer.Option(help="mosquitto, embedded, or a URL.")] = "",
    port: Annotated[
        int, typer.Option(help="Where the demo's own broker listens; 0 takes a free port.", min=0, max=65535)
    ] = 0,
    calm: Annotated[bool, typer.Option("--calm", help="Nothing is killed, nothing is cut.")] = False,
) -> None:
    """Start a whole fleet on this machine, train it, hurt it, and release the model to it."""
    if mode != "plain" and codec not in {"", *SHARED_CODECS}:
        raise CodecModeError(
            f"codec {codec!r} cannot be secret-shared: each device chooses its own coordinates or scale; "
            f"take --mode plain, or --codec {' or '.join(sorted(SHARED_CODECS))}"
        )
    if mode == "plain" and codec == LED_CODEC:
        raise CodecModeError(f"codec {codec!r} belongs to the shared modes: take --codec topk")
    from shoal_coordinator.demo.launcher import main  # noqa: PLC0415
    from shoal_coordinator.demo.state import DemoOptions  # noqa: PLC0415

    options = DemoOptions(
        devices=devices,
        rounds=rounds,
        mode=mode,
        codec=codec,
        seed=seed,
        data_dir=data_dir,
        report=report,
        broker=broker,
        port=port,
        calm=calm,
    )
    raise typer.Exit(main(options))


class CodecModeError(ShoalError):
    """A codec was asked for in a mode that does not have it."""


def _command(config: Path, broker: str | None, action: str, *, wait: bool = False, **arguments: Any) -> None:
    from shoal_coordinator.cli.operate import send_command  # noqa: PLC0415

    _run(send_command(config, broker, action, arguments, wait=wait))


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
