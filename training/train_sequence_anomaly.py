"""`python -m training.train_sequence_anomaly`: a sequence model from a file or its history; see --help."""

import sys

from training.command_line import main

if __name__ == "__main__":
    sys.exit(main("sequence"))
