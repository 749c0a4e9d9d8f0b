"""The program's settings: one table, the struct `Settings`.

Rules of this file:

- A setting is told once, as a field of `Settings`: its type, range, default, help and the field of
  the core's `Config` that it sets. The other names follow from the field's: `ws_port` is the
  environment variable `WS_PORT`, the flag `--port` (no `ws-`) and the key `ws_port` in a file.
- Flags win over the environment, the environment over the file, the file over the default.
- An empty environment variable counts as not set.
- An error is one line: where the value came from, and what would be right. It never repeats the
  value, which may hold a secret (a password in an address) or control characters.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta
from msgspec.structs import fields
from tokenwire.config import Config

from tokenwire_cli.logs import PACKETS, debug_matches, escaped

DAY = 86_400_000  # milliseconds

CONFIG_VARIABLE = "TOKENWIRE_CONFIG"
"""The environment variable that names the settings file, as `--config` does."""


# A name, an IPv4 address, or an IPv6 address in brackets; whether it is one, `_is_host` tells.
_AUTHORITY = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*\])"


class SettingsError(Exception):
    """A value is wrong. The text is one line for the operator and holds no value."""


def _host(text: str) -> str:
    if not _is_host(text):
        raise ValueError
    return text


def _origin(text: str) -> str:
    # As a browser writes it (RFC 6454 6.1), for the core compares byte by byte: lower case, without
    # the scheme's own port, path or slash. "null" has no "://".
    match = re.fullmatch(rf"([a-z][a-z0-9+.-]*)://{_AUTHORITY}(?::([1-9][0-9]{{0,4}}))?", text)
    if match is None or text != text.lower():
        raise ValueError
    scheme, host, port = match.groups()
    own_port = {"http": "80", "https": "443"}.get(scheme)
    if not _is_host(host.strip("[]")) or (port and (port == own_port or int(port) > 65_535)):
        raise ValueError
    return text


def _origin_or_any(text: str) -> str:
    return text if text == "*" else _origin(text)


def _url(text: str) -> str:
    match = re.fullmatch(
        rf"https?://{_AUTHORITY}(?::([0-9]{{1,5}}))?(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?",
        text,
        re.IGNORECASE,
    )
    if match is None:
        raise ValueError
    host, port = match.groups()
    if not _is_host(host.strip("[]")) or (port and not 1 <= int(port) <= 65_535):
        raise ValueError
    return text.rstrip("/")  # the runtime appends "/api/chat"


def _model(text: str) -> str:
    # What Ollama takes as a name, `host/namespace/model:tag@digest`, without control characters.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:/@-]{0,255}", text):
        raise ValueError
    return text


def _model_or_any(text: str) -> str:
    return text if text == "*" else _model(text)


def _pattern(text: str) -> str:
    # DEBUG is shared with other programs: whatever one could type is theirs, if not ours.
    if len(text) > 256 or not text.isprintable():
        raise ValueError
    return text


def _is_host(text: str) -> bool:
    if ":" in text:
        return _is_ip(text)
    if re.fullmatch(r"[\d.]+", text):  # "1.2.3" and "999.1.1.1" are no names either
        return _is_ip(text)
    label = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    return len(text) <= 253 and re.fullmatch(rf"{label}(?:\.{label})*\.?", text) is not None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return text.isascii() and text.isprintable()  # an IPv6 zone may be any text


def _network(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f.:]+(?:/[0-9]{1,3})?", text):
        raise ValueError
    return str(ipaddress.ip_network(text))


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What the table says of a setting beside its type, range and default."""

    help: str
    wanted: str = ""
    """What would be right, after "must be"; empty where the type and range say it."""
    unit: str = ""
    config: str | None = None
    """The field of the core's `Config` that takes the value as it is."""
    parse: Callable[[str], str] | None = None
    """Checks a text (of a list: each entry) and returns it normalised, or raises ValueError."""
    separators: str = ","
    """What separates the entries of a list that comes as one text."""


EventLoop = Literal["asyncio", "uvloop"]

