"""Other libraries doing the same work, in turns with kgfast: `python -m benchmarks.peers --data FOLDER`."""
