"""What rta can do on this machine. `python -m benchmarks` runs all of it, each module runs alone too."""
