"""Models that TVM's tensors cannot express whole: loops, sequences, optionals, strings, randomness.

They become a program: steps that Python runs on the host, with everything between them in pieces
that are compiled like models of their own.
"""
