"""Many runs: side by side, and searched for the best settings."""
