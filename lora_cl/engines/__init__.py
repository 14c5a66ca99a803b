"""Many runs: where they are done, and in what order."""
