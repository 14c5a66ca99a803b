"""Choosing the values of options by trials that see no test sample."""

from lora_cl.tuning.tuner import Tuning, tune
from lora_cl.tuning.writing import tuned_yaml

__all__ = ["Tuning", "tune", "tuned_yaml"]
