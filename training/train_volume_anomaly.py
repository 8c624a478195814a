"""`python -m training.train_volume_anomaly`: a volume model from a file or its history; see --help."""

import sys

from training.command_line import main

if __name__ == "__main__":
    sys.exit(main("volume"))