_ORIGIN = "as a browser sends it: scheme://host[:port], lower case, no path, no final slash"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of the program. Spans are in milliseconds."""

    ws_port: Annotated[
        int,
        Meta(ge=0, le=65_535),
        About(help="port to listen on; 0 takes a free one"),
    ] = 3000
    ws_host: Annotated[
        str,
        About(
            help="address to listen on; 0.0.0.0 or :: for all",
            wanted="a host name or an IP address, without scheme and port",
            parse=_host,
        ),
    ] = "127.0.0.1"
    ws_cors_origin: Annotated[
        tuple[str, ...],
        About(
            help="origins of pages that may connect, comma-separated; "
            "* for any, without credentials",
            wanted=f'"*" alone or a list of origins, each {_ORIGIN}',
            config="cors_origins",
            parse=_origin_or_any,
        ),
    ] = ("http://localhost:5173",)
    ws_cors_credentials: Annotated[
        bool,
        About(help="let such pages send cookies", config="cors_credentials"),
    ] = True
    public_origin: Annotated[
        tuple[str, ...],
        About(
            help="further origins under which the server's own page is reached, comma-separated",
            wanted=f"a list of origins, each {_ORIGIN}",
            parse=_origin,
        ),
    ] = ()
    max_concurrent_streams: Annotated[
        int,
        Meta(ge=1, le=1_000),
        About(help="streams that a client may have at once", config="max_concurrent_streams"),
    ] = 10
    stream_timeout: Annotated[
        int,
        Meta(ge=1, le=DAY),
        About(help="longest life of a stream", unit="milliseconds", config="stream_timeout"),
    ] = 300_000
    reconnect_timeout: Annotated[
        int,
        Meta(ge=1, le=DAY),
        About(
            help="how long a lost client's streams wait for it",
            unit="milliseconds",
            config="reconnect_timeout",
        ),
    ] = 30_000
    recovery: Annotated[
        Literal["auto", "on", "off"],
        About(
            help="connection state recovery, by which stock clients resume without code; "
            "auto: not for python-socketio",
            config="recovery",
        ),
    ] = "auto"
    rate_limit_messages: Annotated[
        int,
        Meta(ge=1, le=10_000),
        About(
            help="messages of a client, twice as many at once",
            unit="a second",
            config="messages_per_second",
        ),
    ] = 20
    rate_limit_streams: Annotated[
        int,
        Meta(ge=1, le=100_000),
        About(
            help="streams that a client may start, all of them at once if it likes",
            unit="a minute",
            config="stream_starts_per_minute",
        ),
    ] = 30
    max_sessions: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        About(help="connections of clients in all", config="max_sessions"),
    ] = 10_000
    max_sessions_per_address: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        About(
            help="connections from one address, IPv6 by its /64; not from this machine",
            config="max_sessions_per_address",
        ),
    ] = 50
    trusted_proxies: Annotated[
        tuple[str, ...],
        About(
            help="proxies whose X-Forwarded-For and Forwarded say where a client is, "
            "comma-separated",
            wanted="a list of IP addresses and networks such as 127.0.0.1,10.0.0.0/8",
            config="trusted_proxies",
            parse=_network,
        ),
    ] = ()
    backpressure_threshold: Annotated[
        int,
        Meta(ge=1, le=100_000),
        About(
            help="waiting tokens of a client above which its model is slowed",
            unit="tokens",
            config="backpressure_threshold",
        ),
    ] = 100
    memory_limit: Annotated[
        int,
        Meta(ge=1024 * 1024, le=2**40),
        About(
            help="what the streams of all clients may take; above 80 % of it no new one starts",
            unit="bytes",
            config="memory_bytes",
        ),
    ] = 512 * 1024 * 1024
    backpressure_policy: Annotated[
        Literal["merge", "pause", "skip"],
        About(
            help="merge the tokens that wait; send each by itself (pause); or leave out those "
            "above the threshold (skip)",
            config="backpressure_policy",
        ),
    ] = "merge"
    stream_rate_limit: Annotated[
        int,
        Meta(ge=0, le=100_000),
        About(help="tokens a second of one stream towards its client; 0 for no limit"),
    ] = 0
    slow_consumer_timeout: Annotated[
        int,
        Meta(ge=100, le=DAY),
        About(
            help="how long a connection may take nothing of what waits for it",
            unit="milliseconds",
            config="slow_consumer_timeout",
        ),
    ] = 20_000
    heartbeat_interval: Annotated[
        int,
        Meta(ge=100, le=3_600_000),  # less would be a flood, more outlasts every proxy
        About(
            help="time between two pings to a client",
            unit="milliseconds",
            config="heartbeat_interval",
        ),
    ] = 30_000
    ollama_base_url: Annotated[
        str,
        About(
            help="address of the model server (Ollama's API)",
            wanted="an address such as http://localhost:11434: http or https, a host, "
            "no credentials, query or fragment",
            parse=_url,
        ),
    ] = "http://localhost:11434"
    upstream_client: Annotated[
        Literal["auto", "httpx"],
        About(
            help="what asks the model server; auto: a socket alone for plain HTTP, httpx for the "
            "rest; httpx: for all",
        ),
    ] = "auto"
    event_loop: Annotated[
        EventLoop,
        About(help="the event loop; uvloop is faster, and needs the extra of its name"),
    ] = "asyncio"
    ollama_default_model: Annotated[
        str,
        About(
            help="model of requests that name none",
            wanted="a model's name such as codellama or llama3.2:1b",
            config="default_model",
            parse=_model,
        ),
    ] = "codellama"
    allowed_models: Annotated[
        tuple[str, ...],
        About(
            help="models that clients may name, comma-separated; * for any; "
            "empty: those that the model server offers",
            wanted='"*" alone or a list of models\' names such as codellama,llama3.2:1b',
            config="allowed_models",
            parse=_model_or_any,
        ),
    ] = ()
    stats_access: Annotated[
        Literal["loopback", "open"],
        About(help="who may read /stats: this machine only, or anyone"),
    ] = "loopback"
    debug: Annotated[
        tuple[str, ...],
        About(
            help="websocket:* shows each packet in and out, secrets and prompts masked",
            wanted="patterns such as websocket:*, comma-separated, without control characters",
            parse=_pattern,
            separators=", \t\r\n",  # as the npm package `debug` splits it
        ),
    ] = ()
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        About(help="lowest level of the log"),
    ] = "info"

    def config(self) -> Config:
        """Return the core's configuration.

        Raises:
            tokenwire.errors.LocalProtocolError: values that `load` would have refused.
        """
        values = {s.about.config: getattr(self, s.key) for s in SETTINGS if s.about.config}
        # Only /ai: a client that forgot it is told "Invalid namespace", instead of nothing.
        trace = debug_matches(self.debug, PACKETS)
        return Config(
            **values,
            message_burst=2 * self.rate_limit_messages,
            stream_rate_limit=self.stream_rate_limit or None,
            namespaces=(),
            trace=trace,
        )


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table, with the names that follow from its key."""

    key: str
    """The field of `Settings`, and the key in the file."""
    type: Any
    default: object
    about: About
    wanted: str
    """What would be right, after "must be"."""
    metavar: str

    @property
    def variable(self) -> str:
        """The environment variable."""
        return self.key.upper()

    @property
    def flag(self) -> str:
        """The command line's flag."""
        return "--" + self.key.removeprefix("ws_").replace("_", "-")

    @property
    def is_list(self) -> bool:
        """Whether the value is a list, which may also come as one text."""
        return isinstance(self.default, tuple)


