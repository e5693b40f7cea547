"""What the instruments are asked.

Every provider on one shape, the bars, searches on busy processors, growth, a build larger than
memory may be, two commits.
"""
