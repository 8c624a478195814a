"""`python -m training.train_timeliness_anomaly`: a timeliness model from a file or its history; see --help."""

import sys

from training.command_line import main

if __name__ == "__main__":
    sys.exit(main("timeliness"))
