"""Compile Anchor.vy into anchor.json: ``python -m anchoring.contracts.build``.

For developers, with Vyper of the version that the source's pragma names. What is shipped and run is anchor.json; a test
compiles the source again and compares.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

__all__ = ["build", "main"]

_DIRECTORY = Path(__file__).parent


def build(source: str) -> dict[str, Any]:
    """The contents of anchor.json for a contract's source text."""
    import vyper
    from vyper.compiler import compile_code

    formats = ["abi", "bytecode", "bytecode_runtime", "layout"]
    compiled = compile_code(source, output_formats=formats)
    return {
        "contract": "Anchor",
        "compiler": f"vyper {vyper.__version__}",
        "evm_version": "cancun",
        "source_sha256": sha256(source.encode()).hexdigest(),
        "code_hash": keccak(bytes.fromhex(compiled["bytecode_runtime"].removeprefix("0x"))).hex(),
        "storage_layout": compiled["layout"]["storage_layout"],
        "abi": compiled["abi"],
        "bytecode": compiled["bytecode"].removeprefix("0x"),
        "runtime": compiled["bytecode_runtime"].removeprefix("0x"),
    }


def main() -> None:
    """Write anchor.json beside the source."""
    artifact = build((_DIRECTORY / "Anchor.vy").read_text(encoding="utf-8"))
    text = json.dumps(artifact, indent=2) + "\n"
    (_DIRECTORY / "anchor.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
