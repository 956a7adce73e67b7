"""The embedded pack: pretrained weights inside packages, for machines without access to the hub."""
