"""The kinds of places that corpora are downloaded from."""
