"""`vtok`, which is also `python -m vtok_codec`."""

import os


def main() -> None:
    """Entry point: an interrupt is one line from the first import on."""
    # NumPy's threads would spin while they wait, and take the cores from the model.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from vtok_codec.cli.app import main as run

        run()
    except KeyboardInterrupt:
        os.write(2, b"vtok: interrupted\n")
        os._exit(130)


if __name__ == "__main__":
    main()
