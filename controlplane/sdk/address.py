"""Where the API is, and the key it asks for."""

import json
import os
from dataclasses import dataclass

from controlplane.sdk.errors import NotReachable
from controlplane.settings import Settings


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    api_key: str
    advice: str = ""
    """What to do when nothing answers there, to be put behind an error."""


def find_address(url: str | None = None, api_key: str | None = None) -> Address:
    """What is given, else ``ROLLWAY_URL`` and ``ROLLWAY_API_KEY``, else what ``rollway up`` left in the home.

    Raises NotReachable, which says how to go on."""
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        raise NotReachable(str(error)) from error
    url, advice = url or os.environ.get("ROLLWAY_URL"), ""
    if not url:
        url, advice = _url_of_home(settings), "; 'rollway up' starts what is down"
    api_key = api_key or os.environ.get("ROLLWAY_API_KEY") or _key_of_home(settings)
    if not url.startswith(("http://", "https://")):
        raise NotReachable(f"the API's URL must begin with http:// or https://, not {url!r}: see ROLLWAY_URL")
    if not (api_key.isascii() and api_key.isprintable()):
        raise NotReachable("the API key holds characters that no header can carry: see ROLLWAY_API_KEY")
    return Address(url.rstrip("/"), api_key, advice)


def _url_of_home(settings: Settings) -> str:
    path = settings.home / "endpoint.json"
    try:
        return str(json.loads(path.read_text())["url"])
    except (OSError, ValueError, KeyError):
        raise NotReachable(
            f"no Rollway is up in {settings.home}: start one with 'rollway up', or set ROLLWAY_URL"
        ) from None


def _key_of_home(settings: Settings) -> str:
    try:
        return settings.api_key_path.read_text().strip()
    except OSError:
        raise NotReachable(f"no API key in {settings.api_key_path}: set ROLLWAY_API_KEY") from None
