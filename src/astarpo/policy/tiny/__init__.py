"""The embedded model: a Qwen2 architecture of 0.3 to 1 million parameters, its tokenizer, and its shipped weights."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""One Hugging Face model folder for every warm start that ships."""


def shipped() -> list[str]:
    """Names of the warm starts that ship, for example "arithmetic" and "webshop-weak"."""
    return sorted(folder.name for folder in WEIGHTS.iterdir() if (folder / "config.json").exists())


def folder(environment: str, variant: str = "") -> Path | None:
    """The shipped weights for `environment`, or None where there are none."""
    found = WEIGHTS / (f"{environment}-{variant}" if variant else environment)
    return found if (found / "config.json").exists() else None
