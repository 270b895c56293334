"""``python -m mmetris``: the console command, where its script is not on the path."""

from mmetris.cli import main

if __name__ == '__main__':
    main()
