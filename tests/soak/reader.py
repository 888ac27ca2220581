"""One reader of a soak, as a program: loads and reads at random, compares, and prints a JSON line for each.

python -m tests.soak.reader TRUTH SEED RAW PROXY ... reads from these proxies until it is told to end. RAW is
1 where bytes may be compared without the client, because nobody damages what these proxies store.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from safetensors.numpy import load_file

import hotstart
from tests.soak.truth import CONFIG, WEIGHTS, stamp_of, versions
from tests.support.models import fingerprint

_ALIASES = ("prod", "canary", "latest")
_TIERS = ("premium", "standard", "batch")


class Wrong(Exception):
    """Bytes that were not published came back as if they had been."""


def load(rng: random.Random, truth: Path, proxy: str, reference: str) -> str:
    """Load weights and configuration of one version through the client; both must be that version's."""
    model = hotstart.open(reference, proxy=proxy, origin="", fallback="", shared_dir="")
    stamp = stamp_of(model.model, model.version)
    folder = truth / model.model / model.version
    if json.loads(model.read(CONFIG))["stamp"] != stamp:
        raise Wrong(f"the configuration of another version than {stamp}")
    found = model.load(verify=rng.choice(("pieces", "full")))
    if fingerprint(found) != fingerprint(load_file(folder / WEIGHTS)):
        raise Wrong(f"other weights than those of {stamp}")
    return "load"


def read_range(rng: random.Random, truth: Path, proxy: str, model: str, version: str) -> str:
    """Read a range by plain HTTP; it must be those bytes of that version."""
    file = rng.choice((WEIGHTS, WEIGHTS, CONFIG))
    expected = (truth / model / version / file).read_bytes()
    start = rng.randrange(len(expected))
    stop = min(len(expected), start + rng.choice((1, 1000, 5_000_000)))
    connection = http.client.HTTPConnection(urlsplit(proxy).netloc, timeout=30)
    try:
        headers = {
            "Range": f"bytes={start}-{stop - 1}",
            "Hotstart-Redirect": "no",
            "X-Latency-Tier": rng.choice(_TIERS),
        }
        connection.request("GET", f"/v1/models/{model}@{version}/{file}", headers=headers)
        answer = connection.getresponse()
        data = answer.read()
    except http.client.IncompleteRead as error:
        data, answer = error.partial, None
    finally:
        connection.close()
    if answer is not None and answer.status != 206:
        return f"status {answer.status}"
    if data != expected[start : start + len(data)] or (answer is not None and len(data) != stop - start):
        raise Wrong(f"other bytes than {start}-{stop - 1} of {model}@{version}/{file}")
    return "range" if answer is not None else "cut"


def read_once(rng: random.Random, truth: Path, proxies: list[str], *, raw: bool) -> dict[str, object]:
    """Read something, and return what came of it."""
    models = [f"soak/{path.name}" for path in (truth / "soak").iterdir()]
    model, proxy = rng.choice(models), rng.choice(proxies)
    known = versions(truth, model)
    version = rng.choice(known[-6:])
    began = time.monotonic()
    outcome: dict[str, object]
    try:
        if raw and proxy.startswith("http") and rng.random() < 0.4:
            outcome = {"outcome": read_range(rng, truth, proxy, model, version)}
        else:
            selector = rng.choice((*_ALIASES, version))
            outcome = {"outcome": load(rng, truth, proxy, f"{model}@{selector}")}
    except Wrong as error:
        outcome = {"outcome": "WRONG", "detail": str(error)}
    except hotstart.IntegrityError as error:
        # Damage was found, and nothing given back.
        outcome = {"outcome": "damage refused", "detail": str(error)}
    except (hotstart.HotstartError, OSError, http.client.HTTPException) as error:
        outcome = {"outcome": type(error).__name__, "detail": str(error)[:500]}
    return {**outcome, "proxy": proxy, "model": model, "seconds": round(time.monotonic() - began, 3)}


def main() -> int:
    """Read until SIGTERM."""
    truth, seed, raw, proxies = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1", sys.argv[4:]
    rng = random.Random(seed)
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ending.append(number))
    while not ending:
        print(json.dumps(read_once(rng, truth, proxies, raw=raw)), flush=True)
        time.sleep(rng.uniform(0, 0.2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
