"""Runs `python -m jtl.export`."""

from jtl.common import memory

if __name__ == "__main__":
    memory.restart_with_huge_pages()  # Before the slow imports.
    from jtl.export.command import main

    main()
