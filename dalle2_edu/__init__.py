"""dalle2_edu: a textbook that runs, from GAN to DALL·E 2 and what came after.

from dalle2_edu import UnCLIP
pictures = UnCLIP.from_zoo("emoji").text_to_image(["rocket", "火箭"], seed=0)   # (2, 3, 128, 128) in [-1, 1]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalle2_edu.unclip.pipeline import UnCLIP

__all__ = ["UnCLIP"]


def __getattr__(name: str) -> Any:
    """Import UnCLIP when it is asked for, so that the command line's --help does not wait for
    torch.
    """
    if name == "UnCLIP":
        from dalle2_edu.unclip.pipeline import UnCLIP

        return UnCLIP
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
