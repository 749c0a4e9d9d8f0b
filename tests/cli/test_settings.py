"""Every setting as a flag, an environment variable and a key in the file, right and wrong.

Rules of this file: `CASES` has a row for each setting, checked against the table of the program; a
setting without a row fails. Wrong values go through the whole program, for what counts is what an
operator sees: exit code 2 and one line on standard error that names the place.
"""

from pathlib import Path

import msgspec
import pytest
from tokenwire.config import Config
from tokenwire.errors import LocalProtocolError
from tokenwire_cli.main import DEMO_DEFAULTS, parse, run
from tokenwire_cli.settings import CONFIG_VARIABLE, SETTINGS, Settings, SettingsError, load


class Case(msgspec.Struct, frozen=True):
    """A setting with one good value, in text and in TOML, and wrong ones."""

    flag: str
    text: str
    toml: str
    value: object
    wrong_texts: tuple[str, ...]
    wrong_tomls: tuple[str, ...]
    wanted: str
    """A part of what the error says would be right."""


ORIGINS_WRONG = (
    "localhost:5173",
    "null",
    "http://localhost:5173/",
    "http://localhost:5173/app",
    "http://localhost:5173?x",
    "http://localhost:5173#x",
    "http://Localhost:5173",
    "HTTP://localhost:5173",
    "http://localhost:80",
    "https://localhost:443",
    "http://localhost:0",
    "http://localhost:070",
    "http://localhost:65536",
    "http://localhost:1٣",
    "http://user@localhost",
    "http://*.example.com",
    "http://1.2.3",
    "http://[::1",
    "http://[abc]",
    "http://[fe80::1%25eth0]",
    "http://a..b",
    "http://",
    "file://",
    "http://localhost:5173,null",
    "http://a\x1b[2J",
)

