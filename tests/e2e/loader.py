"""What a function does, as a program: load a reference, and print what was loaded and from where, as JSON."""

from __future__ import annotations

import json
import sys

import hotstart
from tests.support.models import fingerprint


def main() -> int:
    """Load the reference in the first argument; exit status 1 and the error's text if that cannot be."""
    try:
        weights = hotstart.load(sys.argv[1], framework="numpy")
    except hotstart.HotstartError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"version": weights.version, "tensors": len(weights), "digest": fingerprint(weights)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
