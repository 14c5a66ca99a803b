"""The command ``lora-cl``: what each command asks for, and how it answers."""

from lora_cl.cli.interrupts import leave_at_once, listen


def main() -> None:
    """The entry point; it hears Ctrl-C before the long imports begin."""
    listen(leave_at_once)
    from lora_cl.cli import commands

    commands.main()
