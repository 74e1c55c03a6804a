"""What gpu.sh runs on a device: one module a stage, each with a part of the result that grows row by row."""
