"""Where bytes lie: a folder, or a prefix of a bucket, behind one small protocol."""

from curate.base.store.places import Store, StoreError, join, storable, store_of
from curate.base.store.protocol import Changed, Entry, is_remote, locate, shown

__all__ = ["Changed", "Entry", "Store", "StoreError", "is_remote", "join", "locate", "shown", "storable", "store_of"]
