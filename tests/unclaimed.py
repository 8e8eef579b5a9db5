"""Text cells that read an output and have no claim: chapter -> cell id -> why no number
can check them. A short list: the tests allow half of a chapter's readings at most, and
few have any.
"""

from __future__ import annotations

UNCLAIMED: dict[str, dict[str, str]] = {
    "17": {"how-much": "its numbers are Imagen's, and nothing above measures them"},
    "18": {
        "live-shapes-reading": "looks at four scenes; the oracle counts a hundred of them below",
    },
    "19": {
        "feed": "its distances are the paper's; the figure that it announces comes after it"
    },
    "24": {"activations-read": "names three ways out that this chapter doesn't take"},
}