CASES = {
    "ws_port": Case(
        "--port",
        "8080",
        "8080",
        8080,
        ("x", "-1", "65536", "3000.5", " 3000", "3_000", "9" * 5000),
        ('"3000"', "65536", "-1", "3000.0", "true", "[1]", "1979-05-27"),
        "a whole number from 0 to 65535",
    ),
    "ws_host": Case(
        "--host",
        "0.0.0.0",
        '"::1"',
        {"text": "0.0.0.0", "toml": "::1"},
        ("http://localhost", "localhost:3000", "[::1]", "1.2.3", "a b", "a\x1b", "-", "a" * 300),
        ('""', "5", '"a b"', "[]"),
        "a host name or an IP address",
    ),
    "ws_cors_origin": Case(
        "--cors-origin",
        "https://a.example, http://[::1]:8080,,capacitor://localhost",
        '["https://a.example", "http://[::1]:8080", "capacitor://localhost"]',
        ("https://a.example", "http://[::1]:8080", "capacitor://localhost"),
        (*ORIGINS_WRONG, "*,http://a.example"),
        ("5", '["http://a.example/"]', "[5]", '""" http://a.example/ """'),
        "scheme://host[:port]",
    ),
    "ws_cors_credentials": Case(
        "--cors-credentials",
        "false",
        "false",
        False,
        ("no", "2", "off"),
        ('"false"', "0", "[]"),
        "true or false",
    ),
    "public_origin": Case(
        "--public-origin",
        "https://demo.example,https://demo.example:8443",
        '"https://demo.example,https://demo.example:8443"',
        ("https://demo.example", "https://demo.example:8443"),
        (*ORIGINS_WRONG, "*"),
        ("5", '["*"]', "[5]"),
        "scheme://host[:port]",
    ),
    "max_concurrent_streams": Case(
        "--max-concurrent-streams",
        "3",
        "3",
        3,
        ("0", "1001", "many"),
        ("0", '"3"', "1001"),
        "a whole number from 1 to 1000",
    ),
    "stream_timeout": Case(
        "--stream-timeout",
        "5000",
        "5000",
        5000,
        ("0", "86400001", "5s"),
        ("0", '"5000"', "86400001"),
        "a whole number from 1 to 86400000 (milliseconds)",
    ),
    "reconnect_timeout": Case(
        "--reconnect-timeout",
        "6000",
        "6000",
        6000,
        ("0", "86400001", "6s"),
        ("0", '"6000"', "86400001"),
        "a whole number from 1 to 86400000 (milliseconds)",
    ),
    "recovery": Case(
        "--recovery",
        "off",
        '"off"',
        "off",
        ("yes", "1", "auto,on"),
        ("true", '"yes"', "1"),
        "one of auto, on, off",
    ),
    "rate_limit_messages": Case(
        "--rate-limit-messages",
        "50",
        "50",
        50,
        ("0", "10001", "20/s"),
        ("0", '"50"', "1.5"),
        "a whole number from 1 to 10000 (a second)",
    ),
    "rate_limit_streams": Case(
        "--rate-limit-streams",
        "60",
        "60",
        60,
        ("0", "100001", "1/s"),
        ("0", '"60"', "true"),
        "a whole number from 1 to 100000 (a minute)",
    ),
    "max_sessions": Case(
        "--max-sessions",
        "5",
        "5",
        5,
        ("0", "1000001", "many"),
        ("0", '"5"', "1000001"),
        "a whole number from 1 to 1000000",
    ),
    "max_sessions_per_address": Case(
        "--max-sessions-per-address",
        "6",
        "6",
        6,
        ("0", "1000001", "*"),
        ("0", '"6"', "[6]"),
        "a whole number from 1 to 1000000",
    ),
    "trusted_proxies": Case(
        "--trusted-proxies",
        "127.0.0.1, 10.0.0.0/8,,2001:DB8::/32",
        '["127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32"]',
        ("127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32"),
        ("localhost", "*", "10.0.0.1/8", "1.2.3", "::1%lo", "10.0.0.0/33", "1.2.3.4/", "::/1٣"),
        ("5", "[5]", '[""]', '"10.0.0.0-10.0.0.9"'),
        "a list of IP addresses and networks",
    ),
    "backpressure_threshold": Case(
        "--backpressure-threshold",
        "7",
        "7",
        7,
        ("0", "100001", "low"),
        ("0", '"7"', "100001"),
        "a whole number from 1 to 100000 (tokens)",
    ),
    "memory_limit": Case(
        "--memory-limit",
        "2000000",
        "2000000",
        2_000_000,
        ("1048575", "1099511627777", "512M"),
        ("0", '"2000000"', "1048575"),
        "a whole number from 1048576 to 1099511627776 (bytes)",
    ),
    "backpressure_policy": Case(
        "--backpressure-policy",
        "skip",
        '"skip"',
        "skip",
        ("drop", "1"),
        ('"drop"', "1", "true"),
        "one of merge, pause, skip",
    ),
    "stream_rate_limit": Case(
        "--stream-rate-limit",
        "30",
        "30",
        30,
        ("-1", "100001", "30/s"),
        ("-1", '"30"', "30.0"),
        "a whole number from 0 to 100000",
    ),
    "slow_consumer_timeout": Case(
        "--slow-consumer-timeout",
        "5000",
        "5000",
        5000,
        ("99", "86400001", "5s"),
        ("99", '"5000"', "5000.0"),
        "a whole number from 100 to 86400000",
    ),
    "heartbeat_interval": Case(
        "--heartbeat-interval",
        "8000",
        "8000",
        8000,
        ("99", "3600001", "8s"),
        ("99", '"8000"', "3600001"),
        "a whole number from 100 to 3600000 (milliseconds)",
    ),
    "ollama_base_url": Case(
        "--ollama-base-url",
        "https://models.example:8443/ollama/",
        '"https://models.example:8443/ollama"',
        "https://models.example:8443/ollama",
        (
            "localhost:11434",
            "ftp://localhost",
            "http://",
            "http:///api",
            "http://user:hunter2@localhost",
            "http://hunter2@localhost",
            "http://localhost?key=hunter2",
            "http://localhost/?",
            "http://localhost#hunter2",
            "http://localhost:0",
            "http://localhost:65536",
            "http://localhost:",
            "http://999.1.1.1",
            "http://[::1",
            "http://[abc]",
            "http://[fe80::1%25eth0]",
            "http://a b",
            "http://localhost/a b",
            "http://localhost/\x1b",
            " http://localhost",
        ),
        ("5", '""', '"http://user:hunter2@localhost"', '["http://localhost"]'),
        "http or https, a host",
    ),
    "upstream_client": Case(
        "--upstream-client",
        "httpx",
        '"httpx"',
        "httpx",
        ("socket", "1", "auto,httpx"),
        ("true", '"socket"', "1"),
        "one of auto, httpx",
    ),
    "event_loop": Case(
        "--event-loop",
        "uvloop",
        '"uvloop"',
        "uvloop",
        ("socket", "1", "asyncio,uvloop"),
        ("true", '"socket"', "1"),
        "one of asyncio, uvloop",
    ),
    "ollama_default_model": Case(
        "--ollama-default-model",
        "hf.co/user/repo:Q4_K_M",
        '"hf.co/user/repo:Q4_K_M"',
        "hf.co/user/repo:Q4_K_M",
        ("code llama", "*", "a,b", "a\x1b", "-x", "m" * 257),
        ("5", '""', '"code llama"', '["codellama"]'),
        "a model's name",
    ),
    "allowed_models": Case(
        "--allowed-models",
        "codellama,llama3.2:1b",
        '["codellama", "llama3.2:1b"]',
        ("codellama", "llama3.2:1b"),
        ("code llama", "codellama,*", "a\x1b"),
        ("5", "[5]", '["codellama", "*"]', '["a,b"]', '[""]'),
        '"*" alone or a list of models',
    ),
    "stats_access": Case(
        "--stats-access",
        "open",
        '"open"',
        "open",
        ("everyone", "true"),
        ("true", '""', '"all"'),
        "one of loopback, open",
    ),
    "debug": Case(
        "--debug",
        "websocket:*, app:* -app:db",
        '["websocket:*", "app:*", "-app:db"]',
        ("websocket:*", "app:*", "-app:db"),
        ("websocket\x1b[2J", "a\x07", "x" * 257),
        ("5", "true", "[5]", '"a\\u001b"'),
        "patterns such as websocket:*",
    ),
    "log_level": Case(
        "--log-level",
        "WARNING",
        '"warning"',
        "warning",
        ("verbose", "warn", "10"),
        ("10", '""', '"all"'),
        "one of debug, info, warning, error",
    ),
}

