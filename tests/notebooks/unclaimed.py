"""Text cells that read an output and have no claim: chapter -> cell id -> reason.

UNCLAIMED: no number can check them, and the reason says why. WAITING: a claim is still to be
written; this list only gets shorter."""

from __future__ import annotations

UNCLAIMED: dict[str, dict[str, str]] = {}

WAITING: dict[str, tuple[str, ...]] = {}
