"""One kind of group each: when a kernel applies, what layouts it wants, and how it is written."""
