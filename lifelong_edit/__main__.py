"""`python -m lifelong_edit` is the command line."""

from lifelong_edit.cli.main import main

if __name__ == "__main__":
    main()
