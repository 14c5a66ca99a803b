"""A backbone of another package, with torch's own encoder and its packed attention."""

from torch import nn

from lora_cl.models import Backbone
from lora_cl.options import OptionsBase


class EncoderOptions(OptionsBase):
    width: int = 8


class Encoder(Backbone):
    """(N, 1, 16, 16) -> (N, width): rows of an image are tokens."""

    Options = EncoderOptions
    summary = "torch's transformer encoder on the rows of an image"

    def __init__(self, options, input_shape):
        super().__init__()
        width = options.width
        self.embed = nn.Linear(input_shape[2], width)
        layer = nn.TransformerEncoderLayer(width, 2, width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        return self.encoder(self.embed(x.squeeze(1))).mean(1)
