"""What is on disk: run folders, event logs, and the numbers in them. Needs no torch."""
