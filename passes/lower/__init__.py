"""From operators to loop nests."""
