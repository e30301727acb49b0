"""From Relax modules to machine code."""
