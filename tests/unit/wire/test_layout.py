"""Origin layout 1."""

from __future__ import annotations

from hotstart.wire import layout


def test_keys_are_as_designed() -> None:
    """Every key of layout 1 lies where the design says, and never moves."""
    assert layout.index_key("org/bert") == "org/bert/.hotstart/index.json"
    assert layout.version_prefix("org/bert", "7") == "org/bert/7/"
    assert layout.file_key("org/bert", "7", "1_Pooling/config.json") == "org/bert/7/1_Pooling/config.json"
    assert layout.begin_key("org/bert", "7") == "org/bert/7/.hotstart/begin.json"
    assert layout.manifest_key("org/bert", "7") == "org/bert/7/.hotstart/manifest.json"
    assert layout.twins_key("org/bert", "7", ".zst") == "org/bert/7/.hotstart/twins-zst.json"