def load(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    file: str | None,
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings from all sources.

    Args:
        flags: the values of the flags given, by key (`ws_port`).
        environ: the environment.
        file: the TOML file of `--config`; None: what the environment names, if anything.
        defaults: replaces defaults of the table, by key.

    Raises:
        SettingsError: something is wrong; the first thing found is told.
    """
    from_file, file_label = _file(file, environ)
    values: dict[str, object] = dict(defaults or {})
    sources: dict[str, str] = {}
    for setting in SETTINGS:
        key = setting.key
        # All sources are checked, also those that lose: a wrong line in a file is told at once,
        # not on the day on which the variable that hides it goes.
        if key in from_file:
            sources[key] = f"key {key} in {file_label}"
            values[key] = _converted(setting, from_file[key], sources[key], is_text=False)
        if text := environ.get(setting.variable):
            sources[key] = f"environment variable {setting.variable}"
            values[key] = _converted(setting, text, sources[key], is_text=True)
        if key in flags:
            sources[key] = f"flag {setting.flag}"
            values[key] = _converted(setting, flags[key], sources[key], is_text=True)
    settings = msgspec.convert(values, Settings)
    if "*" in settings.ws_cors_origin and settings.ws_cors_credentials:
        # The Fetch standard forbids the pair: a browser would refuse every answer.
        raise SettingsError(
            f'{sources["ws_cors_origin"]} must be a list of origins, or "*" together with '
            "WS_CORS_CREDENTIALS=false (--cors-credentials false): browsers refuse * with "
            "credentials"
        )
    return settings


def _file(file: str | None, environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Return the file's keys and values, and how messages call the file."""
    origin = "flag --config"
    if file is None:
        file = environ.get(CONFIG_VARIABLE)
        origin = f"environment variable {CONFIG_VARIABLE}"
        if not file:
            return {}, ""
    label = escaped(file)
    try:
        with open(file, "rb") as opened:
            keys = tomllib.load(opened)
    except OSError as error:
        raise SettingsError(
            f"{origin} must be a readable file: {label}: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{origin} must be a TOML file in UTF-8: {label}") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise SettingsError(
            f"{origin} must be a valid TOML file: {label}: {escaped(str(error))}"
        ) from None
    known = [setting.key for setting in SETTINGS]
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, 1)
            hint = f"did you mean {near[0]}?" if near else "see tokenwire serve --help"
            raise SettingsError(f"key {escaped(key)} in {label} must be a known setting: {hint}")
    return keys, label


