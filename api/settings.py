"""Settings: the home's ``holdfast.toml``, and over it the environment, read once by whoever wires the parts together.

docs/reference/settings.md lists every key. Lower layers never see this: they are given values. Unknown keys are errors
in the file and in the environment, because a setting that is misspelt and ignored is worse than none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from api.home import HOME_FORMAT, Home
from identity.errors import ConfigurationError, MalformedError, NewerFormat
from identity.jsontext import parse_json
from ledger.storage.location import StoreLocation, parse_location

__all__ = [
    "AlarmSettings",
    "AuthoritySettings",
    "ChainSettings",
    "DevAuthoritySettings",
    "DevChainSettings",
    "HttpAuthoritySettings",
    "NoChainSettings",
    "RpcChainSettings",
    "ServiceLimits",
    "ServiceSettings",
    "Settings",
    "TimestampSettings",
    "default_settings_text",
    "dev_directory",
    "find_home",
    "load_settings",
    "parse_settings",
    "read_settings_file",
]

MAX_FILE_BYTES: Final = 65_536

_PREFIX: Final = "HOLDFAST_"
_NOT_SETTINGS: Final = frozenset(
    {
        "HOLDFAST_HOME",
        "HOLDFAST_DEBUG",
        "HOLDFAST_PASSPHRASE_FD",
        "HOLDFAST_PASSPHRASE_FILE",
        "HOLDFAST_PIN_FD",
        "HOLDFAST_PIN_FILE",
    }
)
"""Variables that the command line reads itself."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _http_url(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if scheme not in ("http", "https") or not separator or not rest.strip("/"):
        raise ValueError("not the http or https URL of a host")
    return text


HttpUrl = Annotated[str, AfterValidator(_http_url)]


def _file_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold a NUL character")
    return path


FilePath = Annotated[Path, AfterValidator(_file_path)]


def _store_location(value: object) -> StoreLocation:
    if not isinstance(value, str | Path):
        raise ValueError("not the path of a file, nor a postgresql URL")
    try:
        location = parse_location(value)
    except MalformedError as exc:
        raise ValueError(str(exc)) from None
    return _file_path(location) if isinstance(location, Path) else location


DatabaseLocation = Annotated[StoreLocation, NoDecode, PlainValidator(_store_location)]

Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}[smhd]$")]


class DevChainSettings(_Part):
    """The embedded development chain. It proves nothing to anybody else."""

    kind: Literal["dev"]


class RpcChainSettings(_Part):
    """A chain behind JSON-RPC nodes. Several URLs are alternatives of one chain."""

    kind: Literal["rpc"]
    urls: tuple[HttpUrl, ...] = Field(min_length=1)
    chain_id: int = Field(gt=0)
    confirmations: int | None = Field(default=None, ge=1)
    """Blocks above one that make it final; None: what the node calls finalized."""
    max_fee_gwei: int = Field(default=500, ge=1)
    """Per gas. Above it nothing is sent."""
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    """For one answer of a node."""


class NoChainSettings(_Part):
    """Nothing is anchored, so a rollback is noticed by nobody."""

    kind: Literal["none"]


class DevAuthoritySettings(_Part):
    """The embedded development authority. It proves nothing to anybody else."""

    kind: Literal["dev"]


class HttpAuthoritySettings(_Part):
    """A timestamp authority behind a URL (RFC 3161 3.4). Paths are relative to the home."""

    kind: Literal["http"]
    url: HttpUrl
    root: FilePath
    """Its root certificate, PEM or DER."""
    policy: str = Field(pattern=r"^[0-2](\.(0|[1-9][0-9]*))+$", max_length=128)
    """The policy OID that its tokens must name."""
    subject: str = Field(min_length=1, max_length=1000)
    """The subject of its TSA certificate, as 'holdfast verify' prints it."""
    certificates: tuple[FilePath, ...] = ()
    """Those of its path that it does not send along."""
    crl_urls: tuple[HttpUrl, ...] = ()


