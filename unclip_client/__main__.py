"""Run `python -m unclip_client`, the same as the command `unclip`."""

from unclip_client.cli import main

if __name__ == "__main__":
    main()
