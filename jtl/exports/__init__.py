"""A trained classifier in the forms of other libraries, each run and compared before it is done."""
