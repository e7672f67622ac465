"""What every room uses: errors, files, folders, memory, signals. Imports nothing else of jtl."""
