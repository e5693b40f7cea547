"""flashmatch under the names of other libraries: each module stands in for one of them.

A module imports the library that it stands in for only where it must return that library's own
objects; searching never needs it.
"""
