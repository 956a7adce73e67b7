"""What only a GPU can show: `make gpu-check`, at most eight minutes on a machine with one NVIDIA GPU. See docs/benchmarks.md."""
