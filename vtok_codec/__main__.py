"""`vtok`, which is also `python -m vtok_codec`."""

import os


def main() -> None:
    """Entry point: an interrupt is one line from the first import on."""
    try:
        from vtok_codec.cli.app import main as run

        run()
    except KeyboardInterrupt:
        os.write(2, b"vtok: interrupted\n")
        os._exit(130)


if __name__ == "__main__":
    main()
