"""The C++ library that runs artifacts, and the folder to build against it."""
