"""`python -m vtok_codec` is `vtok`."""

from vtok_codec.cli.app import main

if __name__ == "__main__":
    main()