def _converted(setting: Setting, raw: object, source: str, *, is_text: bool) -> object:
    """Return `raw` as the setting's type, or raise SettingsError.

    Args:
        is_text: True for flags and the environment, where numbers too come as text.
    """
    if isinstance(raw, str):
        if setting.is_list:
            raw = [entry for entry in _split(raw, setting.about.separators) if entry]
        elif get_origin(setting.type) is Literal:
            raw = raw.lower()  # LOG_LEVEL=INFO is how other programs write it
    wrong = SettingsError(f"{source} must be {setting.wanted}")
    try:
        value = msgspec.convert(raw, setting.type, strict=not is_text)
    except msgspec.ValidationError:
        raise wrong from None
    if setting.about.parse is None:
        return value
    try:
        if not setting.is_list:
            return setting.about.parse(value)
        entries = tuple(map(setting.about.parse, value))
    except ValueError:
        raise wrong from None
    # "Any" beside a list is a mistake; among DEBUG's patterns it is usual.
    if setting.key != "debug" and "*" in entries and len(entries) > 1:
        raise wrong
    return entries


def _split(text: str, separators: str) -> list[str]:
    return [part.strip() for part in re.split(f"[{re.escape(separators)}]", text)]


def _table() -> tuple[Setting, ...]:
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field in fields(Settings):
        base, *metadata = get_args(hints[field.name])
        about = next(item for item in metadata if isinstance(item, About))
        limits = next((item for item in metadata if isinstance(item, Meta)), None)
        wanted, metavar = about.wanted, "TEXT"
        if base is bool:
            wanted, metavar = "true or false", "true|false"
        elif get_origin(base) is Literal:
            wanted = "one of " + ", ".join(get_args(base))
            metavar = "|".join(get_args(base))
        elif get_origin(base) is tuple:
            metavar = "LIST"
        elif limits is not None:
            metavar = "N"
            wanted = f"a whole number from {limits.ge} to {limits.le}"
            wanted += f" ({about.unit})" if about.unit else ""
        rows.append(
            Setting(
                key=field.name,
                type=base if limits is None else Annotated[base, limits],
                default=field.default,
                about=about,
                wanted=wanted,
                metavar=metavar,
            )
        )
    return tuple(rows)


SETTINGS: tuple[Setting, ...] = _table()
"""The table's rows, in the order of `Settings`."""
