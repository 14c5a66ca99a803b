"""The contract of methods and data sets as tests, for those who write one. Needs pytest."""

from lora_cl.testing.contract import method_contract
from lora_cl.testing.sources import source_contract

__all__ = ["method_contract", "source_contract"]
