"""The only reader of untrusted pickles, archives, arrays and weights.

Nothing that a file holds is run, and no file takes much more time or memory than its size
warrants: `limits` says how much.
"""
