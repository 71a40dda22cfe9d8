"""``python -m edgepress``, which launchers of several processes start."""

from edgepress.cli import main

if __name__ == "__main__":
    main()
