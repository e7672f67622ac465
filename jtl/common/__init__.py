"""What every room uses: errors, files, hashes, folders, memory. Imports nothing else of jtl."""
