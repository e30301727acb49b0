"""What the commands show: tables and summaries."""
