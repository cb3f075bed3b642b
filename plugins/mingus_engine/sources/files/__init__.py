"""Trees of files: walked in the order of their paths, read so that what changes meanwhile is known to have changed.

``walk``     what is there, with the rules of the set (include, exclude, mounts, links)
``reading``  contents with their attributes
``chunking`` where contents are cut
``findings`` what was not as it should be
``checks``   what that means: alarms
"""