class AlarmSettings(_Part):
    """What 'holdfast status' warns of, as durations such as 90m, 24h or 7d."""

    anchor_lag: Duration = "24h"
    """A checkpoint without a final anchor, or an anchor on its way, for so long."""
    token_age: Duration = "24h"  # noqa: S105  (no secret: a duration)
    """The newest token this old, while the newest checkpoint lacks one."""
    blind: Duration = "24h"
    """An entry without a final anchor, by the time that it claims."""


class TimestampSettings(_Part):
    """How many authorities are wanted, and how they are asked."""

    k: int = Field(default=1, ge=1, le=16)
    """Independent ones that must have stamped a checkpoint; 'holdfast init' writes it into the home's policy."""
    ask: Literal["all", "k"] = "all"
    """All of them for every checkpoint, or, in their order, only as many as ``k`` takes."""
    parallel: int = Field(default=4, ge=1, le=16)
    """At most so many at a time."""
    patience_s: float = Field(default=120.0, gt=0, le=600)
    """For one authority in one round."""


class ServiceLimits(_Part):
    """What a request to 'holdfast serve' may cost."""

    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    max_import_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=1024 * 1024 * 1024)
    """Of a body that holds many documents. It is held in memory until it is written."""
    max_documents: int = Field(default=1000, ge=1, le=10_000)
    """Changes in one transaction."""
    requests_a_minute: int = Field(default=6000, ge=1, le=1_000_000)
    """Of one key."""
    threads: int = Field(default=40, ge=2, le=500)
    """Requests that are served at a time. Half of them may wait for changes."""


