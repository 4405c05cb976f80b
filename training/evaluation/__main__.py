"""`python -m training.evaluation`: evaluate a checkpoint, see solids.evaluate."""

from training.evaluation.solids.evaluate import main

if __name__ == "__main__":
    main()
