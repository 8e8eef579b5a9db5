"""dalle2_edu: a textbook that runs, from GAN to DALL·E 2 and what came after.

from dalle2_edu import UnCLIP
unclip = UnCLIP.from_zoo("emoji")
pictures = unclip.text_to_image(["rocket", "火箭"], seed=0)     # (2, 3, 128, 128) in [-1, 1]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalle2_edu.interop.glide import load_glide
    from dalle2_edu.interop.karlo_files import load_karlo
    from dalle2_edu.unclip.pipeline import UnCLIP

__all__ = ["UnCLIP", "load_glide", "load_karlo"]

HOMES = {
    "UnCLIP": "dalle2_edu.unclip.pipeline",
    "load_glide": "dalle2_edu.interop.glide",
    "load_karlo": "dalle2_edu.interop.karlo_files",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that the command line's --help
    does not wait for torch.
    """
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
