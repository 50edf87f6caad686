"""Adapters to other libraries, each importing its library only when it is imported itself."""
