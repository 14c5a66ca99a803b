"""The option ``weights`` of networks for images, where it names a file."""

from __future__ import annotations

from lora_cl.data.weights import OwnFile
from lora_cl.errors import ConfigError
from lora_cl.options import user_path
from lora_cl.text import one_line

PICKLES = (".pth", ".pt", ".bin", ".pkl", ".ckpt", ".tar")


def own_file(weights: str | None, published: str) -> OwnFile | None:
    """The file that the option names; None where it is null.

    Raises ConfigError for what is no safetensors file; ``published`` is the other word allowed.
    """
    if weights is None:
        return None
    told = one_line(weights, limit=80)
    try:
        suffix = user_path(weights).suffix.lower()
    except ValueError as error:
        raise ConfigError(str(error), "model.weights") from None
    if suffix in PICKLES:
        raise ConfigError(
            f"{told}: is a pickle, which can run code; only safetensors files are read",
            "model.weights",
        )
    if suffix != ".safetensors":
        raise ConfigError(
            f"{told}: is neither null, nor {published}, nor a .safetensors file", "model.weights"
        )
    return OwnFile(weights)
