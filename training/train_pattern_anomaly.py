"""`python -m training.train_pattern_anomaly`: a pattern model from a file or its history; see --help."""

import sys

from training.command_line import main

if __name__ == "__main__":
    sys.exit(main("pattern"))
