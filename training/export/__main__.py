"""`python -m training.export RUN` or `python -m training.export merge RUN`.

The first exports and measures a run on synthetic scenes, see default_checkpoint. The second exports
any other run without measuring it, see merge.
"""

import sys

from training.export import default_checkpoint, merge

if __name__ == "__main__":
    if sys.argv[1:2] == ["merge"]:
        merge.main(sys.argv[2:])
    else:
        default_checkpoint.main(sys.argv[1:])
