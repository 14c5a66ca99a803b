"""The contract of methods and data sets as tests, for those who write one.

Needs pytest: the extra ``test``.
"""

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError("lora_cl.testing needs pytest: pip install 'lora-cl[test]'") from None

# A failed assertion then shows the values, as in a test file.
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in ("contract", "sources")))

from lora_cl.testing.contract import method_contract  # noqa: E402
from lora_cl.testing.sources import source_contract  # noqa: E402

__all__ = ["method_contract", "source_contract"]
