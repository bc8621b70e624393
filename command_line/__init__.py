"""What `train.py` is made of: the experiment's command line, its short names, its help, and its errors."""