KEYS = sorted(CASES)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)


def expected(key: str, form: str) -> object:
    value = CASES[key].value
    return value[form] if isinstance(value, dict) else value


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run the program with wrong settings; return the line on standard error."""
    assert run(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert "hunter2" not in err
    return err


def test_the_cases_cover_every_setting() -> None:
    assert list(CASES) == [setting.key for setting in SETTINGS]
    for setting in SETTINGS:
        case = CASES[setting.key]
        assert setting.flag == case.flag
        assert case.value != setting.default, "a good value has to differ from the default"
        assert case.wrong_texts
        assert case.wrong_tomls


def test_the_defaults_are_the_contract() -> None:
    settings = load({}, {}, None)
    assert settings == Settings()
    assert msgspec.structs.asdict(settings) == {
        "ws_port": 3000,
        "ws_host": "127.0.0.1",
        "ws_cors_origin": ("http://localhost:5173",),
        "ws_cors_credentials": True,
        "public_origin": (),
        "max_concurrent_streams": 10,
        "stream_timeout": 300_000,
        "reconnect_timeout": 30_000,
        "recovery": "auto",
        "rate_limit_messages": 20,
        "rate_limit_streams": 30,
        "max_sessions": 10_000,
        "max_sessions_per_address": 50,
        "trusted_proxies": (),
        "backpressure_threshold": 100,
        "memory_limit": 512 * 1024 * 1024,
        "backpressure_policy": "merge",
        "stream_rate_limit": 0,
        "slow_consumer_timeout": 20_000,
        "heartbeat_interval": 30_000,
        "ollama_base_url": "http://localhost:11434",
        "upstream_client": "auto",
        "event_loop": "asyncio",
        "ollama_default_model": "codellama",
        "allowed_models": (),
        "stats_access": "loopback",
        "debug": (),
        "log_level": "info",
    }
    assert settings.config() == Config(namespaces=())


@pytest.mark.parametrize("key", KEYS)
def test_default_is_a_value_that_the_checks_accept(key: str) -> None:
    default = getattr(Settings(), key)
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    assert getattr(load({key: text}, {}, None), key) == default


@pytest.mark.parametrize("key", KEYS)
def test_flag(key: str) -> None:
    case = CASES[key]
    _, settings = parse(["serve", f"{case.flag}={case.text}"], {})
    assert settings == msgspec.structs.replace(Settings(), **{key: expected(key, "text")})


@pytest.mark.parametrize("key", KEYS)
def test_environment(key: str) -> None:
    _, settings = parse(["serve"], {key.upper(): CASES[key].text})
    assert settings == msgspec.structs.replace(Settings(), **{key: expected(key, "text")})


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("named_by", ["flag", "environment"])
def test_file(key: str, named_by: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenwire.toml"
    file.write_text(f"{key} = {CASES[key].toml}\n")
    if named_by == "flag":
        _, settings = parse(["serve", "--config", str(file)], {})
    else:
        _, settings = parse(["serve"], {CONFIG_VARIABLE: str(file)})
    assert settings == msgspec.structs.replace(Settings(), **{key: expected(key, "toml")})


@pytest.mark.parametrize(
    ("key", "text"), [(key, text) for key in KEYS for text in CASES[key].wrong_texts]
)
@pytest.mark.parametrize("command", ["serve", "demo"])
def test_wrong_flag(key: str, text: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[key]
    line = refused(capsys, command, f"{case.flag}={text}")
    assert line.startswith(f"tokenwire: flag {case.flag} must be ")
    assert case.wanted in line


@pytest.mark.parametrize(
    ("key", "text"), [(key, text) for key in KEYS for text in CASES[key].wrong_texts]
)
def test_wrong_environment(
    key: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(key.upper(), text)
    line = refused(capsys, "serve")
    assert line.startswith(f"tokenwire: environment variable {key.upper()} must be ")
    assert CASES[key].wanted in line


@pytest.mark.parametrize(
    ("key", "toml"), [(key, toml) for key in KEYS for toml in CASES[key].wrong_tomls]
)
def test_wrong_value_in_file(
    key: str, toml: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokenwire.toml"
    file.write_text(f"{key} = {toml}\n")
    line = refused(capsys, "serve", "--config", str(file))
    assert line.startswith(f"tokenwire: key {key} in {file} must be ")
    assert CASES[key].wanted in line


@pytest.mark.parametrize("key", [s.key for s in SETTINGS if not s.is_list])
def test_empty_flag_is_wrong_unless_a_list(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert CASES[key].flag in refused(capsys, "serve", f"{CASES[key].flag}=")


@pytest.mark.parametrize("key", [s.key for s in SETTINGS if s.is_list])
def test_empty_flag_empties_a_list(key: str) -> None:
    _, settings = parse(["serve", f"{CASES[key].flag}="], {key.upper(): CASES[key].text})
    assert getattr(settings, key) == ()


@pytest.mark.parametrize("key", KEYS)
def test_empty_environment_variable_counts_as_not_set(key: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenwire.toml"
    file.write_text(f"{key} = {CASES[key].toml}\n")
    assert load({}, {key.upper(): "", CONFIG_VARIABLE: ""}, None) == Settings()
    assert getattr(load({}, {key.upper(): ""}, str(file)), key) == expected(key, "toml")


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "tokenwire.toml"
    file.write_text("ws_port = 1001\nstream_timeout = 1001\nlog_level = 'error'\n")
    environ = {"WS_PORT": "1002", "STREAM_TIMEOUT": "1002", CONFIG_VARIABLE: "/nowhere"}
    _, settings = parse(["serve", "--port", "1003", "--config", str(file)], environ)
    assert settings.ws_port == 1003  # the flag
    assert settings.stream_timeout == 1002  # the environment
    assert settings.log_level == "error"  # the file
    assert settings.reconnect_timeout == 30_000  # the default


def test_a_wrong_value_that_loses_is_told_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokenwire.toml"
    file.write_text("ws_port = 'x'\n")
    assert "key ws_port in" in refused(capsys, "serve", "--port=1", "--config", str(file))


def test_demo_has_its_own_defaults_which_anything_overrides() -> None:
    _, settings = parse(["demo"], {})
    assert settings == msgspec.structs.replace(Settings(), **DEMO_DEFAULTS)
    _, settings = parse(["demo", "--allowed-models=a"], {"OLLAMA_DEFAULT_MODEL": "a"})
    assert settings.allowed_models == ("a",)
    assert settings.ollama_default_model == "a"


def test_page_is_a_flag_of_serve() -> None:
    assert parse(["serve"], {})[0].page is False
    assert parse(["serve", "--page"], {})[0].page is True


# -- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ws_prot = 1\n", ("key ws_prot in", "did you mean ws_port?")),
        (b"WS_PORT = 1\n", ("key WS_PORT in", "did you mean ws_port?")),
        (b"[server]\nws_port = 1\n", ("key server in", "known setting")),
        (b'"a\\u001b[2J\\nb" = 1\n', ("key a\\x1b[2J\\x0ab in", "known setting")),
        (b"ws_port 3000\n", ("valid TOML", "line 1")),
        (b"ws_port = 1\nws_port = 2\n", ("valid TOML",)),
        (b"ws_port = " + b"9" * 5000, ("valid TOML",)),
        (b"ws_port = " + b"[" * 5000, ("valid TOML",)),
        (b"ws_host = '\xff'\n", ("UTF-8",)),
        (b"ws_host = '\x00'\n", ("valid TOML",)),
    ],
)
def test_wrong_file(
    content: bytes, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokenwire.toml"
    file.write_bytes(content)
    line = refused(capsys, "serve", "--config", str(file))
    assert str(file) in line
    for word in words:
        assert word in line


def test_unreadable_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "absent\n.toml"
    line = refused(capsys, "serve", f"--config={absent}")
    assert line.startswith("tokenwire: flag --config must be a readable file: ")
    assert "absent\\x0a.toml: No such file or directory" in line
    assert "flag --config" in refused(capsys, "serve", f"--config={tmp_path}")
    assert "flag --config" in refused(capsys, "serve", "--config=")
    monkeypatch.setenv(CONFIG_VARIABLE, str(absent))
    assert f"environment variable {CONFIG_VARIABLE}" in refused(capsys, "serve")


# -- what depends on two settings, and what the core gets ----------------------------------------


def test_any_origin_needs_credentials_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(capsys, "serve", "--cors-origin=*")
    assert line.startswith("tokenwire: flag --cors-origin must be ")
    assert "WS_CORS_CREDENTIALS=false" in line
    monkeypatch.setenv("WS_CORS_ORIGIN", "*")
    assert "environment variable WS_CORS_ORIGIN" in refused(capsys, "serve")
    _, settings = parse(["serve", "--cors-origin=*", "--cors-credentials=false"], {})
    assert settings.config().cors_origins == ("*",)
    with pytest.raises(LocalProtocolError):
        Settings(ws_cors_origin=("*",)).config()


def test_the_core_gets_the_settings() -> None:
    environ = {key.upper(): case.text for key, case in CASES.items()}
    assert load({}, environ, None).config() == Config(
        namespaces=(),
        cors_origins=("https://a.example", "http://[::1]:8080", "capacitor://localhost"),
        cors_credentials=False,
        max_concurrent_streams=3,
        backpressure_policy="skip",
        stream_rate_limit=30,
        slow_consumer_timeout=5_000,
        stream_timeout=5000,
        reconnect_timeout=6000,
        recovery="off",
        messages_per_second=50,
        message_burst=100,
        stream_starts_per_minute=60,
        max_sessions=5,
        max_sessions_per_address=6,
        trusted_proxies=("127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32"),
        backpressure_threshold=7,
        memory_bytes=2_000_000,
        heartbeat_interval=8000,
        default_model="hf.co/user/repo:Q4_K_M",
        allowed_models=("codellama", "llama3.2:1b"),
        trace=True,
    )


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("websocket:*", True),
        ("*", True),
        ("websocket:packet", True),
        ("app:*,websocket:*", True),
        ("app:* websocket:*", True),
        ("*,-app:*", True),
        ("app:*", False),
        ("websocket", False),
        ("*,-websocket:*", False),
        ("-websocket:packet,*", False),
        ("true", False),
        ("(.*)", False),
        ("", False),
    ],
)
def test_debug_turns_the_packet_trace_on(text: str, trace: bool) -> None:
    assert load({"debug": text}, {}, None).config().trace is trace


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().ws_port = 1  # type: ignore[misc]


def test_no_value_of_a_source_in_an_error() -> None:
    for key in CASES:
        with pytest.raises(SettingsError) as caught:
            load({}, {key.upper(): "hunter2 \x1b"}, None)
        assert "hunter2" not in str(caught.value)


# -- the arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["srve"],
        ["serve", "--prot", "1"],
        ["serve", "--por", "1"],
        ["serve", "--port"],
        ["serve", "--page=x"],
        ["serve", "stray"],
        ["serve", "stray\x1b[2J\nx"],
        ["demo", "--page"],
        ["--port", "1"],
    ],
)
def test_wrong_arguments_are_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert err.startswith("tokenwire")
    assert "--help" in err


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_help_names_flag_variable_and_default_of_each_setting(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run([command, "--help"])
    assert caught.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS:
        default = (DEMO_DEFAULTS if command == "demo" else {}).get(setting.key, setting.default)
        shown = ",".join(default) or "empty" if isinstance(default, tuple) else str(default)
        assert f"{setting.flag} " in words
        if isinstance(default, bool):
            shown = shown.lower()
        assert f"[{setting.variable}, default: {shown}" in words


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["--help"])
    assert caught.value.code == 0
    assert "tokenwire serve --page" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("tokenwire ")
