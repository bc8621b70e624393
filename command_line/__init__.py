"""The parts of `train.py`: the experiment's command line, its short names, its help, and its errors."""
