"""Compare the recorded part of vLLM's API with an installed vLLM, without importing it.

``python -m tests.clients.vllm_api FOLDER``: FOLDER holds the package ``vllm``, as ``pip install --no-deps
--target FOLDER vllm`` leaves it. Prints what differs; the exit status is 1 if anything does.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

RECORDED = Path(__file__).with_name("vllm_recorded")
# What the load format reads of vLLM's objects, by the file that defines it.
ATTRIBUTES = {
    "vllm/config/model.py": ("model", "model_weights", "revision"),
    "vllm/config/load.py": ("load_format", "safetensors_load_strategy"),
}


def signatures(source: str) -> Iterator[tuple[str, list[str]]]:
    """Yield names of functions and methods, with their arguments; and of classes, with their bases."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, [argument.arg for argument in node.args.args]
        elif isinstance(node, ast.ClassDef):
            yield node.name, [ast.unparse(base) for base in node.bases]
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    abstract = any("abstractmethod" in ast.unparse(item) for item in method.decorator_list)
                    arguments = [argument.arg for argument in method.args.args]
                    yield f"{node.name}.{method.name}{' (abstract)' if abstract else ''}", arguments
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield ast.unparse(node.targets[0]), [repr(node.value.value)]


def fields(source: str) -> set[str]:
    """Return the names that classes of a module declare with a type."""
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    declared = [item for node in classes for item in node.body if isinstance(item, ast.AnnAssign)]
    return {ast.unparse(item.target) for item in declared}


def differences(installed: Path) -> list[str]:
    """Return what of the recorded API is not so in an installed vLLM."""
    found = []
    for recorded in sorted(RECORDED.rglob("*.py")):
        path = recorded.relative_to(RECORDED)
        real = dict(signatures((installed / path).read_text()))
        for name, arguments in signatures(recorded.read_text()):
            if not name.startswith("_LOADERS") and real.get(name) != arguments:
                found.append(f"{path}: {name} has {arguments} here and {real.get(name)} in vLLM")
        ours = {name for name, _ in signatures(recorded.read_text())}
        found += [
            f"{path}: {name} is not here" for name in real if name.endswith("(abstract)") and name not in ours
        ]
    for file, names in ATTRIBUTES.items():
        missing = set(names) - fields((installed / file).read_text())
        found += [f"{file}: no field {name}" for name in sorted(missing)]
    return found


def main(installed: str) -> int:
    """Print what differs; return the exit status."""
    found = differences(Path(installed))
    print("\n".join(found) or "vLLM's API is as recorded")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
