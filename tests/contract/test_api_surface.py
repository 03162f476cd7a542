"""What clients build on: routes, their parameters and answers. A deliberate change is recorded with

ROLLWAY_RECORD=1 .venv/bin/python -m pytest tests/contract/test_api_surface.py
"""

import json
import os
from pathlib import Path
from typing import Any

from controlplane.app import create_app
from controlplane.settings import Settings
from tests.service.scripted import ScriptedCluster

HERE = Path(__file__).parent
RECORDED = HERE / "api_surface.json"


def surface() -> dict[str, Any]:
    app = create_app(
        Settings(HERE, None, None, None, "127.0.0.1", 0, None, HERE),
        database_url="postgresql://nobody@127.0.0.1:1/none",
        api_key="key",
        cluster=ScriptedCluster(),
        public_url="http://api.test",
    )
    document = app.openapi()
    operations = {
        f"{method.upper()} {path}": _operation(operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    views = {
        name: {field: _type(schema) for field, schema in content.get("properties", {}).items()}
        for name, content in document["components"]["schemas"].items()
        if name.endswith(("View", "Page"))
    }
    return {"operations": dict(sorted(operations.items())), "views": dict(sorted(views.items()))}


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": sorted(f"{each['in']} {each['name']}" for each in operation.get("parameters", ())),
        "body": sorted(operation.get("requestBody", {}).get("content", {})),
        "answers": sorted(operation["responses"]),
        "secured": bool(operation.get("security")),
    }


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(_type(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list[{_type(schema['items'])}]"
    return str(schema.get("format") or schema.get("type") or "any")


def test_the_api_is_the_one_that_clients_were_promised() -> None:
    found = surface()
    if os.environ.get("ROLLWAY_RECORD"):
        RECORDED.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(RECORDED.read_text())


def test_every_route_but_the_probes_asks_for_a_key() -> None:
    open_to_all = {name for name, operation in surface()["operations"].items() if not operation["secured"]}
    assert open_to_all <= {"GET /healthz", "GET /readyz"}
