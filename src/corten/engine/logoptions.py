"""The options of log drivers: which there are, what is refused at create (dockerd's ValidateLogOpts), and rotation.

Texts and rules are facts from moby 26.1, daemon/logger.  Rotation by default (20 MB, 5 files, compressed) is ours, for
json-file: it counts where none of max-size, max-file and compress is given, and stands in the container's record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from corten.engine import logaddress
from corten.errors import InvalidArgument
from corten.spec.units import parse_duration_ns, parse_size
from corten.spec.words import BOOLEANS

Options = Mapping[str, str]

_ATTRIBUTES: Final = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
ROTATION: Final = frozenset({"max-file", "max-size", "compress"})
_SYSLOG: Final = frozenset(
    f"syslog-{word}"
    for word in ("address", "facility", "format", "tls-ca-cert", "tls-cert", "tls-key", "tls-skip-verify")
)
_FLUENTD: Final = frozenset(
    f"fluentd-{word}"
    for word in (
        *("address", "async", "async-connect", "async-reconnect-interval", "buffer-limit", "max-retries"),
        *("request-ack", "retry-wait", "sub-second-precision"),
    )
)
_GELF: Final = frozenset(
    f"gelf-{word}"
    for word in ("address", "compression-level", "compression-type", "tcp-max-reconnect", "tcp-reconnect-delay")
)
_OF_ALL: Final = frozenset(
    {"mode", "max-buffer-size", "cache-disabled", "cache-max-file", "cache-max-size", "cache-compress"}
)
CACHE: Final = _OF_ALL - {"mode", "max-buffer-size"}  # of what is kept beside a remote driver
_OF_DRIVER: Final = {
    "json-file": ROTATION | _ATTRIBUTES,
    "local": ROTATION,
    "syslog": _SYSLOG | _ATTRIBUTES,
    "journald": _ATTRIBUTES,
    "gelf": _GELF | _ATTRIBUTES,
    "fluentd": _FLUENTD | _ATTRIBUTES,
}
FILES: Final = frozenset({"json-file", "local"})  # drivers that keep the log themselves
DRIVERS: Final = ("fluentd", "gelf", "journald", "json-file", "local", "none", "syslog")
_NOT_OURS: Final = frozenset({"awslogs", "gcplogs", "splunk"})  # known to dockerd
_UNKNOWN: Final = {
    "local": "unknown log opt '{}' for log driver local",
    "gelf": 'unknown log opt "{}" for gelf log driver',
}
_MODES: Final = frozenset({"", "blocking", "non-blocking"})

DEFAULT_ROTATION: Final = {"compress": "true", "max-file": "5", "max-size": "20m"}
_LOCAL_ROTATION: Final = {"compress": "true", "max-file": "5", "max-size": str(20 << 20)}


def check(driver: str, options: Options) -> None:
    """Raises InvalidArgument."""
    if driver == "none":
        return
    _check_common(options)
    if driver in _NOT_OURS:
        raise InvalidArgument(f"HostConfig.LogConfig: log driver {driver} is not supported yet")
    if driver not in _OF_DRIVER:
        raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    if driver == "gelf":  # its address first, in dockerd too
        logaddress.gelf(options.get("gelf-address", ""))
    for key in options:
        if key not in _OF_DRIVER[driver] and key not in _OF_ALL:
            text = _UNKNOWN.get(driver, f"unknown log opt '{{}}' for {driver} log driver")
            raise InvalidArgument(text.format(key))
    _CHECKS.get(driver, _nothing)(options)


def _nothing(options: Options) -> None:
    return


def _check_common(options: Options) -> None:
    mode = options.get("mode", "")
    if mode not in _MODES:
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            parse_size(options["max-buffer-size"], 1024)
        except ValueError as error:
            raise InvalidArgument(f"error parsing option max-buffer-size: {error}") from None
    disabled = options.get("cache-disabled", "")
    if disabled and parse_bool(disabled) is None:
        raise InvalidArgument(f"invalid value for option cache-disabled: {disabled}")


def _check_syslog(options: Options) -> None:
    logaddress.syslog(options.get("syslog-address", ""))
    logaddress.facility(options.get("syslog-facility", ""))
    if options.get("syslog-format", "") not in ("", "rfc3164", "rfc5424", "rfc5424micro"):
        raise InvalidArgument("Invalid syslog format")


def _check_gelf(options: Options) -> None:
    scheme, _, _ = logaddress.gelf(options.get("gelf-address", ""))
    for key, value in options.items():
        if key in ("gelf-compression-level", "gelf-compression-type"):
            if scheme != "udp":
                raise InvalidArgument("compression is only supported on UDP")
            levels = {str(level) for level in range(-1, 10)}
            if value not in (levels if key.endswith("level") else {"gzip", "zlib", "none"}):
                raise InvalidArgument(f'unknown value "{value}" for log opt "{key}" for gelf log driver')
        elif key in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
            if scheme != "tcp":
                raise InvalidArgument(f'"{key}" is only valid for TCP')
            if not _is_number(value):
                raise InvalidArgument(f'"{key}" must be a positive integer')


def _check_fluentd(options: Options) -> None:
    address = options.get("fluentd-address", "")
    try:
        logaddress.fluentd(address)
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid fluentd-address ({address}): {error.text}") from error
    _parsed(lambda text: parse_size(text, 1024), options.get("fluentd-buffer-limit", ""))
    _parsed(_duration, options.get("fluentd-retry-wait", ""))
    retries = options.get("fluentd-max-retries", "")
    if retries and not _is_number(retries):
        raise InvalidArgument(f'strconv.ParseUint: parsing "{retries}": invalid syntax')
    if options.get("fluentd-async", "") and options.get("fluentd-async-connect", ""):
        raise InvalidArgument("conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect")
    for key in ("fluentd-async", "fluentd-async-connect", "fluentd-sub-second-precision", "fluentd-request-ack"):
        if options.get(key, ""):
            bool_of(options[key])
    interval = options.get("fluentd-async-reconnect-interval", "")
    if interval:
        try:
            length_ns = _duration(interval)
        except ValueError as error:
            raise InvalidArgument(f"invalid value for fluentd-async-reconnect-interval: {error}") from None
        if length_ns and not 10**8 <= length_ns <= 10 * 10**9:
            text = f'value ("{interval}") must be between 100ms and 10s'
            raise InvalidArgument(f"invalid value for fluentd-async-reconnect-interval: {text}")


_CHECKS: Final[dict[str, Callable[[Options], None]]] = {
    "syslog": _check_syslog,
    "gelf": _check_gelf,
    "fluentd": _check_fluentd,
}


def _parsed(parse: Callable[[str], int], text: str) -> None:
    if not text:
        return
    try:
        parse(text)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def _duration(text: str) -> int:
    try:
        return parse_duration_ns(text)
    except ValueError as error:
        raise ValueError(f'time: {error} duration "{text}"') from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def parse_bool(text: str) -> bool | None:
    """strconv.ParseBool; None where it refuses."""
    return BOOLEANS.get(text)


def bool_of(text: str) -> bool:
    """Raises InvalidArgument in Go's words."""
    value = parse_bool(text)
    if value is None:
        raise InvalidArgument(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return value


def rotation(options: Options) -> tuple[int, int, bool]:
    """json-file: max-size in bytes (-1 for no limit; k is 1000: units.FromHumanSize), max-file, compress."""
    size = -1
    if "max-size" in options:
        size = _size(options["max-size"], "{}")
        if not size:
            raise InvalidArgument("max-size must be a positive number")
    files = _count(options.get("max-file", "1"), "{}")
    if files < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    compress = bool_of(options.get("compress", "false"))
    if compress and (files == 1 or size == -1):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")
    return size, files, compress


def local_rotation(options: Options, prefix: str = "") -> tuple[int, int, bool]:
    """`local`, and what is kept beside a remote driver."""
    given = {key: options.get(f"{prefix}{key}", value) for key, value in _LOCAL_ROTATION.items()}
    size = _size(given["max-size"], f"invalid value for max-size: {given['max-size']}: {{}}")
    files = _count(given["max-file"], f"invalid value for max-file: {given['max-file']}: {{}}")
    try:
        compress = bool_of(given["compress"])
    except InvalidArgument as error:
        raise InvalidArgument(f"error reading compress log option: {error.text}") from error
    if files < 0:
        raise InvalidArgument("max file count cannot be less than 0")
    if compress and files <= 1:
        raise InvalidArgument("compression cannot be enabled when max file count is 1")
    return size, max(1, files), compress


def _size(text: str, words: str) -> int:
    try:
        return parse_size(text, 1000)
    except ValueError as error:
        raise InvalidArgument(words.format(error)) from None


def _count(text: str, words: str) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not _is_number(digits):
        why = "value out of range" if digits.isascii() and digits.isdigit() else "invalid syntax"
        raise InvalidArgument(words.format(f'strconv.Atoi: parsing "{text}": {why}'))
    return int(text)
