"""`python -m training.export RUN`, or `merge RUN` or `illustrated RUN`.

The first exports and measures a run on synthetic scenes, see default_checkpoint. The second exports
a run on images and texts without measuring it, see merge. The third exports and measures a run of
the illustrated world, see illustrated_checkpoint.
"""

import sys

from training.export import default_checkpoint, illustrated_checkpoint, merge

if __name__ == "__main__":
    if sys.argv[1:2] == ["merge"]:
        merge.main(sys.argv[2:])
    elif sys.argv[1:2] == ["illustrated"]:
        illustrated_checkpoint.main(sys.argv[2:])
    else:
        default_checkpoint.main(sys.argv[1:])
