"""The embedded pack: real pretrained weights that come inside packages, for a machine with no hub."""
