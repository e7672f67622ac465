"""What the tests share: small models and data, commands, peers, and programs to start."""