class ServiceSettings(_Part):
    """How 'holdfast serve' listens. Paths are relative to the home."""

    device: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The device as which the node writes and speaks. None: the home's only one."""
    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    port: int = Field(default=8463, ge=0, le=65_535)
    """0: one that is free."""
    tls_cert: FilePath | None = None
    """PEM, the whole chain."""
    tls_key: FilePath | None = None
    public_url: HttpUrl | None = None
    """The origin that clients sign for, behind a proxy: https://vault.example. None: what they connect to."""
    limits: ServiceLimits = ServiceLimits()
    tenants: Mapping[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")], FilePath] = {}
    """Other homes, by the names under which they are reached: /tenants/NAME/v1. All have one passphrase."""

    @model_validator(mode="after")
    def _check_tls(self) -> ServiceSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        return self


ChainSettings = DevChainSettings | RpcChainSettings | NoChainSettings
AuthoritySettings = DevAuthoritySettings | HttpAuthoritySettings


class Settings(BaseSettings):
    """All settings of one home. Files and ``dev_dir`` are absolute after ``load_settings``."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    format: Literal[1]
    database: DatabaseLocation = Path("vault.db")
    """A file, or a PostgreSQL database. Its text form holds no password."""
    keystore: FilePath = Path("keystore.hfk")
    dev_dir: FilePath
    """Where the development chain and authority live. Never inside the home: a restored home must not restore them."""
    sentinel_dir: FilePath
    """Where the sentinels lie. Never inside the home: a restored home must not restore its own."""
    machine: str | None = Field(default=None, min_length=1, max_length=200)
    """What this machine is called in sentinels; None: the id that the system has for it."""
    unverified: Literal["stop", "continue"] = "stop"
    """When the chain cannot be read: nothing is written, or entries are, each start in new feeds."""
    token_module: FilePath | None = None
    """The PKCS#11 library of the hardware token that holds keys of this home, an absolute path; None: no token."""
    chain: ChainSettings = Field(discriminator="kind")
    timestamps: TimestampSettings = TimestampSettings()
    authorities: tuple[Annotated[AuthoritySettings, Field(discriminator="kind")], ...] = ()
    alarms: AlarmSettings = AlarmSettings()
    service: ServiceSettings = ServiceSettings()

    @model_validator(mode="after")
    def _check_authorities(self) -> Settings:
        names = [one.url if isinstance(one, HttpAuthoritySettings) else one.kind for one in self.authorities]
        if len(set(names)) != len(names):
            raise ValueError("authorities: one of them stands there twice")
        if names and self.timestamps.k > len(names):
            raise ValueError(f"timestamps.k is {self.timestamps.k}, and there are {len(names)} authorities")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load_settings`` passes: this class looks at no environment and no file by itself."""
        return (init_settings,)


class _Environment(EnvSettingsSource):
    """Reads settings from a mapping that stands for the environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = {name.lower(): value for name, value in environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON, read within bounds: some libraries lift Python's own, and deep nesting would end the process."""
        if NoDecode in field.metadata:
            return value
        return parse_json(str(value).encode("utf-8", "surrogateescape"), what=field_name, max_bytes=MAX_FILE_BYTES)


def find_home(named: Path | None, environ: Mapping[str, str]) -> Home:
    """The home that was named, else HOLDFAST_HOME, else the user's own."""
    if named is None and (variable := environ.get("HOLDFAST_HOME")):
        named = Path(variable)
    return Home(_absolute(named or _user_directory(environ, "XDG_DATA_HOME", ".local/share") / "holdfast"))


def dev_directory(environ: Mapping[str, str]) -> Path:
    """Where the development chain and authority of a home that does not exist yet will be.

    Raises ``ConfigurationError`` when HOLDFAST_DEV_DIR is not an absolute path.
    """
    variable = environ.get("HOLDFAST_DEV_DIR")
    return _dev_dir(Path(variable)) if variable else _default_dev_dir(environ)


def _default_dev_dir(environ: Mapping[str, str]) -> Path:
    return _user_directory(environ, "XDG_STATE_HOME", ".local/state") / "holdfast" / "dev"


def load_settings(home: Home, environ: Mapping[str, str]) -> Settings:
    """Read ``home``'s settings.

    Raises ``NewerFormat`` for a home of a newer holdfast, and ``ConfigurationError`` for everything else that is wrong.
    """
    try:
        text = read_settings_file(home.settings)
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"no home at {home.root}", hint="holdfast init, or name it: --home DIR or HOLDFAST_HOME"
        ) from exc
    return parse_settings(text, home, environ, file=home.settings)


def read_settings_file(file: Path) -> bytes:
    """The bytes of a settings file.

    Raises ``FileNotFoundError`` when there is none, ``ConfigurationError`` when it cannot be read or is too large.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise ConfigurationError(f"cannot read {file}: {exc.strerror}") from exc
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
    return data


def parse_settings(text: bytes, home: Home, environ: Mapping[str, str], *, file: Path) -> Settings:
    """The settings of ``home``, which need not exist yet, from the text of its ``holdfast.toml``.

    ``file`` is where the text stands: errors name it, and certificates that it names by a relative path lie beside it.
    Raises as ``load_settings``.
    """
    written = _parse_toml(text, file)
    _check_format(written, file)
    _check_variables(environ)
    values = {"dev_dir": _default_dev_dir(environ)}
    try:
        given = _merge(values, _merge(written, _Environment(environ)()))
        given.setdefault("sentinel_dir", Path(given["dev_dir"]).parent / "sentinels")
        settings = Settings(**given)
    except (ValidationError, ValueError, MalformedError) as exc:  # the last: a variable that should be JSON
        raise ConfigurationError(f"{file}: {_first_fault(exc)}") from exc
    return _located(settings, home, file.parent)


def default_settings_text(
    chain: Mapping[str, Any], authorities: Sequence[Mapping[str, Any]], *, database: str | None = None
) -> str:
    """The ``holdfast.toml`` of a new home. ``chain`` and ``authorities`` as in the file; None leaves a key out."""
    parts = ["# Settings of this home: docs/reference/settings.md.", f"format = {HOME_FORMAT}"]
    parts += [*_toml_lines({"database": database}), ""]
    parts += ["[chain]", *_toml_lines(chain), ""]
    for authority in authorities:
        parts += ["[[authorities]]", *_toml_lines(authority), ""]
    return "\n".join(parts)


def _parse_toml(data: bytes, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{file}: not TOML: {exc}") from exc


def _check_format(written: Mapping[str, Any], file: Path) -> None:
    """Before anything else is looked at: what else a newer file holds is not ours to judge."""
    number = written.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigurationError(f"{file}: 'format' is missing, or is not the number of a format")
    if number > HOME_FORMAT:
        raise NewerFormat(f"{file.parent} has format {number}; this holdfast knows up to {HOME_FORMAT}")


def _check_variables(environ: Mapping[str, str]) -> None:
    fields = set(Settings.model_fields) - {"format"}
    for name in environ:
        if name.startswith(_PREFIX) and name not in _NOT_SETTINGS:
            field = name.removeprefix(_PREFIX).partition("__")[0].lower()
            if field not in fields:
                raise ConfigurationError(f"{name} is no setting of holdfast", hint="docs/reference/settings.md")


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        inner = merged.get(name)
        merged[name] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _located(settings: Settings, home: Home, beside: Path) -> Settings:
    """With absolute paths, those of certificates in ``beside``; a development directory inside the home is refused."""
    dev_dir = _dev_dir(settings.dev_dir)
    if dev_dir.resolve().is_relative_to(home.root.resolve()):
        raise ConfigurationError(
            f"the development directory {dev_dir} lies inside the home: a restored home would restore its own chain",
            hint="set dev_dir, or HOLDFAST_DEV_DIR, to a place outside",
        )
    sentinel_dir = _sentinel_dir(settings.sentinel_dir)
    if sentinel_dir.resolve().is_relative_to(home.root.resolve()):
        raise ConfigurationError(
            f"the directory of sentinels {sentinel_dir} lies inside the home: a restored home would restore its own",
            hint="set sentinel_dir, or HOLDFAST_SENTINEL_DIR, to a place outside",
        )
    return settings.model_copy(
        update={
            "database": _located_database(settings.database, home),
            "keystore": home.root / settings.keystore,
            "dev_dir": dev_dir,
            "sentinel_dir": sentinel_dir,
            "authorities": tuple(_located_authority(authority, beside) for authority in settings.authorities),
            "service": _located_service(settings.service, home),
        }
    )


def _located_database(location: StoreLocation, home: Home) -> StoreLocation:
    return home.root / location if isinstance(location, Path) else location


def _located_service(service: ServiceSettings, home: Home) -> ServiceSettings:
    files = {name: getattr(service, name) for name in ("tls_cert", "tls_key")}
    return service.model_copy(
        update={
            **{name: None if path is None else home.root / path for name, path in files.items()},
            "tenants": {name: home.root / path.expanduser() for name, path in service.tenants.items()},
        }
    )


def _located_authority(authority: AuthoritySettings, beside: Path) -> AuthoritySettings:
    if isinstance(authority, DevAuthoritySettings):
        return authority
    certificates = tuple(beside / path for path in authority.certificates)
    return authority.model_copy(update={"root": beside / authority.root, "certificates": certificates})


def _user_directory(environ: Mapping[str, str], variable: str, default: str) -> Path:
    """A base directory of the XDG specification, which says to ignore one that is not absolute."""
    base = Path(environ.get(variable, ""))
    return base if base.is_absolute() else Path.home() / default


def _dev_dir(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ConfigurationError(f"the development directory {path} is not an absolute path")
    return path


def _sentinel_dir(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute():
        raise ConfigurationError(f"the directory of sentinels {path} is not an absolute path")
    return path


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _first_fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error).partition("\n")[0]
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _toml_lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_toml_value(value)}" for name, value in values.items() if value is not None]


def _toml_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(_toml_value(item) for item in value)}]"
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in str(value))
    return f'"{escaped}"'
