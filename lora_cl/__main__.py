"""``python -m lora_cl`` is the command ``lora-cl``."""

from lora_cl.cli import main

if __name__ == "__main__":
    main()
