"""[faces] Writes the contract's files: `python -m agent.faces` in a checkout."""

import json
from pathlib import Path

from agent.faces import asyncapi, openapi, openapi_cloud
from agent.faces.schemas import schemas
from agent.faces.yaml import to_yaml


def written_files() -> dict[str, str]:
    """Path from the checkout's root → text."""
    made = {
        f"docs/schemas/{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in schemas().items()
    }
    note = "# Written by `python -m agent.faces` from the code's types; changes made here are lost.\n"
    made["docs/asyncapi.yaml"] = note + to_yaml(asyncapi.document())
    made["docs/openapi.yaml"] = note + to_yaml(openapi.document())
    made["docs/openapi-cloud.yaml"] = note + to_yaml(openapi_cloud.document())
    return made


def main() -> None:
    """Write each file."""
    root = Path(__file__).resolve().parents[2]
    for name, text in written_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
