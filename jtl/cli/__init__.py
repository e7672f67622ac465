"""What all commands share: parsing, help, and errors as one message and an exit code."""
