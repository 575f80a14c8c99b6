"""`python -m i2pmae` is the same as `i2pmae`."""

from i2pmae.cli import main

if __name__ == "__main__":
    main()
